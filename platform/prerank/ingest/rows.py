"""Rows of a log: to canonical types, judged, and split into good ones and bad ones.

Everything here is vectorised over a batch and knows nothing of files or Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.text import normalise
from prerank.core.ids import SEPARATOR, ItemIds, canonical_integers, hash_column
from prerank.core.manifest import FULL_RANKER
from prerank.core.times import EARLIEST, LATEST, UTC_US
from prerank.ingest.parsing import to_numbers, to_text, to_time, to_whole

BACKWARDS = "event_time before request_time"
"""Why a row is bad whose two times are the wrong way round."""
_SCORES = ("retriever_score", FULL_RANKER)
_GIVEN = (
    ("retriever_score", pa.float32()),
    ("retriever_rank", pa.int32()),
    (FULL_RANKER, pa.float32()),
)


@dataclass(frozen=True)
class RowPlan:
    """What turns a team's rows into canonical ones; sent to every task.

    Attributes:
        columns: canonical field -> team's column.
        time_unit: unit of numeric times.
        actions: team's action -> canonical action, or None for "as it is".
        action: the constant action, or None.
        segments: segment columns.
        candidate_features: canonical names of their columns.
        ids: how item ids become keys.
        whole: text fields whose every value in the log is an integer, be it as 12.0.
    """

    columns: dict[str, str]
    time_unit: str | None
    actions: dict[str, str] | None
    action: str | None
    segments: tuple[str, ...]
    ids: ItemIds
    whole: frozenset[str] = frozenset()
    candidate_features: tuple[str, ...] = ()

    def text(self, name: str, array: pa.Array) -> pa.Array:
        """A field as string."""
        return to_whole(to_text(array)) if name in self.whole else to_text(array)

    @property
    def bucket_schema(self) -> pa.Schema:
        """Good rows between the two stages: times int64 microseconds, ``content`` a row hash.

        ``known_time`` is null in a row that is new to the home.
        """
        return pa.schema(
            [
                ("request_id", pa.string()),
                ("request_time", pa.int64()),
                ("event_time", pa.int64()),
                ("user_id", pa.string()),
                ("query", pa.string()),
                ("item_id", pa.int64()),
                ("action", pa.string()),
                ("position", pa.int32()),
                ("event_id", pa.int64()),
                ("known_time", pa.int64()),
                *((name, pa.string()) for name in self.segments),
                *((name, kind) for name, kind in _GIVEN if name in self.columns),
                *((name, pa.float32()) for name in self.candidate_features),
                ("content", pa.int64()),
            ]
        )

    @property
    def event_schema(self) -> pa.Schema:
        """Canonical events as they are published."""
        fields = [
            pa.field(f.name, UTC_US) if f.name.endswith("_time") else f
            for f in self.bucket_schema
            if f.name != "content"
        ]
        return pa.schema(fields)


def canonical(batch: pa.Table, plan: RowPlan) -> pa.Table:
    """Canonical fields of every row, good or bad, as ``reasons`` judges them.

    Texts string, times timestamp[us, UTC], and null where they are missing or are none; numbers
    float64, NaN where they are missing, and infinite where a score or a candidate feature is no
    finite float32. ``item_key`` int64 and ``item_fits`` bool are the item id as a key.
    """
    raw = {name: batch[column].combine_chunks() for name, column in plan.columns.items()}
    fields = {n: to_time(raw[n], plan.time_unit) for n in ("request_time", "event_time")}
    for name in ("request_id", "user_id", "event_id"):
        if name in raw:
            fields[name] = plan.text(name, raw[name])
    queries = to_text(raw["query"]).dictionary_encode()
    tidy = [normalise(q) for q in queries.dictionary.to_pylist()]
    fields["query"] = pa.array(tidy, pa.string()).take(queries.indices)
    if plan.action:
        fields["action"] = pa.repeat(pa.scalar(plan.action), len(batch))
    else:
        actions = to_text(raw["action"])
        fields["action"] = _mapped(actions, plan.actions) if plan.actions else actions
    fields["item_id"] = to_text(raw["item_id"])
    keys, fits = item_keys(fields["item_id"], plan.ids)
    fields["item_key"], fields["item_fits"] = pa.array(keys), pa.array(fits)
    if "position" in raw:
        fields["position"] = _numbers(raw["position"], -1.0)
    for name in (*_SCORES, *plan.candidate_features):
        if name in raw:
            with np.errstate(over="ignore"):
                scores = _numbers(raw[name], np.inf).to_numpy().astype(np.float32)
            fields[name] = pa.array(scores.astype(np.float64))
    if "retriever_rank" in raw:
        fields["retriever_rank"] = _numbers(raw["retriever_rank"], -1.0)
    for name in plan.segments:
        fields[name] = plan.text(name, raw[name]).fill_null("")
    return pa.table(fields)


def _numbers(array: pa.Array, refused: float) -> pa.Array:
    """A column as float64; null is NaN, and what is no number ``refused``."""
    values, odd = to_numbers(array)
    return pa.array(np.where(odd, refused, values))


def _mapped(array: pa.Array, mapping: dict[str, str]) -> pa.Array:
    values = pc.index_in(array, pa.array(list(mapping), pa.string()))
    return pa.array(list(mapping.values()), pa.string()).take(values)


def item_keys(items: pa.Array, ids: ItemIds) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Keys int64 [n] of ids as text, and which of them are of the right kind (null counts so).

    Where the log's ids are integers, "12.0" is 12.
    """
    if ids.kind == "integer":
        items = to_whole(items)
        if (keys := canonical_integers(items.fill_null("0"))) is not None:
            return keys, np.ones(len(items), np.bool_)
    encoded = items.dictionary_encode()
    found = [ids.key_of_text(ref) for ref in encoded.dictionary.to_pylist()]
    keys = np.array([0 if k is None else k for k in (*found, 0)], dtype=np.int64)
    fits = np.array([k is not None for k in (*found, 0)], dtype=np.bool_)
    at = encoded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    return keys[at], fits[at]


