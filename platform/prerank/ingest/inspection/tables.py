"""Questions that are asked of a table of rows, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from prerank.core.sql import connection, quoted
from prerank.core.times import UTC_US
from prerank.ingest.inspection.columns import Column
from prerank.ingest.parsing import to_text, to_time

MEMORY = "1GB"


class Rows:
    """A table that can be asked, as ``log``; closed at the end of a ``with``."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._db: duckdb.DuckDBPyConnection = connection(threads=2, memory=MEMORY)
        self._db.register("log", table)

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def ask(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows that a query gives."""
        return self._db.execute(query, list(values)).fetchall()

    def one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The only row that a query gives."""
        return self.ask(query, values)[0]

    def share(self, condition: str, where: str = "true") -> float:
        """Share of the rows ``where`` for which a condition holds; 0 where there are none."""
        (found,) = self.one(f"SELECT avg(({condition})::INT) FROM log WHERE {where}")
        return float(found or 0.0)


@dataclass(frozen=True)
class Grouping:
    """What the rows with one value of a column have in common.

    Attributes:
        groups: values.
        rows: rows of a group, on average.
        mixed: column -> share of the groups that have several values of it.
    """

    groups: int
    rows: float
    mixed: dict[str, float]


def grouping(rows: Rows, key: str, others: Sequence[str]) -> Grouping:
    """How the rows with one value of ``key`` differ in ``others``; texts by their lower case."""
    parts = [f"count(DISTINCT lower(trim({quoted(o)}::VARCHAR))) > 1" for o in others]
    inner = ", ".join([f"{p} AS m{at}" for at, p in enumerate(parts)] + ["count(*) AS n"])
    outer = ", ".join([f"avg(m{at}::INT)" for at in range(len(parts))] + ["count(*)", "avg(n)"])
    name = quoted(key)
    *mixed, groups, size = rows.one(
        f"SELECT {outer} FROM (SELECT {inner} FROM log WHERE {name} IS NOT NULL GROUP BY {name})"
    )
    shares = {o: float(m or 0.0) for o, m in zip(others, mixed, strict=True)}
    return Grouping(int(groups), float(size or 0.0), shares)


def times(table: pa.Table, column: Column) -> pa.Array:
    """A column as timestamp[us, UTC]; null where a value is no time."""
    return to_time(table[column.name].combine_chunks(), column.unit)


def texts(table: pa.Table, name: str | None) -> pa.Array:
    """A column as string; all null where there is none."""
    if name is None or pa.types.is_nested(table[name].type):
        return pa.nulls(len(table), pa.string())
    return to_text(table[name].combine_chunks())


def no_times(rows: int) -> pa.Array:
    """A column of times that are not known."""
    return pa.nulls(rows, UTC_US)
