"""The item graph as a table of Parquet, which Feast reads: the specification of what requests take.

Serving and training read snapshots where they lie (``prerank.core.graphs``). The feature view
``FeatureSchema.neighbours_view`` has the same as rows of items, each stamped with the time at which
its snapshot was published. A row stands until the next one of its item; where the next snapshot has
the item no more, a row without neighbours ends it.

The table takes more bytes than the snapshots, and nothing of the platform reads it, so it is
written for those who ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.item_vectors import widened
from interactrank.features.schema import VECTOR_WIDTH
from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.files import locked, publish
from prerank.core.graphs import cutoff_of, read_graph, read_vectors
from prerank.core.home import Home
from prerank.core.times import UTC_US
from prerank.features.similar import snapshots

TABLE = "item_neighbours"
"""Folder of the feature tables, which ``feature_repo`` names too."""
SCHEMA = pa.schema(
    {
        "item_id": pa.int64(),
        "event_timestamp": UTC_US,
        "neighbours": pa.list_(pa.int64()),
        "weights": pa.list_(pa.float32()),
        "vector": pa.list_(pa.float32()),
    }
)
NONE = np.zeros(0, np.int64)


def export_graph(home: Home) -> list[Path]:
    """Write the rows of snapshots that the table has not; returns the files.

    Raises:
        StateError: of ``prerank.features.similar.snapshots``.
        DamagedError: a snapshot is damaged.
    """
    files = [path for _, path in snapshots(home)]
    built, tables = manifest_of_log(home), tables_of_log(home)
    made = []
    # Builds take the folder's place.
    with locked(tables):
        for before, path in pairwise([None, *files]):
            assert path is not None
            target = tables / TABLE / f"{path.stem}.parquet"
            if not target.exists():
                _write(target, _rows(path, before, built))
                made.append(target)
    return made


def _write(target: Path, rows: Iterator[pa.Table]) -> None:
    target.parent.mkdir(exist_ok=True)
    partial = target.with_suffix(".partial")
    with pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        for table in rows:
            writer.write_table(table)
    publish(target, partial)
    partial.rename(target)


def _rows(path: Path, before: Path | None, built: Mapping[str, Any]) -> Iterator[pa.Table]:
    """Rows of a snapshot's items, and of those that only the snapshot ``before`` has."""
    published_us = cutoff_of(path) + built["lag_minutes"] * 60_000_000
    graph, vectors = read_graph(path), read_vectors(path)
    near = graph.rows >= 0
    yield _table(
        graph.ids,
        published_us,
        near.sum(1),
        graph.ids[graph.rows[near]],
        graph.weights[near],
        widened(vectors.bits),
    )
    left = NONE if before is None else np.setdiff1d(read_graph(before).ids, graph.ids)
    zeros = np.zeros((len(left), VECTOR_WIDTH), np.float32)
    yield _table(
        left, published_us, np.zeros(len(left), np.int64), NONE, np.zeros(0, np.float32), zeros
    )


def _table(
    ids: NDArray[np.int64],
    published_us: int,
    counts: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    weights: NDArray[np.float32],
    vectors: NDArray[np.float32],
) -> pa.Table:
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))).astype(np.int32)
    width = np.arange(len(ids) + 1, dtype=np.int32) * VECTOR_WIDTH
    columns = [
        pa.array(ids),
        pa.array(np.full(len(ids), published_us)).cast(UTC_US),
        pa.ListArray.from_arrays(offsets, neighbours),
        pa.ListArray.from_arrays(offsets, weights),
        pa.ListArray.from_arrays(width, vectors.reshape(-1)),
    ]
    return pa.table(columns, schema=SCHEMA)
