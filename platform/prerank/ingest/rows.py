"""Rows of a log: to canonical types, judged by a schema, and split into good ones and bad ones.

Everything here is vectorised over a batch and knows nothing of files or Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.text import normalise
from prerank.core.ids import SEPARATOR, ItemIds, hash_all
from prerank.core.times import EARLIEST, LATEST, UTC_US
from prerank.ingest.parsing import to_text, to_time

_MISSING = "{} is missing"
_RETRIEVER = (("retriever_score", pa.float32()), ("retriever_rank", pa.int32()))


@dataclass(frozen=True)
class RowPlan:
    """What turns a team's rows into canonical ones; sent to every task.

    Attributes:
        columns: canonical field -> team's column.
        time_unit: unit of numeric times.
        actions: team's action -> canonical action, or None for "as it is".
        action: the constant action, or None.
        segments: segment columns.
        ids: how item ids become keys.
    """

    columns: dict[str, str]
    time_unit: str | None
    actions: dict[str, str] | None
    action: str | None
    segments: tuple[str, ...]
    ids: ItemIds

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
                *((name, kind) for name, kind in _RETRIEVER if name in self.columns),
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


def _numbers(array: pa.Array, refused: float) -> NDArray[np.float64]:
    """A column as float64; null is NaN, what is no number ``refused``, as the schema does it."""
    numbers = pd.to_numeric(array.to_pandas(), errors="coerce").to_numpy(
        np.float64, na_value=np.nan
    )
    odd = np.isnan(numbers) & np.asarray(array.is_valid())
    if pa.types.is_floating(array.type):
        odd &= ~np.asarray(pc.is_nan(array).fill_null(False))
    return np.where(odd, refused, numbers)


def _mapped(array: pa.Array, mapping: dict[str, str]) -> pa.Array:
    values = pc.index_in(array, pa.array(list(mapping), pa.string()))
    return pa.array(list(mapping.values()), pa.string()).take(values)


def _each_distinct(array: pa.Array, values: list[str]) -> pa.Array:
    """Spread ``values``, one for each entry of the dictionary of ``array``, over its rows."""
    return pa.array(values, pa.string()).take(array.indices)


def canonical(batch: pa.Table, plan: RowPlan) -> pd.DataFrame:
    """Canonical fields of every row, good or bad, in the types that ``row_schema`` judges.

    Adds ``delay_us`` float64 (event minus request time), ``item_key`` int64 and ``item_fits`` bool.
    """
    raw = {name: batch[column].combine_chunks() for name, column in plan.columns.items()}
    times = {n: to_time(raw[n], plan.time_unit) for n in ("request_time", "event_time")}
    fields: dict[str, object] = {n: a.to_pandas() for n, a in times.items()}
    asked, happened = (
        np.asarray(a.cast(pa.int64()).to_pandas(), np.float64) for a in times.values()
    )
    fields["delay_us"] = happened - asked
    for name in ("request_id", "user_id", "event_id"):
        if name in raw:
            fields[name] = to_text(raw[name]).to_pandas()
    queries = to_text(raw["query"]).dictionary_encode()
    tidy = [normalise(q) for q in queries.dictionary.to_pylist()]
    fields["query"] = _each_distinct(queries, tidy).to_pandas()
    if plan.action:
        fields["action"] = np.full(len(batch), plan.action, dtype=object)
    else:
        actions = to_text(raw["action"])
        fields["action"] = (_mapped(actions, plan.actions) if plan.actions else actions).to_pandas()
    items = to_text(raw["item_id"])
    fields["item_id"] = items.to_pandas()
    fields["item_key"], fields["item_fits"] = item_keys(items, plan.ids)
    if "position" in raw:
        fields["position"] = _numbers(raw["position"], -1.0)
    if "retriever_score" in raw:
        with np.errstate(over="ignore"):
            scores = _numbers(raw["retriever_score"], np.inf).astype(np.float32)
        fields["retriever_score"] = scores.astype(np.float64)
    if "retriever_rank" in raw:
        fields["retriever_rank"] = _numbers(raw["retriever_rank"], -1.0)
    for name in plan.segments:
        fields[name] = to_text(raw[name]).fill_null("").to_pandas()
    return pd.DataFrame(fields)


def item_keys(items: pa.Array, ids: ItemIds) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Keys int64 [n] of ids as text, and which of them are of the right kind (null counts so)."""
    encoded = items.dictionary_encode()
    found = [ids.key_of_text(ref) for ref in encoded.dictionary.to_pylist()]
    keys = np.array([0 if k is None else k for k in (*found, 0)], dtype=np.int64)
    fits = np.array([k is not None for k in (*found, 0)], dtype=np.bool_)
    at = encoded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    return keys[at], fits[at]


