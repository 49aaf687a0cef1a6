"""DuckDB as every task uses it."""

from __future__ import annotations

import duckdb


def connection(threads: int = 1) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database: UTC, no progress bar of its own, ``threads`` threads.

    One thread is right inside a Ray Data task: the tasks are the parallelism.
    """
    db = duckdb.connect()
    db.execute(f"SET threads = {threads}; SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return db
