"""Snapshots of the item graph: what was known at a cutoff, walked (``interactrank.graph.walk``) and
embedded (``interactrank.graph.vectors``).

Neighbours and vectors are learned from the log, so they are snapshots like any other: a cutoff, and
nothing that became known at or after it. The first ones follow each other by a day, later ones by
more (``due``), up to 32 days: neighbours of a young log change fast. The days count from the first
event that became known, which a log that grows keeps, so a build that goes on has the cutoffs of
one build of everything.

A graph holds the engagements of the LOOK_BACK_DAYS before its cutoff, each with the weight that its
user had then. What it costs is in proportion to them, not to the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.item_vectors import narrowed
from interactrank.features.schema import FeatureSchema
from interactrank.features.text import tokens
from interactrank.graph.vectors import embedded
from interactrank.graph.walk import Relation, walked
from prerank.core.files import remove
from prerank.core.graphs import graph_file, write_graph
from prerank.core.sql import connection
from prerank.core.times import DAY_US
from prerank.core.travel import Carried
from prerank.core.trust import Flags

LOOK_BACK_DAYS = 730
LONGEST_STEP = 32
"""Days from one cutoff to the next, at most."""
MAX_EDGE = 3
"""Engagements with an item under a key that count."""
ITEMS_OF_KEY, KEYS_OF_ITEM = 200, 1_000
"""What a walk passes of a key, and of an item: the heaviest edges, of equals the latest."""
PARTS = 1_000
"""Parts of an engagement, in which users' weights are counted: sums of them are exact."""
MEMORY = "1GB"
RELATIONS = {
    "user": "SELECT hash(user_id) AS key, item_id, part, time FROM acts",
    "query": "SELECT hash(query) AS key, item_id, part, time FROM acts",
    "word": "SELECT hash(word) AS key, item_id, part, time FROM acts JOIN words USING (query)",
}


@dataclass(frozen=True)
class GraphTask:
    """A snapshot to make: of the events ``files``, for the feature tables ``tables``.

    ``engagements`` are the actions that count; ``trust`` are weights of users who have a flag, as
    of the cutoff.
    """

    cutoff_us: int
    files: tuple[str, ...]
    engagements: tuple[str, ...]
    tables: Path
    trust: Mapping[str, float] = field(default_factory=dict)

    @property
    def spill(self) -> Path:
        """What does not fit into memory."""
        return self.tables / f"spill-graph-{self.cutoff_us}"

    def reads(self) -> list[Path]:
        """The event files."""
        return [Path(file) for file in self.files]

    def writes(self) -> list[Path]:
        """The snapshot."""
        return [graph_file(self.tables, self.cutoff_us)]


@dataclass(frozen=True)
class GraphCounts:
    """What a snapshot holds. ``edges`` are those of all relations, before any is pruned."""

    cutoff_us: int
    items: int
    edges: int


@dataclass(frozen=True)
class Built:
    """Feature tables that are being built: of a log's event ``files``, in the folder ``tables``."""

    schema: FeatureSchema
    files: Sequence[Path]
    flags: Flags
    tables: Path


def make_graphs(
    built: Built,
    before: Mapping[str, Any] | None,
    since_us: int,
    until_us: int,
    spread: Callable[..., list[Any]],
) -> dict[str, Any]:
    """Make the snapshots that are due, and tell of all.

    Args:
        built: the tables.
        before: what was told of the tables that the build goes on from; None for none.
        since_us, until_us: last cutoffs of those, and of the build, microseconds since 1970.
        spread: ``ray_map``, or the same in this process.
    """
    told = before or {"origin_us": origin_us(built.files), "snapshots": []}
    tasks = [
        GraphTask(
            cutoff,
            files_of(built.files, cutoff),
            built.schema.engagements,
            built.tables,
            built.flags.as_of(cutoff),
        )
        for cutoff in due(told["origin_us"], since_us, until_us)
    ]
    made: list[GraphCounts] = spread(
        Carried(make_graph, GraphTask.reads, GraphTask.writes), tasks, "graph"
    )
    return {**told, "snapshots": [*told["snapshots"], *map(asdict, made)]}


def origin_us(files: Sequence[Path]) -> int:
    """Midnight of the day on which the first event became known, microseconds since 1970."""
    first = []
    for file in files:
        metadata = pq.read_metadata(file)
        at = metadata.schema.names.index("known_time")
        bounds = [
            metadata.row_group(g).column(at).statistics for g in range(metadata.num_row_groups)
        ]
        first += [b.min_raw for b in bounds if b is not None and b.has_min_max]
    return min(first, default=0) // DAY_US * DAY_US


