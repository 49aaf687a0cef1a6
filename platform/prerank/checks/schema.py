"""How the columns of a log change from one part of it to the next: a day, or a file of a day.

A part is described by a sample of its rows. What is told of two that follow each other: columns
that come or go, another kind of values, many more or fewer that are missing, numbers of another
scale, times in another unit, and actions that come or go.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from prerank.core.home import Home
from prerank.core.manifest import FULL_RANKER, LogManifest
from prerank.core.sql import connection, quoted
from prerank.core.times import plausible
from prerank.ingest.landing import in_turn, opened
from prerank.ingest.mapping import LogMapping
from prerank.ingest.sources import raw_files

SAMPLE = 50_000
LEAST_ROWS = 50
"""A part with fewer rows tells nothing of shares."""
SCALE = 100.0
"""Medians this many times apart are of two units."""
NUMBERS = 0.99
"""Share of the texts of a column from which they are numbers that are written as text."""
MAX_ACTIONS = 100
UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
"""Unit of a time -> microseconds in it."""


@dataclass(frozen=True)
class Column:
    """A column of a part.

    Attributes:
        kind: "number", "text", "time" or what else DuckDB calls it.
        missing: share of values that are not there, or empty.
        median: of the absolute values of numbers; None of anything else.
    """

    kind: str
    missing: float
    median: float | None


@dataclass(frozen=True)
class Part:
    """A day or a file of a log: its rows, its columns by name, and its actions."""

    name: str
    rows: int
    columns: Mapping[str, Column]
    actions: frozenset[str]


@dataclass(frozen=True)
class Change:
    """What is new of a column in a part, against the part before it."""

    part: str
    column: str
    what: str

    def __str__(self) -> str:
        return f"{self.part}: {self.column} {self.what}"


def days_of(home: Home, manifest: LogManifest) -> list[Part]:
    """The days of a log, oldest first."""
    told = ["position", *(f"retriever_{name}" for name in manifest.retriever), *manifest.segments]
    told += [FULL_RANKER] * manifest.full_ranker
    with connection(threads=2) as db:
        return [
            _part(db, folder.name.removeprefix("day="), sorted(folder.glob("*.parquet")), told)
            for folder in sorted(home.events.glob("day=*"))
        ]


def files_of(place: str | Path, mapping: LogMapping, scratch: Path) -> list[Part]:
    """The files of a raw log as they lie there, in the order of their names.

    Args:
        place: absolute path, glob or URI (``prerank.ingest.sources``).
        mapping: names the column of actions.
        scratch: an empty folder, for what is not Parquet on this machine.

    Raises:
        ConfigError, DataError, NotReadyError: as an ingest of it does.
    """
    source = opened(*raw_files(place, "events"), scratch, in_turn, mapping.events.nested)
    action = mapping.events.action or "action"
    with connection(threads=2) as db:
        return [
            _part(db, name, [file], schema.names, action)
            for file, name, schema in zip(source.files, source.names, source.schemas, strict=True)
        ]


def changes(
    parts: Sequence[Part], missing: float, known_actions: Collection[str] = ()
) -> list[Change]:
    """What changes from part to part.

    Args:
        parts: in order of time.
        missing: the share of missing values may differ by so much.
        known_actions: of the log before the first part; none where nothing is known of it.
    """
    parts = [part for part in parts if part.rows >= LEAST_ROWS]
    found, seen = [], set(known_actions)
    for at, part in enumerate(parts):
        if seen:
            new = sorted(part.actions - seen)
            found += [Change(part.name, "action", f"has {a!r}, which is new") for a in new]
        seen |= part.actions
        if at:
            found += _between(parts[at - 1], part, missing)
    return found


def _between(before: Part, part: Part, missing: float) -> list[Change]:
    found = [
        Change(part.name, name, f"is new; {before.name} has no such column")
        for name in sorted(part.columns.keys() - before.columns.keys())
    ]
    found += [
        Change(part.name, name, f"is gone; {before.name} has it")
        for name in sorted(before.columns.keys() - part.columns.keys())
    ]
    found += [
        Change(part.name, "action", f"lacks {action!r}, which {before.name} has")
        for action in sorted(before.actions - part.actions)
    ]
    for name in sorted(before.columns.keys() & part.columns.keys()):
        told = _differs(before.columns[name], part.columns[name], missing)
        found += [Change(part.name, name, what) for what in told]
    return found


def _differs(before: Column, now: Column, missing: float) -> list[str]:
    told = []
    if abs(now.missing - before.missing) > missing:
        told.append(f"is missing in {now.missing:.0%} of rows, before in {before.missing:.0%}")
    if now.missing == 1 or before.missing == 1:
        return told
    if now.kind != before.kind:
        told.append(f"holds {now.kind}, before {before.kind}")
    elif now.median and before.median:
        units = _unit(before.median), _unit(now.median)
        ratio = now.median / before.median
        if all(units) and units[0] != units[1]:
            told.append(f"is in {units[1]}, before in {units[0]}")
        elif max(ratio, 1 / ratio) >= SCALE:
            told.append(f"is {ratio:,.3g} times as large as before, in the median")
    return told


def _unit(number: float) -> str:
    """The unit in which a number is a time of our days; empty if in none."""
    return next((unit for unit, us in UNITS.items() if number > 1e8 and plausible(number * us)), "")


def _part(
    db: duckdb.DuckDBPyConnection,
    name: str,
    files: Sequence[Path],
    columns: Sequence[str],
    action: str = "action",
) -> Part:
    places = {"files": [str(file) for file in files]}
    rows = "read_parquet($files, hive_partitioning = false, union_by_name = true)"
    described = db.execute(f"DESCRIBE SELECT * FROM {rows}", places).fetchall()
    types = {name: kind for name, kind, *_ in described}
    there = [column for column in columns if column in types]
    asked = ", ".join(["count(*)", *(part for c in there for part in _asked(c, types[c]))])
    sample = f"(SELECT * FROM {rows} USING SAMPLE reservoir({SAMPLE} ROWS) REPEATABLE (0))"
    answer = db.execute(f"SELECT {asked} FROM {sample}", places).fetchone()
    assert answer is not None
    count, values = answer[0], list(answer[1:])
    found = {c: _column(types[c], values[4 * i : 4 * i + 4]) for i, c in enumerate(there)}
    actions: list[Any] = []
    if action in types:
        actions = db.execute(
            f"SELECT DISTINCT {quoted(action)}::VARCHAR FROM {rows} LIMIT {MAX_ACTIONS}", places
        ).fetchall()
    return Part(name, count, found, frozenset(a for (a,) in actions if a))


def _asked(column: str, kind: str) -> list[str]:
    """Missing values, others, numbers among them, and their median."""
    name = quoted(column)
    if "[" in kind or kind.startswith(("STRUCT", "MAP", "BLOB")):
        return [f"count(*) - count({name})", f"count({name})", "0", "NULL"]
    text = f"nullif(trim({name}::VARCHAR), '')"
    number = f"TRY_CAST({text} AS DOUBLE)"
    if kind.startswith(("TIMESTAMP", "DATE", "TIME", "BOOL")):
        number = "NULL::DOUBLE"
    return [
        f"count(*) - count({text})",
        f"count({text})",
        f"count({number})",
        f"median(abs({number})) FILTER (isfinite({number}))",
    ]


def _column(kind: str, values: Sequence[Any]) -> Column:
    missing, there, numbers, median = values
    if kind.startswith(("TIMESTAMP", "DATE")):
        says = "time"
    elif there and numbers >= NUMBERS * there:
        says = "number"
    else:
        says = "text" if kind == "VARCHAR" or kind.startswith("ENUM") else kind.lower()
    share = missing / max(missing + there, 1)
    return Column(says, share, float(median) if says == "number" and median is not None else None)
