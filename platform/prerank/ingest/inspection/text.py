"""An inspection as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from prerank.core.times import DAY_US, utc
from prerank.ingest.inspection.actions import seconds
from prerank.ingest.inspection.catalogue import CatalogueProfile
from prerank.ingest.inspection.look import Inspection
from prerank.ingest.inspection.proposal import (
    candidate_features_of,
    graph_of,
    lacking,
    segments_of,
)
from prerank.ingest.inspection.window import best_of, said

Row = tuple[str, ...]


def profile_text(found: Inspection) -> str:
    """The whole profile: a block for each thing that a mapping settles, and what each costs."""
    blocks: list[tuple[str, Sequence[Row]]] = [
        ("log", _log(found)),
        ("event columns", _columns(found)),
        ("actions", _actions(found)),
        ("label window", _window(found)),
        ("segments", _segments(found)),
        ("candidate features", _candidate_features(found)),
        ("retriever", _retriever(found)),
        ("item graph", _graph(found)),
        ("catalogue columns", _catalogue(found.catalogue)),
        ("problems", [(line,) for line in found.faults] or [("none found",)]),
        ("notes", [(line,) for line in found.remarks]),
        ("still to name", [(name,) for name in lacking(found)]),
    ]
    return "\n\n".join(f"{title}\n{_table(rows)}" for title, rows in blocks if rows)


def _table(rows: Sequence[Row]) -> str:
    """Cells in columns, two blanks apart; the last cell of a row may be as long as it likes."""
    width = max(map(len, rows))
    sizes = [max((len(r[at]) for r in rows if len(r) > at + 1), default=0) for at in range(width)]
    lines = []
    for row in rows:
        cells = [cell.ljust(size) for cell, size in zip(row[:-1], sizes, strict=False)]
        lines.append("  " + "  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def _log(found: Inspection) -> Sequence[Row]:
    sample = found.sample
    files = "file" if sample.files == 1 else "files"
    rows = [(f"{sample.total:,} rows in {sample.files:,} {files}" + " (UBI)" * found.is_ubi,)]
    if not sample.is_whole:
        of = f" of {sample.opened:,} files" if sample.opened < sample.files else ""
        rows = [
            (f"{sample.total:,} rows{of}" if of else rows[0][0],),
            (f"looked at {len(sample.rows):,} rows from all over it: shares are estimates",),
        ]
    counts = (
        f"{found.requests:,} requests, {found.users:,} users, {found.queries:,} queries, "
        f"{found.items:,} items"
    )
    rows.append((counts,))
    if found.span_us is not None:
        first, last = found.span_us
        days = (last - first) / DAY_US
        rows.append((f"{_clock(first)} to {_clock(last)} UTC ({days:.1f} days)",))
    return rows


def _clock(micros: int) -> str:
    try:
        return f"{utc(micros):%Y-%m-%d %H:%M}"
    except OverflowError:
        return "a time that no calendar has"


def _columns(found: Inspection) -> Sequence[Row]:
    rows: list[Row] = [
        (role, choice.column or "none", choice.confidence, choice.why)
        for role, choice in found.roles.items()
    ]
    return rows + [("-", o.column, o.confidence, o.why) for o in found.others]


def _actions(found: Inspection) -> Sequence[Row]:
    rows: list[Row] = []
    for a in found.actions:
        kind = "exposure" if a.passive else "engagement"
        name = a.name if a.name == a.canonical else f"{a.name} -> {a.canonical}"
        rows.append((name, f"{a.rows:,}", f"{a.share:.1%}", kind, a.confidence, a.why))
    if rows and not found.has_impressions:
        line = "no impressions: negatives will be sampled from the catalogue"
        return [*rows, (line,)]
    return rows


def _window(found: Inspection) -> Sequence[Row]:
    best = best_of(found.windows)
    if best is None:
        return []
    delays = [(a.delay_s, a.name) for a in found.actions if not a.passive and a.requests]
    slow, name = max(delays, default=(0.0, ""))
    usual = [(f"the slowest engagement, {name}, comes {seconds(slow)} after its request (median)",)]
    at_once = [("all events are at their request's time: labels come at once",)]
    late = usual if slow else at_once
    return [*((line,) for line in said(found.windows, best)), *late]


def _segments(found: Inspection) -> Sequence[Row]:
    names = segments_of(found)
    if not names:
        return [("none: no column looks like a property of the searcher",)]
    line = "counted by (the first three) and read by the query tower; without them, ignored"
    return [(f"{', '.join(names)}: {line}",)]


def _candidate_features(found: Inspection) -> Sequence[Row]:
    names = candidate_features_of(found)
    if not names:
        return []
    return [(f"{', '.join(names)}: read by the fusion, if callers send them too; else missing",)]


def _retriever(found: Inspection) -> Sequence[Row]:
    if found.rank_by_place is None:
        return []
    return [
        (f"the position may serve as `retriever_rank`: {found.rank_by_place}",),
        ("as a position it also draws clicks: the model then partly repeats the order shown",),
    ]


def _graph(found: Inspection) -> Sequence[Row]:
    why = graph_of(found)
    if not why:
        return []
    return [
        (f"`graph: true`: {why}",),
        ("costs 524 bytes an item and snapshot, and more time for candidates that are near",),
    ]


def _catalogue(catalogue: CatalogueProfile) -> Sequence[Row]:
    rows: list[Row] = [
        (role, choice.column or "none", choice.confidence, choice.why)
        for role, choice in catalogue.choices.items()
    ]
    rows += [("numeric", name, "likely", "a number per item") for name in catalogue.numeric]
    if catalogue.embedding:
        rows.append(("embedding", catalogue.embedding, "certain", "a vector per item"))
    return rows + [("-", name, "likely", why) for name, why in catalogue.others.items()]
