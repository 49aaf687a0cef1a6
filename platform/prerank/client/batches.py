"""Many requests as Arrow streams, and their answers: the form of ``prerank.serving.batch``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from prerank.client.answers import Ranking, id_array
from prerank.client.encoding import ARROW, time_value
from prerank.client.errors import Problem, RefusedError
from prerank.client.exchange import Call
from prerank.client.requests import Candidates, RankRequest

MAX_REQUESTS = 1_000
MAX_CANDIDATES = 200_000
"""Of one batch, where the deployment's configuration is the default; see ``Batch.halves``."""
MAX_BYTES = 24 << 20
"""Of the candidates of one batch; the deployment takes bodies of 32 MiB."""
_NO_COLUMN = ("weights", "timeout_ms", "explain", "exclude", "exclude_engaged")


@dataclass(frozen=True, eq=False)
class Batch:
    """Requests that go as one stream.

    Attributes:
        first: place of the first one in the caller's list.
        requests: at least one.
        candidates: of each.
        as_int: whether they are integers, else texts.
    """

    first: int
    requests: Sequence[RankRequest]
    candidates: Sequence[Candidates]
    as_int: bool

    def call(self) -> Call:
        """The stream that asks.

        Raises:
            RefusedError: a value is of no kind that its column can hold.
        """
        try:
            table = pa.table(self._columns())
        except (pa.ArrowException, UnicodeEncodeError, TypeError) as error:
            raise RefusedError(Problem(f"cannot be sent: {error}", field="rows")) from None
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return Call("POST", "/v1/prerank", sink.getvalue().to_pybytes(), ARROW)

    def _columns(self) -> dict[str, Any]:
        columns = {
            "user_id": pa.array([str(r.user_id) for r in self.requests], pa.utf8()),
            "query": pa.array([r.query for r in self.requests], pa.utf8()),
            "candidates": self._candidates(),
            "k": pa.array([r.k for r in self.requests], pa.int64()),
            "request_id": pa.array([str(r.request_id) for r in self.requests], pa.utf8()),
            "time": pa.array([_time(r) for r in self.requests], pa.utf8()),
            "context": pa.array(
                [_context(r) for r in self.requests], pa.map_(pa.utf8(), pa.utf8())
            ),
        }
        for name in ("score", "rank"):
            given = [c.retriever.get(name) for c in self.candidates]
            if any(values is not None for values in given):
                columns[f"retriever_{name}s"] = pa.array(given, pa.list_(pa.float32()))
        if any(c.features for c in self.candidates):
            columns["candidate_features"] = pa.array(
                [list(c.features.items()) for c in self.candidates],
                pa.map_(pa.utf8(), pa.list_(pa.float32())),
            )
        return columns

    def rankings(self, body: bytes) -> list[Ranking]:
        """The answers of a stream, in the order of the requests.

        Raises:
            ValueError: it is no stream of so many answers.
        """
        table = pa.ipc.open_stream(body).read_all()
        if table.num_rows != len(self.requests):
            raise ValueError(f"{table.num_rows} answers to {len(self.requests)} requests")
        return [
            Ranking(
                row["request_id"].as_py(),
                row["model_version"].as_py(),
                self._ids(row["items"]),
                row["scores"].values.to_numpy(zero_copy_only=False).astype(np.float32),
                self._ids(row["unknown_ids"]),
                tuple(row["degraded"].as_py()),
                **_of_experiment(row),
            )
            for row in ({n: table[n][at] for n in table.column_names} for at in range(len(table)))
        ]

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches, for a deployment that takes less at once than its default is."""
        at = len(self.requests) // 2
        return (
            replace(self, requests=self.requests[:at], candidates=self.candidates[:at]),
            replace(
                self,
                first=self.first + at,
                requests=self.requests[at:],
                candidates=self.candidates[at:],
            ),
        )

    def _candidates(self) -> pa.Array:
        kind = pa.int64() if self.as_int else pa.utf8()
        return pa.array([c.ids if len(c.ids) else [] for c in self.candidates], pa.list_(kind))

    def _ids(self, listed: Any) -> Any:
        values = listed.values
        return values.to_numpy() if self.as_int else id_array(values.to_pylist(), as_int=False)


def batches(requests: Sequence[RankRequest]) -> Iterator[Batch]:
    """Batches that a deployment takes, in the order of ``requests``.

    Raises:
        RefusedError: a request has what the form has no column for, or candidates of another kind
            than the others; ``field`` begins with its place.
    """
    found = [Candidates.of(_checked(r, at), f"rows[{at}].") for at, r in enumerate(requests)]
    kinds = {isinstance(c.ids, np.ndarray) for c in found if len(c.ids)}
    if len(kinds) > 1:
        raise RefusedError(
            Problem(
                "integers in one request and texts in another; send one kind", field="candidates"
            )
        )
    # Without any candidate, an empty list of texts is what every log takes.
    as_int = kinds == {True}
    first, ids, size = 0, 0, 0
    for at, candidates in enumerate(found):
        ids, size = ids + len(candidates.ids), size + _bytes(candidates)
        too_large = ids > MAX_CANDIDATES or size > MAX_BYTES
        if at > first and (at - first == MAX_REQUESTS or too_large):
            yield Batch(first, requests[first:at], found[first:at], as_int)
            first, ids, size = at, len(candidates.ids), _bytes(candidates)
    if found:
        yield Batch(first, requests[first:], found[first:], as_int)


def _bytes(candidates: Candidates) -> int:
    ids = candidates.ids
    own = (
        ids.nbytes
        if isinstance(ids, np.ndarray)
        else sum(len(i.encode(errors="replace")) + 4 for i in ids)
    )
    return own + 4 * len(ids) * (len(candidates.retriever) + len(candidates.features))


def _checked(request: RankRequest, at: int) -> RankRequest:
    given = {name: getattr(request, name) for name in _NO_COLUMN}
    if request.candidates is None:
        given["candidates"] = True  # a batch asks for no whole index
    for name, value in given.items():
        if value is not None and value is not False:
            raise RefusedError(
                Problem(
                    "has no place in a batch; send such requests one by one",
                    field=f"rows[{at}].{name}",
                    request_id=str(request.request_id),
                )
            )
    return request


def _of_experiment(row: Mapping[str, Any]) -> dict[str, Any]:
    """What an experiment made of a request, if one ran."""
    found = {name: row[name].as_py() for name in ("experiment", "variant") if name in row}
    return found | {"fallback": "fallback" in row and bool(row["fallback"].as_py())}


def _time(request: RankRequest) -> str | None:
    return None if request.time is None else str(time_value(request.time))


def _context(request: RankRequest) -> list[tuple[str, str]] | None:
    """As the deployment spells the values of JSON; what is None is missing."""
    if request.context is None:
        return None
    return [
        (name, str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in request.context.items()
        if value is not None
    ]
