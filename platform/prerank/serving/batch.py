"""Many requests as one Arrow stream, a row each; the answer is a stream of as many rows.

Columns of a request: ``user_id``, ``query`` and ``candidates``, and what else ``TYPES`` names.
Arrow has integers of 64 bits and lists that are no JSON, so ids need not be text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from interactrank.features.schema import CANDIDATE_PREFIX, RETRIEVER_CROSS
from prerank.serving.api import DEFAULT_K
from prerank.serving.candidates import candidates_of, first_appearances
from prerank.serving.experiment import TOLD
from prerank.serving.fields import Limits, RequestError, count_of, name_of, new_id, only_known
from prerank.serving.request import PrerankRequest, common_of
from prerank.serving.retriever import OWN, RetrieverFeatures, check_own, features_of

MAX_REQUESTS = 1_000
REQUIRED = ("user_id", "query", "candidates")
_TEXT = (pa.utf8(), pa.large_utf8())


def _is_list_of(fits: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    def check(kind: pa.DataType) -> bool:
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return listed and fits(kind.value_type)

    return check


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or kind == pa.int64() or kind in _TEXT


def _is_context(kind: pa.DataType) -> bool:
    if pa.types.is_map(kind):
        return kind.key_type in _TEXT and kind.item_type in _TEXT
    return pa.types.is_struct(kind) and all(
        f.type in _TEXT or pa.types.is_integer(f.type) or pa.types.is_boolean(f.type) for f in kind
    )


_is_numbers = _is_list_of(_is_number)


def _is_own(kind: pa.DataType) -> bool:
    if pa.types.is_map(kind):
        return kind.key_type in _TEXT and _is_numbers(kind.item_type)
    return pa.types.is_struct(kind) and all(_is_numbers(f.type) for f in kind)


TYPES: Mapping[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "user_id": ("utf8", _TEXT.__contains__),
    "query": ("utf8", _TEXT.__contains__),
    "candidates": (
        "list<int64> or list<utf8>",
        _is_list_of(lambda kind: kind == pa.int64() or kind in _TEXT),
    ),
    "k": ("int64 or another integer", pa.types.is_integer),
    "request_id": ("utf8", _TEXT.__contains__),
    "time": ("timestamp, int64 or utf8", _is_time),
    "retriever_scores": ("list of floats", _is_numbers),
    "retriever_ranks": ("list of integers or floats", _is_numbers),
    OWN: ("map<utf8, list of floats>, or a struct with a list per feature", _is_own),
    "context": ("map<utf8, utf8>, or a struct with a field per segment", _is_context),
}
"""Column -> its type in words, and whether a type is that."""
COLUMNS = "; ".join(
    f"`{name}` ({kind}{'' if name in REQUIRED else ', optional'})"
    for name, (kind, _) in TYPES.items()
)
"""The columns of a request in words."""


@dataclass(frozen=True)
class Batch:
    """Requests of one stream. ``id_type``: that of the candidates, and of the answer's ids."""

    requests: list[PrerankRequest]
    id_type: pa.DataType

    def answer(self, bodies: Sequence[Mapping[str, Any]]) -> bytes:
        """An Arrow stream with a row per request, from the body of the answer to each."""

        def ids(of: Sequence[int | str]) -> list[int | str]:
            # As JSON has it, an integer beyond 2^53 is text.
            return [int(i) for i in of] if self.id_type == pa.int64() else list(of)

        items = [body["items"] for body in bodies]
        columns = {
            "request_id": pa.array([body["request_id"] for body in bodies], pa.utf8()),
            "items": pa.array(
                [ids([item["id"] for item in each]) for each in items], pa.list_(self.id_type)
            ),
            "scores": pa.array(
                [[item["score"] for item in each] for each in items], pa.list_(pa.float32())
            ),
            "unknown_ids": pa.array(
                [ids(body["unknown_ids"]) for body in bodies], pa.list_(self.id_type)
            ),
            "degraded": pa.array([body["degraded"] for body in bodies], pa.list_(pa.utf8())),
            "model_version": pa.array([body["model_version"] for body in bodies], pa.utf8()),
        }
        if any(TOLD[0] in body for body in bodies):
            columns |= {
                name: pa.array([body.get(name) for body in bodies], kind)
                for name, kind in zip(TOLD, (pa.utf8(), pa.utf8(), pa.bool_()), strict=True)
            }
        table, sink = pa.table(columns), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        stream: bytes = sink.getvalue().to_pybytes()
        return stream


def parse_batch(body: bytes, limits: Limits, now_us: int) -> Batch:
    """Read a stream.

    Args:
        body: an Arrow IPC stream, not compressed.
        limits: of the deployment; all candidates together are at most ``max_candidates``.
        now_us: its clock, microseconds since 1970.

    Raises:
        RequestError: naming the row and the field, and the fix; then no row is answered.
    """
    table = _table(body)
    lists = table["candidates"]
    total = sum(len(chunk.flatten()) for chunk in lists.chunks)
    if total > limits.max_candidates:
        raise RequestError(
            "candidates",
            f"{total} ids; a batch has at most {limits.max_candidates} (max_candidates) in all",
            413,
        )
    is_int = lists.type.value_type == pa.int64()
    if is_int and limits.ids.kind == "string":
        raise RequestError("candidates", "this log's ids are strings: send list<utf8>")
    requests = []
    for at in range(table.num_rows):
        row = {name: table[name][at] for name in table.column_names}
        try:
            requests.append(_request(row, is_int, limits, now_us))
        except RequestError as error:
            where = f"rows[{at}].{error.field}"
            raise RequestError(where, error.message, error.status) from None
    return Batch(requests, pa.int64() if is_int else pa.utf8())