@lru_cache
def row_schema() -> pandera.DataFrameSchema:
    """The judge of rows. Its columns and checks stand in the order in which a reason is chosen."""

    def text(name: str, empty: str = "{} is empty") -> pandera.Column:
        check = pandera.Check(lambda s: s != "", error=empty.format(name))
        return pandera.Column(None, check, nullable=False, required=name not in optional)

    def time(name: str) -> pandera.Column:
        error = f"{name} before 1971 or after 2199: check time_unit"
        within = pandera.Check.in_range(EARLIEST, LATEST, include_max=False, error=error)
        return pandera.Column(None, within, nullable=False)

    def count(name: str) -> pandera.Column:
        error = f"bad {name}"
        within = pandera.Check.in_range(0, 2**31 - 1, error=error)
        whole = pandera.Check(lambda s: s == np.floor(s), error=error)
        return pandera.Column(None, [within, whole], nullable=True, required=False)

    optional = {"request_id"}
    finite = pandera.Check(lambda s: np.isfinite(s), error="retriever_score is no finite number")
    return pandera.DataFrameSchema(
        {
            "request_time": time("request_time"),
            "event_time": time("event_time"),
            "delay_us": pandera.Column(
                None, pandera.Check.ge(0, error="event_time before request_time"), nullable=True
            ),
            "request_id": text("request_id"),
            "user_id": text("user_id"),
            "query": text("query", "query is empty after normalisation"),
            "item_id": text("item_id"),
            "item_fits": pandera.Column(
                None,
                pandera.Check(lambda s: s, error="item_id is not an integer, the log's ids are"),
            ),
            "action": text("action"),
            "position": count("position"),
            "retriever_rank": count("retriever_rank"),
            "retriever_score": pandera.Column(None, finite, nullable=True, required=False),
        }
    )


def reasons(frame: pd.DataFrame) -> dict[int, str]:
    """Row -> why it is bad, the first reason by the schema's order; good rows are left out."""
    schema = row_schema()
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
    else:
        return {}
    rank = {column: at for at, column in enumerate(schema.columns)}
    found: dict[int, tuple[int, str]] = {}
    for column, check, at in zip(cases["column"], cases["check"], cases["index"], strict=True):
        reason = check
        if check == "not_nullable":
            timely = column in ("request_time", "event_time")
            reason = _MISSING.format(column) + (" or not a time" if timely else "")
        row = int(at)
        if row not in found or rank[column] < found[row][0]:
            found[row] = rank[column], reason
    return {row: reason for row, (_, reason) in sorted(found.items())}


def good_rows(frame: pd.DataFrame, bad: dict[int, str], plan: RowPlan) -> pa.Table:
    """The rows that are not bad, with their ids hashed, in ``RowPlan.bucket_schema``."""
    if bad:
        frame = frame.drop(index=list(bad))
    text = pa.string()
    columns = {n: pa.array(frame[n], text) for n in ("user_id", "query", "action", *plan.segments)}
    for name in ("request_time", "event_time"):
        columns[name] = pa.array(frame[name]).cast(UTC_US).cast(pa.int64())
    columns["item_id"] = pa.array(frame["item_key"], pa.int64())
    columns["position"] = _nullable_int32(frame, "position")
    if "retriever_score" in frame:
        columns["retriever_score"] = pa.Array.from_pandas(
            frame["retriever_score"], type=pa.float32()
        )
    if "retriever_rank" in frame:
        columns["retriever_rank"] = _nullable_int32(frame, "retriever_rank")
    if "request_id" in frame:
        columns["request_id"] = pa.array(frame["request_id"], text)
    else:
        parts = _joined(*(columns[n] for n in ("query", "request_time", "user_id")))
        hashes = hash_all(parts.to_pylist()).view(np.uint64)
        columns["request_id"] = pa.array([f"{h:016x}" for h in hashes.tolist()], text)
    # The same text as ids.event_id joins, so that an event pushed online has the same id.
    identity = _joined(*(columns[n] for n in ("item_id", "event_time", "action", "request_id")))
    if "event_id" in frame:
        identity = pc.coalesce(pa.array(frame["event_id"], text), identity)
    columns["event_id"] = pa.array(hash_all(identity.to_pylist()))
    columns["known_time"] = pa.nulls(len(frame), pa.int64())
    return _with_content(columns, plan)


def known_rows(events: pa.Table, plan: RowPlan) -> pa.Table:
    """Canonical events, read back, in ``RowPlan.bucket_schema``."""
    columns = {
        name: (column.cast(pa.int64()) if name.endswith("_time") else column).combine_chunks()
        for name, column in zip(events.column_names, events.columns, strict=True)
    }
    return _with_content(columns, plan)


def _with_content(columns: dict[str, pa.Array], plan: RowPlan) -> pa.Table:
    names = [n for n in plan.bucket_schema.names if n not in ("content", "known_time")]
    content = _joined(*(columns[n] for n in names))
    columns["content"] = pa.array(hash_all(content.to_pylist()))
    return pa.table([columns[n] for n in plan.bucket_schema.names], schema=plan.bucket_schema)


def _nullable_int32(frame: pd.DataFrame, name: str) -> pa.Array:
    if name not in frame:
        return pa.nulls(len(frame), pa.int32())
    values = frame[name].to_numpy()
    null = np.isnan(values)
    return pa.array(np.where(null, 0, values).astype(np.int32), mask=null)


def _joined(*parts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(
        *(p.cast(pa.string()) for p in parts),
        SEPARATOR,
        null_handling="replace",
        null_replacement="",
    )
