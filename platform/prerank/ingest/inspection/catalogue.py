"""Which column of a catalogue is what."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from prerank.ingest.inspection.columns import Column
from prerank.ingest.inspection.names import CATALOGUE_IDS, folded
from prerank.ingest.inspection.roles import Choice, Choices, by_name, fits
from prerank.ingest.inspection.tables import Rows, texts, times

ROLES = ("item_id", "title", "category", "created_at")
_TAKEN = {"item_id", "item_ref", "title", "category", "created_at", "embedding"}
_IDS = frozenset(map(folded, CATALOGUE_IDS.split()))


@dataclass(frozen=True)
class CatalogueProfile:
    """A catalogue's columns.

    Attributes:
        choices: role -> column, of ``item_id``, ``title``, ``category`` and ``created_at``.
        numeric: columns of numbers about the item.
        embedding: the column of vectors, or None.
        others: column -> why it is not used.
        ids: item ids as text.
    """

    choices: Choices
    numeric: tuple[str, ...]
    embedding: str | None
    others: dict[str, str] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()


def catalogue_profile(
    table: pa.Table, columns: Sequence[Column], log_items: Collection[str]
) -> CatalogueProfile:
    """What the columns of a catalogue are.

    Args:
        table: the catalogue.
        columns: of ``profiled``.
        log_items: item ids of the log as text; empty where its column is not known.
    """
    found = by_name(ROLES, columns, _fits)
    _find_id(found, table, columns, log_items)
    taken = {c.column for c in found.values()}
    left = [c for c in columns if c.name not in taken]
    if "title" not in found:
        worded = [c for c in left if c.kind == "text" and c.words >= 1.5 and c.share >= 0.5]
        if worded:
            best = max(worded, key=lambda c: (c.distinct, c.words))
            why = f"the text with the most different phrases; {_examples(best)}"
            found["title"] = Choice(best.name, "guess", why)
            left.remove(best)
    vectors = [c.name for c in left if c.kind == "vector"]
    numeric = tuple(c.name for c in left if _is_numeric(c))
    used = {*numeric, *vectors[:1]}
    others = {c.name: _unused(c) for c in left if c.name not in used}
    id_column = found["item_id"].column if "item_id" in found else None
    ids = frozenset(r for r in texts(table, id_column).to_pylist() if r)
    return CatalogueProfile(found, numeric, vectors[0] if vectors else None, others, ids)


def taken_from_log(rows: Rows, table: pa.Table, column: Column, ids: str) -> bool:
    """Whether a time of items is mostly that of their first event, as a log tells afterwards.

    An item's age would then say which items are going to be engaged.

    Args:
        rows: of ``frame_of``.
        table: the catalogue.
        column: its column of times.
        ids: its column of ids.
    """
    created = times(table, column).cast(pa.int64())
    pairs = {
        ref: at
        for ref, at in zip(texts(table, ids).to_pylist(), created.to_pylist(), strict=True)
        if ref and at is not None
    }
    first = rows.ask(
        """SELECT __item, min(__asked), min(__happened) FROM log
           WHERE __item IS NOT NULL GROUP BY __item"""
    )
    same = [pairs[ref] in (asked, happened) for ref, asked, happened in first if ref in pairs]
    return bool(same) and sum(same) >= 0.5 * len(same)


def _fits(role: str, column: Column) -> bool:
    if column.kind in ("empty", "vector", "other"):
        return False
    if role == "item_id":
        return fits(role, column) and column.distinct >= 0.9 * column.rows
    if role == "created_at":
        return column.is_time
    if role == "title":
        return column.kind == "text"
    return column.is_id and column.distinct < max(2, column.rows)


def _find_id(
    found: Choices, table: pa.Table, columns: Sequence[Column], log_items: Collection[str]
) -> None:
    """The id is the column with the log's ids, whatever it is called."""
    named = found.get("item_id")
    if named is not None and named.column == "item_id":
        return
    taken = {c.column for role, c in found.items() if role != "item_id"}
    wanted = set(list(log_items)[:20_000])
    for column in columns:
        unique = column.is_id and column.distinct >= 0.9 * column.rows
        if not unique or column.name in taken:
            continue
        known = wanted & set(texts(table, column.name).to_pylist())
        if wanted and len(known) >= 0.5 * len(wanted):
            share = len(known) / len(wanted)
            found["item_id"] = Choice(column.name, "certain", f"has {share:.0%} of the log's items")
            return
        if "item_id" in found:
            continue
        if folded(column.name) in _IDS:
            found["item_id"] = Choice(column.name, "likely", "an id, different in each row")
        elif not wanted and column.words <= 1.0:
            found["item_id"] = Choice(column.name, "guess", "different in each row")


def _is_numeric(column: Column) -> bool:
    usable = column.kind in ("integer", "number") and column.unit is None
    free = column.name not in _TAKEN and folded(column.name) not in _IDS
    return usable and free and column.distinct > 1 and column.share >= 0.5 and not _other_id(column)


def _other_id(column: Column) -> bool:
    """Whole numbers that are all different: a bar code rather than a quantity."""
    return column.kind == "integer" and column.known > 50 and column.distinct == column.known


def _unused(column: Column) -> str:
    if column.kind == "empty":
        return "no value at all"
    if column.kind in ("integer", "number") and column.distinct == 1:
        return "always the same"
    if column.share < 0.5:
        return f"{1 - column.share:.0%} are empty"
    if _other_id(column):
        return "different in each row: another id"
    return f"{column.kind}, not used"


def _examples(column: Column) -> str:
    return f"such as {', '.join(map(repr, column.examples[:2]))}"
