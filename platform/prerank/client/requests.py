"""What a caller asks, and the bodies that ask it: as ``docs/serving.md`` describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prerank.client.encoding import (
    JSON,
    RAW,
    Ids,
    Time,
    column,
    encoded,
    ids_of,
    json_call,
    json_ids,
    query_string,
    quoted,
    time_value,
)
from prerank.client.exchange import Call

MAX_URL = 8_000
"""Bytes of a path with its query string that proxies let pass; what is longer goes as JSON."""
MAX_EVENTS = 10_000
MAX_EVENT_BYTES = 30 << 20
"""Of one call; the deployment takes bodies of 32 MiB."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Search:
    """What every kind of ranking may hold.

    Attributes:
        query: the text that the user searched for.
        context: segment -> value, for the segments that the log declared.
        weights: head -> weight; without them, the first head alone.
        request_id: a new one by default. It is the same in every try; send it with the events that
            the ranking leads to.
        time: on a deployment with ``clock: replay``.
        timeout_ms: milliseconds in which the answer is wanted; features that are not read by then
            are left out. At most what is left of the call's ``timeout`` is sent, so ``math.inf``
            sends just that. None: the deployment's.
    """

    query: str
    context: Mapping[str, str | int | bool | None] | None = None
    weights: Mapping[str, float] | None = None
    request_id: str | int = field(default_factory=lambda: uuid4().hex)
    time: Time | None = None
    timeout_ms: float | None = None

    def fields(self, left: float) -> dict[str, Any]:
        """Fields of the JSON form; ``left`` seconds remain for the answer."""
        found = {
            "query": self.query,
            "request_id": self.request_id,
            "context": None if self.context is None else dict(self.context),
            "weights": None if self.weights is None else dict(self.weights),
            "time": None if self.time is None else time_value(self.time),
            "timeout_ms": None if self.timeout_ms is None else min(self.timeout_ms, 1e3 * left),
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, eq=False, kw_only=True)
class QueryRequest(Search):
    """The parts of a request's scores are wanted.

    Attributes:
        user_id: may be unknown to the log.
        versions: numbers of the model versions whose item vectors the caller holds: an experiment
            may then answer with one of them.
    """

    user_id: str | int
    versions: Sequence[str] | None = None

    def call(self, left: float) -> Call:
        """The request as JSON."""
        own: dict[str, Any] = {"user_id": self.user_id}
        if self.versions is not None:
            own["versions"] = list(self.versions)
        return json_call("/v1/query", self.fields(left) | own)


@dataclass(frozen=True, eq=False, kw_only=True)
class RerankRequest(Search):
    """Documents are to be reranked, each of them an item.

    Attributes:
        documents: item ids, all integers or all texts; an item may stand there twice.
        top_n: results to return; None for all.
        user_id: who searches; None for nobody, who has no history.
    """

    documents: Sequence[int] | Sequence[str] | NDArray[np.int64]
    top_n: int | None = None
    user_id: str | int | None = None

    def ids(self) -> Ids:
        """The documents' ids, checked.

        Raises:
            RefusedError: they are of mixed kinds, or of none that an id has.
        """
        return ids_of(self.documents, "documents", str(self.request_id))

    def call(self, ids: Ids, left: float) -> Call:
        """The request as JSON."""
        own = {"documents": json_ids(ids), "top_n": self.top_n, "user_id": self.user_id}
        given = {name: value for name, value in own.items() if value is not None}
        return json_call("/v1/rerank", self.fields(left) | given)


