"""Rows per second of ingest for each format, beside DuckDB's plain copy of the same files.

    python benchmarks/ingest.py [--rows 1000000] [--repeats 3] [--out TABLE.md]

The log is generated, the same in every run: four days, a file each, ten rows a request. For each
format DuckDB copies the files to Parquet (``COPY (FROM 'log/*') TO``, all cores, no check of
anything), and ingest makes the canonical tables of them, with every check, on a local Ray of as
many cores; the two take turns. Times are medians over the repeats, with the least and the greatest;
a ratio is that of two neighbouring repeats. Starting Ray is not counted; the first ingest, which
starts its workers, is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from printed import markdown, show

from prerank.core.home import Home
from prerank.core.ray_tasks import start_local
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest

SEED, DAYS, PER_REQUEST = 7, 4, 10
ITEMS, USERS, QUERIES = 50_000, 20_000, 20_000
FORMATS = {
    "parquet": "(FORMAT parquet)",
    "csv": "(FORMAT csv)",
    "csv.gz": "(FORMAT csv, COMPRESSION gzip)",
    "csv.zst": "(FORMAT csv, COMPRESSION zstd)",
    "jsonl": "(FORMAT json)",
}
HEAD = (
    "format",
    "size, MB",
    "DuckDB copy, s",
    "ingest, s",
    "ingest, thousand rows per s",
    "ratio",
)


def day(number: int, requests: int) -> pa.Table:
    """Events of one day, in the order of their requests."""
    rng = np.random.default_rng([SEED, number])
    rows = requests * PER_REQUEST
    of = np.repeat(np.arange(requests), PER_REQUEST)
    start = np.datetime64("2024-03-01", "us").astype(np.int64) + number * 86_400_000_000
    asked = np.sort(start + rng.integers(0, 86_400_000_000, requests))[of]
    action = rng.choice(["impression", "click", "save"], rows, p=[0.9, 0.08, 0.02])
    delay = np.where(action == "impression", 0, rng.integers(1, 60_000_000, rows))
    words = [f"word{i}" for i in range(3_000)]
    queries = np.array([" ".join(rng.choice(words, 1 + i % 4)) for i in range(QUERIES)])
    popular = np.minimum(rng.zipf(1.2, requests) - 1, QUERIES - 1)

    def times(at: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
        return pa.array(at).cast(pa.timestamp("us", "UTC"))

    return pa.table(
        {
            "request_id": pa.array([f"r{number}-{i:08d}" for i in range(requests)]).take(of),
            "request_time": times(asked),
            "event_time": times(asked + delay),
            "user_id": np.char.add("u", rng.integers(0, USERS, requests).astype(str))[of],
            "query": queries[popular][of],
            "item_id": rng.integers(0, ITEMS, rows),
            "action": action,
            "position": np.tile(np.arange(PER_REQUEST), requests),
            "country": rng.choice(["de", "fr", "us"], requests)[of],
        }
    )


def write(log: list[pa.Table], folder: Path, suffix: str) -> int:
    """Write a file per day; returns the bytes of all."""
    folder.mkdir()
    for number, events in enumerate(log):
        with duckdb.connect() as db:
            db.register("events", events)
            db.execute(f"COPY events TO '{folder}/{number}.{suffix}' {FORMATS[suffix]}")
    return sum(file.stat().st_size for file in folder.iterdir())


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(found: list[float], digits: int) -> str:
    """Median (least to greatest)."""
    low, middle, high = (f"{v:.{digits}f}" for v in np.quantile(found, (0, 0.5, 1)))
    return f"{middle} ({low} to {high})"


def measured(folder: Path, suffix: str, size: int, rows: int, repeats: int) -> list[str]:
    """A line of the table."""
    root = folder.parent
    mapping = LogMapping(name="log", segments=("country",))

    def copy() -> None:
        with duckdb.connect() as db:
            db.execute(f"COPY (FROM '{folder}/*.{suffix}') TO '{root}/copy.parquet'")

    def ingested() -> None:
        home = Home.at(root / "home")
        report = ingest(folder, root / "items.parquet", home, mapping, replace=True)
        assert report.manifest.rows["in"] == rows

    plain, ours = [], []
    for _ in range(repeats):
        plain.append(timed(copy))
        ours.append(timed(ingested))
    shutil.rmtree(folder)
    rate = [rows / 1e3 / seconds for seconds in ours]
    ratio = [b / a for a, b in zip(plain, ours, strict=True)]
    return [
        suffix,
        f"{size / 1e6:.0f}",
        spread(plain, 2),
        spread(ours, 2),
        spread(rate, 0),
        spread(ratio, 1),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    os.environ.setdefault("PRERANK_PROGRESS", "0")
    requests = max(args.rows // PER_REQUEST // DAYS, 1)
    log = [day(number, requests) for number in range(DAYS)]
    rows = sum(map(len, log))
    start_local()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        titles = [f"item {i} of {i % 97}" for i in range(ITEMS)]
        items = folder / "items.parquet"
        pq.write_table(pa.table({"item_id": range(ITEMS), "title": titles}), items)
        write([log[0].slice(0, 1_000)], folder / "warm", "csv")
        ingest(folder / "warm", items, Home.at(folder / "home"), LogMapping(name="log"))
        lines = []
        for suffix in FORMATS:
            size = write(log, folder / suffix, suffix)
            lines.append(measured(folder / suffix, suffix, size, rows, args.repeats))
    title = f"{rows:,} rows in {DAYS} files, {ITEMS:,} items; {os.cpu_count()} cores."
    show(f"{title}\n\n{markdown(HEAD, lines)}\n", args.out)


if __name__ == "__main__":
    main()
