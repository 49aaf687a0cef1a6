"""The item catalogue: read, checked and completed with the log's items that it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prerank.core.errors import ConfigError, DataError
from prerank.core.ids import ItemIds
from prerank.core.times import UTC_US
from prerank.ingest.embeddings import QUARANTINE_SCHEMA, read_embeddings
from prerank.ingest.mapping import LogMapping
from prerank.ingest.parsing import (
    check_times,
    is_numeric,
    is_textual,
    is_whole,
    to_text,
    to_time,
    to_whole,
)
from prerank.ingest.ranges import read_columns
from prerank.ingest.sources import Source


@dataclass(frozen=True)
class RawCatalogue:
    """A catalogue in canonical columns, before its ids have become keys.

    Attributes:
        table: ``item_ref``, ``title``, ``category`` str without nulls, ``created_at``
            timestamp[us, UTC], numeric columns float32, and ``embedding`` (bytes of float32, null
            if missing) where one is mapped; one row per item.
        integer_column: the id column is numeric (12 rather than '12').
        warnings: what the report should say.
        quarantined: rows that lost their embedding, in QUARANTINE_SCHEMA.
    """

    table: pa.Table
    integer_column: bool
    warnings: tuple[str, ...]
    quarantined: pa.Table

    @property
    def refs(self) -> list[str]:
        """Ids as text, in the order of the table."""
        refs: list[str] = self.table["item_ref"].to_pylist()
        return refs


def read_catalogue(source: Source, columns: dict[str, str], mapping: LogMapping) -> RawCatalogue:
    """Read the mapped columns of the catalogue (in memory: an item is a few hundred bytes).

    Raises:
        ConfigError: a numeric or embedding column is none, or ``created_at`` lands in 1970 or
            beyond 2199.
        DataError: unreadable, an item stands twice with different attributes, or embeddings differ
            in their dimension.
    """
    wanted = list(dict.fromkeys(columns.values()))
    try:
        parts = [read_columns(f, wanted) for f in source.files]
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"The catalogue at {source.names[0]} cannot be read: {error}.") from None
    typed = [p for p, is_text in zip(parts, source.is_text, strict=True) if not is_text]
    integer_columns = {is_numeric(p.schema.field(columns["item_id"]).type) for p in typed}
    if len(integer_columns) > 1:
        raise DataError(
            "The catalogue's files mix '12' and 12 as item ids: store the column in one type."
        )
    tables = [_canonical(p, columns, mapping) for p in parts]
    warnings, bad = [], QUARANTINE_SCHEMA.empty_table()
    if names := mapping.items.embedding:
        found = read_embeddings(parts, names, [f.name for f in source.files])
        tables = [
            t.append_column("embedding", column)
            for t, column in zip(tables, found.columns, strict=True)
        ]
        bad = found.quarantined
        if len(bad):
            warnings.append(
                f"{len(bad)} embeddings hold NaN or infinite numbers: they count as missing, and "
                "their catalogue rows stand in the quarantine"
            )
    raw = pa.concat_tables(tables)
    if any(source.is_text):
        raw = raw.set_column(0, "item_ref", _one_form(raw["item_ref"].combine_chunks()))
    if source.rejected:
        reasons = ", ".join(f"{n:,} x {why}" for why, n in source.rejected.items())
        warnings.append(f"catalogue lines left out, they stand in the quarantine: {reasons}")
    known = raw.filter(pc.fill_null(pc.not_equal(raw["item_ref"], ""), False))
    if len(known) < len(raw):
        warnings.append(f"{len(raw) - len(known)} catalogue rows without an item id were left out")
    table = known.group_by(known.column_names).aggregate([]).sort_by("item_ref")
    refs = table["item_ref"].combine_chunks()
    twice = refs[1:].filter(pc.equal(refs[1:], refs[:-1]))
    if len(twice):
        raise DataError(
            f"Item {twice[0].as_py()!r} stands twice in the catalogue with different attributes. "
            "Keep one row per item."
        )
    if len(table) < len(known):
        warnings.append(f"{len(known) - len(table)} repeated catalogue rows were left out")
    if len(table) and not pc.any(pc.not_equal(table["title"], "")).as_py():
        warnings.append("no item has a title: map one under `items.title`, or text teaches nothing")
    return RawCatalogue(table, integer_columns == {True}, tuple(warnings), bad)


def _canonical(raw: pa.Table, columns: dict[str, str], mapping: LogMapping) -> pa.Table:
    def column(name: str) -> pa.Array:
        return raw[columns[name]].combine_chunks()

    fields = {"item_ref": to_text(column("item_id"))}
    for name in ("title", "category"):
        empty = pa.nulls(len(raw), pa.string())
        fields[name] = (to_text(column(name)) if name in columns else empty).fill_null("")
    if "created_at" in columns:
        check_times(column("created_at"), columns["created_at"], mapping.time_unit)
        fields["created_at"] = to_time(column("created_at"), mapping.time_unit)
    else:
        fields["created_at"] = pa.nulls(len(raw), UTC_US)
    for name in mapping.items.numeric:
        try:
            fields[name] = _number(column(name))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise ConfigError(
                f"The catalogue's column {name!r} ({raw[name].type}) is not numeric: convert it, "
                "or take it off `items.numeric`."
            ) from None
    return pa.table(fields)


def _one_form(refs: pa.Array) -> pa.Array:
    """Ids as text; 12.0 is 12 where every id of the catalogue is an integer."""
    return to_whole(refs) if is_whole(refs) else refs


def _number(column: pa.Array) -> pa.Array:
    """A column as float32; of text, by way of float64, as a typed column would be."""
    if is_textual(column.type):
        column = column.cast(pa.float64())
    return column.cast(pa.float32(), safe=False)


def keyed(raw: RawCatalogue, ids: ItemIds, log_refs: Mapping[int, str]) -> pa.Table:
    """The published items table: the catalogue and the log's items that it lacks.

    Args:
        raw: the catalogue.
        ids: how ids become keys.
        log_refs: key -> id as text, of every item of the canonical log.

    Returns:
        ``item_id`` int64 ascending, ``item_ref``, ``title``, ``category``, ``created_at``, numeric.

    Raises:
        DataError: two string ids share a hash.
    """
    refs = raw.refs
    missing = np.setdiff1d(np.fromiter(log_refs, np.int64, len(log_refs)), ids.keys(refs))
    absent = [log_refs[key] for key in missing.tolist()]
    empty = {
        field.name: pa.nulls(len(absent), field.type)
        if field.name not in ("title", "category")
        else pa.array([""] * len(absent), pa.string())
        for field in raw.table.schema
    }
    empty["item_ref"] = pa.array(absent, pa.string())
    table = pa.concat_tables([raw.table, pa.table(empty, schema=raw.table.schema)])
    keys = ids.keys([*refs, *absent])
    order = np.argsort(keys, kind="stable")
    return table.take(pa.array(order)).add_column(0, "item_id", pa.array(keys[order]))