def due(origin: int, since_us: int, until_us: int) -> list[int]:
    """Cutoffs in (since_us, until_us] of a log that begins at ``origin``, microseconds.

    A day apart in the first week, then a quarter of the largest power of two of days so far.

    Examples:
        >>> day = 86_400_000_000
        >>> [cutoff // day for cutoff in due(0, 0, 20 * day)]
        [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    """
    found = []
    for age in range(max((since_us - origin) // DAY_US, 0) + 1, (until_us - origin) // DAY_US + 1):
        step = min(max((1 << (age.bit_length() - 1)) // 4, 1), LONGEST_STEP)
        if age % step == 0 and since_us < origin + age * DAY_US:
            found.append(origin + age * DAY_US)
    return found


def files_of(files: Sequence[Path], cutoff_us: int) -> tuple[str, ...]:
    """The event files that may hold an engagement of a snapshot."""
    low = cutoff_us - LOOK_BACK_DAYS * DAY_US
    days = {file: np.datetime64(file.parent.name.removeprefix("day="), "us") for file in files}
    begins = {file: int(day.astype(np.int64)) for file, day in days.items()}
    return tuple(str(file) for file in files if low - DAY_US < begins[file] < cutoff_us)


def make_graph(task: GraphTask) -> GraphCounts:
    """Write the snapshot of a task."""
    ids, relations, edges = edges_of(task)
    (path,) = task.writes()
    path.parent.mkdir(exist_ok=True)
    write_graph(path, walked(ids, relations), narrowed(embedded(len(ids), relations)))
    return GraphCounts(task.cutoff_us, len(ids), edges)


def edges_of(task: GraphTask) -> tuple[NDArray[np.int64], list[Relation], int]:
    """Items of a snapshot int64 [n], ascending, their relations, and how many edges these have."""
    task.spill.mkdir(parents=True, exist_ok=True)
    with connection(memory=MEMORY, spill=task.spill) as db:
        _acts(db, task)
        ids = db.sql("SELECT DISTINCT item_id FROM acts ORDER BY 1").to_arrow_table()[0].to_numpy()
        edges = [_edges(db, sql) for sql in RELATIONS.values()]
    remove(task.spill)
    return ids, [_relation(ids, table) for table in edges], sum(len(table) for table in edges)


def _acts(db: duckdb.DuckDBPyConnection, task: GraphTask) -> None:
    """Make the tables ``acts`` of engagements and ``words`` of their queries."""
    flagged = pa.table(
        {
            "user_id": pa.array(list(task.trust), pa.string()),
            "weight": pa.array(list(task.trust.values()), pa.float64()),
        }
    )
    db.register("flagged", flagged)
    db.execute(
        """CREATE TEMP TABLE acts AS
        SELECT user_id, query, item_id, epoch_us(event_time) AS time,
            round($parts * coalesce(weight, 1))::BIGINT AS part
        FROM read_parquet($files, hive_partitioning = false) LEFT JOIN flagged USING (user_id)
        WHERE epoch_us(known_time) < $cutoff AND epoch_us(event_time) >= $low
            AND list_contains($engagements, action)""",
        {
            "parts": PARTS,
            "files": list(task.files),
            "cutoff": task.cutoff_us,
            "low": task.cutoff_us - LOOK_BACK_DAYS * DAY_US,
            "engagements": list(task.engagements),
        },
    )
    queries = db.sql("SELECT DISTINCT query FROM acts").to_arrow_table()[0].to_pylist()
    pairs = [(query, word) for query in queries for word in dict.fromkeys(tokens(query))]
    words = pa.table(
        {
            "query": pa.array([query for query, _ in pairs], pa.string()),
            "word": pa.array([word for _, word in pairs], pa.string()),
        }
    )
    db.register("words", words)


def _edges(db: duckdb.DuckDBPyConnection, acts: str) -> pa.Table:
    """Edges of a relation: key, item_id, weight in engagements, and the time of the latest one."""
    return db.sql(
        f"""SELECT key, item_id, least(sum(part) / {PARTS}, {MAX_EDGE})::FLOAT AS weight,
            max(time) AS time
        FROM ({acts}) GROUP BY key, item_id HAVING sum(part) > 0"""
    ).to_arrow_table()


def _relation(ids: NDArray[np.int64], edges: pa.Table) -> Relation:
    weight, time = edges["weight"].to_numpy(), edges["time"].to_numpy()
    item = np.searchsorted(ids, edges["item_id"].to_numpy())
    names, key = np.unique(edges["key"].to_numpy(), return_inverse=True)
    by_key = _heaviest(key, item, weight, time, ITEMS_OF_KEY)
    by_item = _heaviest(item, key, weight, time, KEYS_OF_ITEM)
    return Relation(
        key[by_item].astype(np.int32),
        weight[by_item],
        _offsets(item[by_item], len(ids)),
        item[by_key].astype(np.int32),
        weight[by_key],
        _offsets(key[by_key], len(names)),
        np.bincount(key, weight, len(names)).astype(np.float32),
        np.bincount(item, weight, len(ids)).astype(np.float32),
    )


def _heaviest(
    of: NDArray[np.int64],
    other: NDArray[np.int64],
    weight: NDArray[np.float32],
    time: NDArray[np.int64],
    limit: int,
) -> NDArray[np.int64]:
    """Edges by what they are ``of``, at most ``limit`` each: the heaviest, then the latest."""
    order = np.lexsort((other, -time, -weight, of))
    ordered = of[order]
    first = np.searchsorted(ordered, ordered, side="left")
    kept: NDArray[np.int64] = order[np.arange(len(order)) - first < limit]
    return kept


def _offsets(of: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Bounds int64 [count + 1] of ascending numbers."""
    return np.searchsorted(of, np.arange(count + 1)).astype(np.int64)
