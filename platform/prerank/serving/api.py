"""The HTTP contract: what a request may hold, how it is read, what is answered.

Bad input is a ``RequestError`` that names the field and the fix; a caller never sees a
traceback. JSON is the friendly form; the fast one is a body of little-endian int64 candidate ids,
everything else in the query string.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.core.ids import JSON_SAFE, event_id, given_event_id
from prerank.core.times import iso
from prerank.online.history import Event
from prerank.serving.fields import (
    DIGITS,
    Limits,
    RequestError,
    candidates_of,
    context_of,
    count_of,
    excluded_of,
    first_appearances,
    flag_of,
    item_key,
    json_object,
    json_value,
    name_of,
    only_known,
    position_of,
    query_of,
    request_id_of,
    request_time_of,
    shown,
    time_of,
    timeout_of,
    weights_of,
)
from prerank.serving.retriever import RetrieverFeatures, raw_candidates, retriever_of

DEFAULT_K = 100
MAX_EVENTS = 10_000
AHEAD_US = 300_000_000
"""Wall clock: an event may lie this far ahead, for clocks that disagree."""

_FIELDS = {
    "request_id",
    "user_id",
    "query",
    "candidates",
    "exclude",
    "exclude_engaged",
    "k",
    "time",
    "weights",
    "explain",
    "context",
    "retriever_scores",
    "retriever_ranks",
    "timeout_ms",
}
_EVENT_FIELDS = {
    "user_id",
    "item_id",
    "action",
    "event_time",
    "event_id",
    "request_id",
    "query",
    "position",
}


@dataclass(frozen=True)
class PrerankRequest:
    """A request as the scorer wants it.

    Attributes:
        query: normalised.
        keys: int64 [n] distinct candidates, in the order of first appearance.
        whole: every item of the index is a candidate, and ``keys`` is empty.
        exclude: int64 [m], items that are not to be returned.
        exclude_engaged: nor are the items of the user's history.
        originals: int64 key -> the id as the caller sent it; None when the keys are those.
        as_text: the caller sent integer ids as text.
        time_us: microseconds since 1970, of this deployment's clock.
        weights: float32 [H], summing to 1.
        context: value of every segment column in the schema's order, "" where missing.
        retriever_features: what the retriever said of each of ``keys``.
        timeout_ms: time from ``arrived`` in which the answer is wanted; what cannot be read by
            then is left out.
        arrived: when the request was whole, by ``time.monotonic()``.
    """

    request_id: str
    user_id: str
    query: str
    keys: NDArray[np.int64]
    originals: dict[int, int | str] | None
    k: int
    time_us: int
    weights: NDArray[np.float32]
    explain: bool
    as_text: bool = False
    whole: bool = False
    exclude: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    exclude_engaged: bool = False
    context: Mapping[str, str] = field(default_factory=dict)
    retriever_features: RetrieverFeatures = None
    timeout_ms: float = math.inf
    arrived: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        """By when the answer is wanted, by ``time.monotonic()``."""
        return self.arrived + self.timeout_ms / 1e3

    def shown(self, keys: NDArray[np.int64]) -> list[int | str]:
        """``keys`` in the caller's form; as text where JSON would lose digits."""
        found: list[int] = keys.tolist()
        if self.originals is not None:
            return [self.originals[k] for k in found]
        safe = not self.as_text
        return [k if safe and -JSON_SAFE <= k <= JSON_SAFE else str(k) for k in found]


def parse_json(body: bytes, limits: Limits, now_us: int) -> PrerankRequest:
    """Read the JSON form.

    Raises:
        RequestError: naming the field and the fix.
    """
    data = json_object(body)
    request_id = request_id_of(data.get("request_id"))
    only_known(data, _FIELDS)
    whole = "candidates" not in data
    if whole and limits.ids.kind != "integer":
        raise RequestError(
            "candidates",
            "missing: this log's ids are text, so send a list of item ids (it may be empty)",
        )
    ids, retriever_features = retriever_of(data | {"candidates": []} if whole else data, limits)
    keys, originals = candidates_of(ids, limits)
    first = first_appearances(keys)
    explain = flag_of(data.get("explain", False))
    return PrerankRequest(
        request_id=request_id,
        user_id=name_of(data.get("user_id"), "user_id"),
        query=query_of(data.get("query")),
        keys=keys[first],
        originals=originals,
        k=count_of(data.get("k", DEFAULT_K), limits, explain),
        time_us=request_time_of(data.get("time"), limits, now_us),
        weights=weights_of(data.get("weights"), limits.schema),
        explain=explain,
        context=context_of(data.get("context"), limits.schema),
        retriever_features=None if retriever_features is None else retriever_features[first],
        as_text=originals is None and bool(ids) and isinstance(ids[0], str),
        whole=whole,
        exclude=excluded_of(data.get("exclude"), limits),
        exclude_engaged=flag_of(data.get("exclude_engaged", False), "exclude_engaged"),
        timeout_ms=timeout_of(data.get("timeout_ms"), limits),
    )