def _request(row: Mapping[str, Any], is_int: bool, limits: Limits, now_us: int) -> PrerankRequest:
    def value(name: str) -> Any:
        return row[name].as_py() if name in row else None

    ids, given = row["candidates"].values, value("request_id")
    if ids is None or ids.null_count:
        raise RequestError("candidates", "holds a null; send item ids (the list may be empty)")
    keys, originals = (ids.to_numpy(), None) if is_int else candidates_of(ids.to_pylist(), limits)
    first = first_appearances(keys)
    retriever_features = _retriever_features(row, len(keys), limits)
    data = {
        # Of the row: the id of the call is that of all rows together.
        "request_id": new_id() if given is None else name_of(given, "request_id"),
        "query": value("query"),
        "time": _time(row.get("time")),
        "context": _context(row.get("context")),
    }
    return PrerankRequest(
        user_id=name_of(value("user_id"), "user_id"),
        **common_of(data, limits, now_us),
        keys=keys[first],
        originals=originals,
        k=DEFAULT_K if value("k") is None else count_of(value("k"), limits, explain=False),
        explain=False,
        retriever_features=None if retriever_features is None else retriever_features[first],
        as_text=originals is None and not is_int,
    )


def _retriever_features(row: Mapping[str, Any], n: int, limits: Limits) -> RetrieverFeatures:
    columns = {}
    for name, (field, values) in _given(row, limits).items():
        if values is None:
            continue
        if len(values) != n:
            raise RequestError(field, "send a list with a value for each candidate")
        wide = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            columns[name] = wide.astype(np.float32)
    return features_of(columns, n, limits.schema)


def _given(row: Mapping[str, Any], limits: Limits) -> dict[str, tuple[str, pa.Array | None]]:
    """One of ``FeatureSchema.given`` -> its field, and the row's values."""
    fields = {name: f"retriever_{name}s" for name in RETRIEVER_CROSS}
    found = {n: (field, row[field].values) for n, field in fields.items() if field in row}
    own = row.get(OWN)
    if own is None or not own.is_valid:
        return found
    if isinstance(own, pa.MapScalar):
        keys, lists = own.values.field(0), own.values.field(1)
        named = dict(zip(keys.to_pylist(), lists, strict=True))
    else:
        named = dict(own.items())
    check_own(named, limits.schema)
    for name, listed in named.items():
        found[CANDIDATE_PREFIX + name] = f"{OWN}.{name}", listed.values
    return found


def _time(scalar: Any) -> Any:
    """A time as ``request_time_of`` reads it; a timestamp without a zone is UTC."""
    if scalar is None or not scalar.is_valid or not pa.types.is_timestamp(scalar.type):
        return None if scalar is None else scalar.as_py()
    try:
        return scalar.cast(pa.timestamp("us", scalar.type.tz), safe=False).value
    except pa.ArrowInvalid as error:
        raise RequestError("time", f"is no time: {error}") from None


def _context(scalar: Any) -> Any:
    """A map or a struct as an object."""
    if scalar is None or not scalar.is_valid:
        return None
    return dict(scalar.as_py())


def _table(body: bytes) -> pa.Table:
    """The rows of a stream, whose size and types are looked at before they are read."""
    try:
        reader = pa.ipc.open_stream(body)
        _check_types(reader.schema)
        _check_size(body)
        table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RequestError("body", f"is no Arrow IPC stream: {str(error)[:200]}") from None
    if table.num_rows > MAX_REQUESTS:
        raise RequestError(
            "rows", f"{table.num_rows} requests; a batch has at most {MAX_REQUESTS}", 413
        )
    return table


def _check_types(schema: pa.Schema) -> None:
    names = schema.names
    only_known(dict.fromkeys(names), set(TYPES))
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise RequestError(twice, "there are two columns of this name")
    if missing := next((n for n in REQUIRED if n not in names), None):
        raise RequestError(missing, f"the column is missing: {TYPES[missing][0]}")
    for name in names:
        wanted, fits = TYPES[name]
        if not fits(schema.field(name).type):
            raise RequestError(name, f"the column is {schema.field(name).type}; send {wanted}")


def _check_size(body: bytes) -> None:
    """Refuse what reading would make larger than it was sent: compressed or many, empty parts."""
    parts = 0
    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type == "record batch":
            parts += 1
            if _is_compressed(message.metadata.to_pybytes()):
                raise RequestError("body", "is compressed; write the stream without compression")
            if parts > MAX_REQUESTS:
                raise RequestError("body", f"has more than {MAX_REQUESTS} record batches", 413)


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message's record batch names a compression of its buffers.

    pyarrow does not tell. The flatbuffer, which Arrow has verified, is read as its format is
    published (Message.fbs): of the root, field 2 is the record batch; of that, field 3.
    """

    def number(at: int, size: int) -> int:
        return int.from_bytes(metadata[at : at + size], "little", signed=size == 4)

    def field(table: int, index: int) -> int:
        """Where a field of a table stands; 0 if it is left out."""
        fields, entry = table - number(table, 4), 4 + 2 * index
        offset = number(fields + entry, 2) if entry < number(fields, 2) else 0
        return table + offset if offset else 0

    header = field(number(0, 4), 2)
    return bool(field(header + number(header, 4), 3))