def _judgements(rows: pa.Table) -> Iterator[tuple[pa.ChunkedArray, str]]:
    """Which rows are bad and why, in the order in which a row's reason is chosen."""
    low, high = pa.scalar(EARLIEST, UTC_US), pa.scalar(LATEST, UTC_US)
    for name in ("request_time", "event_time"):
        at = rows[name]
        yield pc.is_null(at), f"{name} is missing or not a time"
        outside = pc.or_(pc.less(at, low), pc.greater_equal(at, high))
        yield outside, f"{name} before 1971 or after 2199: check time_unit"
    yield pc.less(rows["event_time"], rows["request_time"]), BACKWARDS
    for name in ("request_id", "user_id", "query", "item_id", "action"):
        if name == "action":
            yield pc.invert(rows["item_fits"]), "item_id is not an integer, the log's ids are"
        if name in rows.column_names:
            yield pc.is_null(rows[name]), f"{name} is missing"
            empty = f"{name} is empty" + " after normalisation" * (name == "query")
            yield pc.equal(rows[name], ""), empty
    for name in ("position", "retriever_rank"):
        if name in rows.column_names:
            numbers = rows[name]
            beyond = pc.or_(pc.less(numbers, 0.0), pc.greater(numbers, float(2**31 - 1)))
            # NaN, which is none, differs from itself too.
            part = pc.and_(pc.not_equal(numbers, pc.floor(numbers)), pc.equal(numbers, numbers))
            yield pc.or_(beyond, part), f"bad {name}"
    for name in _SCORES:
        if name in rows.column_names:
            yield pc.is_inf(rows[name]), f"{name} is no finite number"


def reasons(rows: pa.Table) -> dict[int, str]:
    """Row -> why it is bad, the first reason of ``_judgements``; good rows are left out."""
    found: dict[int, str] = {}
    for bad, why in _judgements(rows):
        if pc.any(bad).as_py():
            for row in np.flatnonzero(np.asarray(bad.fill_null(False))).tolist():
                found.setdefault(row, why)
    return dict(sorted(found.items()))