@dataclass(frozen=True, eq=False, kw_only=True)
class RankRequest(Search):
    """The best k of some candidates are wanted.

    Attributes:
        user_id: may be unknown to the log.
        candidates: item ids: integers (best as an int64 array) or texts. On a log with text ids
            send texts; an integer is taken there for the int64 key of an id. None: every item of
            the index, on a log with integer ids.
        exclude: items that are not to be returned.
        exclude_engaged: whether to return no item that is in the user's history.
        k: how many items to return.
        retriever_scores, retriever_ranks: what the retriever gave each candidate, where the model
            was trained with it; None or NaN: nothing.
        candidate_features: name -> a number of each candidate, for the names that the log's mapping
            declared; None or NaN: missing.
        explain: whether the parts of each score are wanted.
    """

    user_id: str | int
    candidates: Sequence[int] | Sequence[str] | NDArray[np.int64] | None = None
    exclude: Sequence[int] | Sequence[str] | NDArray[np.int64] | None = None
    exclude_engaged: bool = False
    k: int = 100
    retriever_scores: ArrayLike | Sequence[float | None] | None = None
    retriever_ranks: ArrayLike | Sequence[float | None] | None = None
    candidate_features: Mapping[str, ArrayLike | Sequence[float | None]] | None = None
    explain: bool = False

    def fields(self, left: float) -> dict[str, Any]:
        """Fields of the JSON form without the candidates and the retriever's."""
        flags = {"explain": self.explain, "exclude_engaged": self.exclude_engaged}
        told = {name: True for name, value in flags.items() if value}
        return super().fields(left) | {"user_id": self.user_id, "k": self.k} | told


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates of a request, checked and as they are sent.

    Attributes:
        ids: int64 [n], or n texts.
        retriever: "score" or "rank" -> float32 [n], NaN: nothing.
        features: the caller's own, by name, likewise.
        exclude: as ``ids``, not to be returned; None for nothing.
        whole: every item of the index is asked for, and ``ids`` is empty.
    """

    ids: Ids
    retriever: Mapping[str, NDArray[np.float32]]
    exclude: Ids | None = None
    whole: bool = False
    features: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(cls, request: RankRequest, where: str = "") -> Candidates:
        """Check those of ``request``; errors begin the field's name with ``where``.

        Raises:
            RefusedError: an id or a value is of no kind that can be sent, or there are not as many
                values as candidates.
        """
        request_id = str(request.request_id)
        whole = request.candidates is None
        ids = ids_of([] if whole else request.candidates, f"{where}candidates", request_id)
        exclude = None
        if request.exclude is not None:
            exclude = ids_of(request.exclude, f"{where}exclude", request_id)
        given = {"score": request.retriever_scores, "rank": request.retriever_ranks}
        columns = {
            name: column(values, len(ids), f"{where}retriever_{name}s", request_id)
            for name, values in given.items()
            if values is not None
        }
        features = {
            name: column(values, len(ids), f"{where}candidate_features.{name}", request_id)
            for name, values in (request.candidate_features or {}).items()
        }
        return cls(ids, columns, exclude, whole, features)

    def call(self, request: RankRequest, left: float) -> Call:
        """The request in its fastest form: ids as raw int64 where they are integers, else JSON."""
        fields = request.fields(left)
        has_raw_form = isinstance(self.ids, np.ndarray) and self.exclude is None and not self.whole
        if has_raw_form and (raw := self._raw(fields)) is not None:
            return raw
        listed: dict[str, Any] = {f"retriever_{n}s": v for n, v in self.retriever.items()}
        if self.features:
            listed["candidate_features"] = dict(self.features)
        if not self.whole:
            listed["candidates"] = json_ids(self.ids)
        if self.exclude is not None:
            listed["exclude"] = json_ids(self.exclude)
        return json_call("/v1/prerank", fields | listed)

    def _raw(self, fields: Mapping[str, Any]) -> Call | None:
        """None: its query string is longer than proxies let pass."""
        shown = {
            name: value if isinstance(value, str) else encoded(value).decode()
            for name, value in fields.items()
        }
        if self.retriever:
            shown["retriever"] = ",".join(self.retriever)
        if self.features:
            shown["candidate_features"] = ",".join(self.features)
        path = f"/v1/prerank?{query_string(shown)}"
        if len(path) > MAX_URL:
            return None
        given = (*self.retriever.values(), *self.features.values())
        columns = [values.astype("<f4").tobytes() for values in given]
        return Call("POST", path, np.asarray(self.ids, "<i8").tobytes() + b"".join(columns), RAW)


@dataclass(frozen=True, kw_only=True)
class Event:
    """An engagement, or an exposure.

    What an event is known by is its ``event_id``; without one, it is made of ``request_id`` (or
    the user, without that), item, action and time. An event that is sent again counts once.

    Attributes:
        action: one of the log's.
        event_time: when it happened.
        query: the search that led to it.
        request_id: of the ranking that led to it.
        event_id: the log's own, where it has one.
        position: the item's place in the list that was shown, from 1.
    """

    user_id: str | int
    item_id: int | str
    action: str
    event_time: Time
    query: str | None = None
    request_id: str | int | None = None
    event_id: str | int | None = None
    position: int | None = None

    def json(self) -> bytes:
        """The event as JSON: the same bytes in every try."""
        found = vars(self) | {"event_time": time_value(self.event_time)}
        return encoded({name: value for name, value in found.items() if value is not None})


def event_calls(events: Sequence[Event]) -> Iterator[tuple[int, Call]]:
    """Calls within the deployment's limits, each with the place of its first event.

    Without events there is one call, which is empty.
    """
    first, held, size = 0, list[bytes](), 0
    for event in events:
        text = event.json()
        if held and (len(held) == MAX_EVENTS or size + len(text) > MAX_EVENT_BYTES):
            yield first, _events(held)
            first, held, size = first + len(held), [], 0
        held.append(text)
        size += len(text) + 1
    yield first, _events(held)


def _events(texts: Sequence[bytes]) -> Call:
    return Call("POST", "/v1/events", b'{"events":[' + b",".join(texts) + b"]}", JSON)


def item_call(item_id: int | str) -> Call:
    """What is known of an item is wanted."""
    # A path's "." and ".." mean folders to who normalises it.
    name = quoted(str(item_id)).replace(".", "%2E")
    return Call("GET", f"/v1/items/{name}")
