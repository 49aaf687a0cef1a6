"""What a snapshot of the item graph costs as its edges grow, beside SciPy on the same edges.

    python benchmarks/graph.py [--events 50000] [--repeats 3] [--out TABLE.md]

Logs of one, two and four times the events, with items, users and queries in proportion and of
Zipfian popularity. "lists" is DuckDB's part: from event files to lists. "walk" finds neighbours and
"vectors" embeds. SciPy's are the product of the same two matrices, without keeping the nearest, and
``svds`` of the same width, to its own precision. Processor seconds, medians over the repeats; all
take turns in each repeat. Compiling is not counted.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from printed import markdown, show
from scipy import sparse
from scipy.sparse.linalg import svds

from interactrank.features.schema import VECTOR_WIDTH
from interactrank.graph.vectors import embedded, information
from interactrank.graph.walk import Relation, walked
from prerank.core.times import DAY_US
from prerank.features.graph import GraphTask, edges_of, make_graph

SEED, DAYS = 7, 30
WORDS = 3
HEAD = (
    "events",
    "items",
    "edges",
    "file, MB",
    "lists, s",
    "walk, s",
    "vectors, s",
    "product, s",
    "svds, s",
    "walk / product",
    "vectors / svds",
)


def write_log(folder: Path, events: int) -> tuple[str, ...]:
    """A month of engagements, a file a day."""
    rng, made = np.random.default_rng(SEED), []
    start = int(np.datetime64("2024-03-01", "us").astype(np.int64))

    def drawn(count: int) -> NDArray[np.int64]:
        popular = 1 / np.arange(1, count + 1) ** 0.8
        return rng.choice(count, events, p=popular / popular.sum())

    item, user, query = drawn(events // 10), drawn(events // 10), drawn(events // 5)
    words = max(events // 50, WORDS)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, words, WORDS)) for _ in range(events // 5)]
    time_us = start + rng.integers(0, DAYS * DAY_US, events)
    stamps = pa.array(time_us).cast(pa.timestamp("us", tz="UTC"))
    table = pa.table(
        {
            "user_id": [f"u{u}" for u in user],
            "query": [texts[q] for q in query],
            "item_id": item,
            "action": ["click"] * events,
            "event_time": stamps,
            "known_time": stamps,
        }
    )
    for day in range(DAYS):
        low = start + day * DAY_US
        path = folder / f"day={np.datetime64(low, 'us').astype('datetime64[D]')}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table.filter(pa.array((time_us >= low) & (time_us < low + DAY_US))), path)
        made.append(str(path))
    return tuple(made)


def matrix(values: NDArray[np.float32], r: Relation, n: int) -> Any:
    """Keys by items."""
    shape = (len(r.key_totals), n)
    return sparse.csr_matrix((values.astype(np.float64), r.items, r.key_offsets), shape=shape)


def product(relations: list[Relation], n: int) -> Any:
    """The walk of all pairs."""
    found: Any = 0
    for r in relations:
        edges = matrix(r.item_weights, r, n)
        back = sparse.diags(1 / r.key_totals) @ edges
        found = found + sparse.diags(1 / np.maximum(r.item_totals, 1e-9)) @ (edges.T @ back)
    return found


def seconds(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def measured(folder: Path, events: int, repeats: int) -> list[str]:
    end = int(np.datetime64("2024-03-01", "us").astype(np.int64)) + DAYS * DAY_US
    task = GraphTask(end, write_log(folder / "log", events), ("click",), folder)
    (file,) = task.writes()
    made = make_graph(task)
    ids, relations, edges = edges_of(task)
    n = len(ids)
    below = sparse.vstack([matrix(information(r), r, n) for r in relations])
    acts: list[Callable[[], object]] = [
        lambda: edges_of(task),
        lambda: walked(ids, relations),
        lambda: embedded(n, relations),
        lambda: product(relations, n),
        lambda: svds(below, k=VECTOR_WIDTH, random_state=SEED),
    ]
    times = np.array([[seconds(act) for act in acts] for _ in range(repeats)])
    _, walk, vectors, whole, svd = times.T
    return [
        f"{events:,}",
        f"{made.items:,}",
        f"{edges:,}",
        f"{file.stat().st_size / 1e6:.1f}",
        *(f"{took:.2f}" for took in np.median(times, 0)),
        *(f"{np.median(ratio):.2f}" for ratio in (walk / whole, vectors / svd)),
    ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=50_000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    rows = []
    for times in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(Path(folder), times * args.events, args.repeats))
    show(markdown(HEAD, rows), args.out)


if __name__ == "__main__":
    main()