def unreadable(rows: pa.Table, plan: RowPlan) -> dict[str, int]:
    """Canonical column of a candidate feature -> how many of its values are no finite number.

    An event is worth more than a price that its writer could not spell: the value counts as
    missing, and the row stays.
    """
    found = {n: pc.sum(pc.is_inf(rows[n])).as_py() or 0 for n in plan.candidate_features}
    return {name: count for name, count in found.items() if count}


def good_rows(rows: pa.Table, bad: dict[int, str], plan: RowPlan) -> pa.Table:
    """The rows that are not bad, with their ids hashed, in ``RowPlan.bucket_schema``."""
    if bad:
        good = np.ones(len(rows), np.bool_)
        good[list(bad)] = False
        rows = rows.filter(pa.array(good))
    fields = {n: column.combine_chunks() for n, column in zip(rows.column_names, rows, strict=True)}
    columns = {n: fields[n] for n in ("user_id", "query", "action", *plan.segments)}
    for name in ("request_time", "event_time"):
        columns[name] = fields[name].cast(pa.int64())
    columns["item_id"] = fields["item_key"]
    columns["position"] = _nullable_int32(fields, "position", len(rows))
    for name in _SCORES:
        if name in fields:
            columns[name] = pa.Array.from_pandas(fields[name].to_numpy(), type=pa.float32())
    if "retriever_rank" in fields:
        columns["retriever_rank"] = _nullable_int32(fields, "retriever_rank", len(rows))
    for name in plan.candidate_features:
        values = fields[name].to_numpy()
        columns[name] = pa.array(values.astype(np.float32), mask=~np.isfinite(values))
    given = fields.get("request_id")
    columns["request_id"] = _request_ids(columns) if given is None else given
    # The same text as ids.event_id joins, so that an event pushed online has the same id.
    identity = joined(*(columns[n] for n in ("item_id", "event_time", "action", "request_id")))
    if "event_id" in fields:
        identity = pc.coalesce(fields["event_id"], identity)
    columns["event_id"] = pa.array(hash_column(identity))
    columns["known_time"] = pa.nulls(len(rows), pa.int64())
    return _with_content(columns, plan)


def _request_ids(columns: dict[str, pa.Array]) -> pa.Array:
    parts = joined(*(columns[n] for n in ("query", "request_time", "user_id")))
    encoded = parts.dictionary_encode()
    hashes = hash_column(encoded.dictionary).view(np.uint64)
    return pa.array([f"{h:016x}" for h in hashes.tolist()], pa.string()).take(encoded.indices)


def known_rows(events: pa.Table, plan: RowPlan) -> pa.Table:
    """Canonical events, read back, in ``RowPlan.bucket_schema``."""
    columns = {
        name: (column.cast(pa.int64()) if name.endswith("_time") else column).combine_chunks()
        for name, column in zip(events.column_names, events.columns, strict=True)
    }
    return _with_content(columns, plan)


def _with_content(columns: dict[str, pa.Array], plan: RowPlan) -> pa.Table:
    names = [n for n in plan.bucket_schema.names if n not in ("content", "known_time")]
    columns["content"] = pa.array(hash_column(joined(*(columns[n] for n in names))))
    return pa.table([columns[n] for n in plan.bucket_schema.names], schema=plan.bucket_schema)


def _nullable_int32(fields: dict[str, pa.Array], name: str, rows: int) -> pa.Array:
    if name not in fields:
        return pa.nulls(rows, pa.int32())
    values = fields[name].to_numpy()
    null = np.isnan(values)
    return pa.array(np.where(null, 0, values).astype(np.int32), mask=null)


def joined(*parts: pa.Array) -> pa.Array:
    """Columns as text, row by row: what is hashed. Null is the empty text."""
    return pc.binary_join_element_wise(
        *(p.cast(pa.string()) for p in parts),
        SEPARATOR,
        null_handling="replace",
        null_replacement="",
    )