def parse_raw(
    body: bytes, fields: Mapping[str, str], limits: Limits, now_us: int
) -> PrerankRequest:
    """Read the fast form: ``body`` int64 ids, ``fields`` the query string.

    With ``retriever=score,rank`` (or one of them) a float32 of each follows for every id, column
    by column, NaN for "nothing said". With string ids the body holds their int64 keys, and so does
    the answer.

    Raises:
        RequestError: naming the field and the fix.
    """
    request_id = request_id_of(fields.get("request_id"))
    only_known(
        fields,
        _FIELDS - {"candidates", "exclude", "retriever_scores", "retriever_ranks"} | {"retriever"},
    )
    ids, retriever_features = raw_candidates(body, fields.get("retriever", ""), limits)
    first = first_appearances(ids)
    k, explain = fields.get("k", str(DEFAULT_K)), _is_set(fields, "explain")
    return PrerankRequest(
        request_id=request_id,
        user_id=name_of(fields.get("user_id"), "user_id"),
        query=query_of(fields.get("query")),
        keys=ids[first],
        retriever_features=None if retriever_features is None else retriever_features[first],
        originals=None,
        exclude_engaged=_is_set(fields, "exclude_engaged"),
        k=count_of(int(k) if DIGITS.fullmatch(k) and len(k) < 18 else k, limits, explain),
        time_us=request_time_of(fields.get("time"), limits, now_us),
        weights=weights_of(
            json_value(fields.get("weights"), "weights", '{"engagement": 1}'), limits.schema
        ),
        explain=explain,
        context=context_of(
            json_value(fields.get("context"), "context", '{"country": "DE"}'), limits.schema
        ),
        timeout_ms=timeout_of(_number(fields.get("timeout_ms")), limits),
    )


def _is_set(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "") in ("1", "true")


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def parse_events(body: bytes, limits: Limits, now_us: int) -> list[Event]:
    """Read ``{"events": [{user_id, item_id, action, event_time, event_id?, request_id?,
    query?, position?}]}``.

    An event without ``event_id`` gets the one that ingest derives from its request, so give
    ``request_id`` (or the id itself) where the log will hold the event too. ``query`` is the search
    that led to the engagement; without it the user's history does not know what they looked for.
    ``position`` is the item's place in the list that was shown, from 1.

    Raises:
        RequestError: naming the event's place, the field and the fix; no event is taken.
    """
    data = json_object(body)
    only_known(data, {"events"})
    rows = data.get("events")
    if not isinstance(rows, list):
        raise RequestError("events", "send a list of events")
    if len(rows) > MAX_EVENTS:
        raise RequestError("events", f"{len(rows)} events; send at most {MAX_EVENTS} a call", 413)
    return [_event(row, f"events[{i}]", limits, now_us) for i, row in enumerate(rows)]


def _event(row: Any, where: str, limits: Limits, now_us: int) -> Event:
    if not isinstance(row, dict):
        raise RequestError(where, "an event is an object with user_id, item_id, action, event_time")
    only_known(row, _EVENT_FIELDS, f"{where}.")
    user, action = name_of(row.get("user_id"), f"{where}.user_id"), row.get("action")
    if action not in limits.schema.actions:
        raise RequestError(
            f"{where}.action",
            f"{shown(action)} is unknown; the log has {list(limits.schema.actions)}",
        )
    item = item_key(row.get("item_id"), f"{where}.item_id", limits.ids)
    if row.get("event_time") is None:
        raise RequestError(f"{where}.event_time", "missing: ISO 8601 or microseconds since 1970")
    time = time_of(row["event_time"], f"{where}.event_time")
    if not limits.replay and time > now_us + AHEAD_US:
        raise RequestError(f"{where}.event_time", "lies in the future; check its unit and clock")
    given, request = row.get("event_id"), row.get("request_id")
    for name, value in (("event_id", given), ("request_id", request)):
        if value is not None:
            name_of(value, f"{where}.{name}")
    key = (
        given_event_id(str(given))
        if given is not None
        else event_id(str(request) if request is not None else user, item, action, time)
    )
    position_of(row.get("position"), f"{where}.position")
    query = row.get("query")
    searched = "" if query is None else query_of(query, f"{where}.query")
    return Event(user, item, action, time, key, searched)


def named(names: Sequence[str], values: NDArray[np.float32]) -> dict[str, float]:
    """Non-zero values by name."""
    return {n: float(v) for n, v in zip(names, values, strict=True) if v}


__all__ = [
    "AHEAD_US",
    "Limits",
    "PrerankRequest",
    "RequestError",
    "iso",
    "named",
    "parse_events",
    "parse_json",
    "parse_raw",
]
