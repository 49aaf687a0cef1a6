"""DuckDB as every task uses it."""

from __future__ import annotations

from pathlib import Path

import duckdb


def connection(
    threads: int = 1, memory: str | None = None, spill: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database: UTC, no progress bar of its own, ``threads`` threads.

    One thread is right inside a Ray Data task: the tasks are the parallelism. ``memory`` (such as
    "512MB") bounds what it holds; what does not fit goes to the folder ``spill``.
    """
    limits = {"memory_limit": memory, "temp_directory": None if spill is None else str(spill)}
    db = duckdb.connect(config={name: value for name, value in limits.items() if value})
    db.execute(f"SET threads = {threads}; SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return db


def quoted(column: str) -> str:
    """The name of a column, which a team chose, as SQL has it. Values and paths are parameters."""
    escaped = column.replace('"', '""')
    return f'"{escaped}"'
