"""Snapshots of the item graph: how they lie on disk, and which of them a request takes.

A snapshot holds neighbours and vectors of items. It is one Arrow file that is read where it lies,
named by its cutoff, in the folder ``graph`` of a schema's feature tables. It was published
``lag_minutes`` after its cutoff, as a packed row was, and a request takes the latest that was
published by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.alike import query_vectors, user_vectors
from interactrank.features.inputs import FeatureInputs
from interactrank.features.item_vectors import ItemVectors
from interactrank.features.near import Near
from interactrank.features.neighbours import Neighbours
from interactrank.features.schema import NEIGHBOURS, VECTOR_WIDTH, FeatureSchema
from prerank.core.errors import DamagedError

GRAPH = "graph"
SUFFIX = ".arrow"
KEPT = 4
"""Snapshots that a process keeps open."""


def graph_file(tables: Path, cutoff_us: int) -> Path:
    """Where the snapshot of a cutoff lies, in the feature tables of a schema."""
    return tables / GRAPH / f"{cutoff_us:020d}{SUFFIX}"


def cutoff_of(file: Path) -> int:
    """Cutoff of the snapshot in a file, microseconds since 1970."""
    return int(file.stem)


def write_graph(path: Path, graph: Neighbours, vectors: NDArray[np.uint16]) -> None:
    """Write a snapshot: neighbours, and vectors uint16 [n, VECTOR_WIDTH] of the same items."""
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
        for values, width in (
            (graph.rows, NEIGHBOURS),
            (graph.codes, NEIGHBOURS),
            (vectors, VECTOR_WIDTH),
        )
    ]
    columns = [pa.array(graph.ids), *lists, pa.array(graph.scale)]
    table = pa.table(columns, names=["item_id", "neighbours", "codes", "vectors", "scale"])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        # One batch, so that an array is one piece of memory.
        writer.write_table(table, max_chunksize=max(len(table), 1))


def read_graph(path: Path) -> Neighbours:
    """The neighbours of the snapshot in a file, which is mapped.

    Raises:
        DamagedError: it is none; the message names the remedy.
    """
    return _read(path)[0]


def read_vectors(path: Path) -> ItemVectors:
    """The vectors of the snapshot in a file, which is mapped.

    Raises:
        DamagedError: it is none; the message names the remedy.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[Neighbours, ItemVectors]:
    try:
        stamp = path.stat()
        return _mapped(path, stamp.st_mtime_ns, stamp.st_ino)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: {error}. Run `prerank features` again.") from None


@lru_cache(KEPT)
def _mapped(path: Path, *_: int) -> tuple[Neighbours, ItemVectors]:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    ids, scale = (table[name].combine_chunks().to_numpy() for name in ("item_id", "scale"))
    neighbours, codes, vectors = (
        table[name].combine_chunks().flatten().to_numpy().reshape(-1, width)
        for name, width in (
            ("neighbours", NEIGHBOURS),
            ("codes", NEIGHBOURS),
            ("vectors", VECTOR_WIDTH),
        )
    )
    # The kernel looks them up without a check.
    if neighbours.size and not -1 <= neighbours.min() <= neighbours.max() < len(ids):
        raise ValueError("a neighbour is none of its items")
    return Neighbours(ids, neighbours, codes, scale), ItemVectors(ids, vectors)


@dataclass(frozen=True)
class Graphs:
    """The snapshots in a schema's feature tables: their files, and when they were published.

    ``published_us`` int64 [n], ascending, microseconds since 1970.
    """

    files: Sequence[Path]
    published_us: NDArray[np.int64]

    @classmethod
    def of(cls, tables: Path, lag_minutes: int) -> Graphs:
        """Those that are there now."""
        files = sorted((tables / GRAPH).glob(f"*{SUFFIX}"))
        cutoffs = np.array([cutoff_of(file) for file in files], np.int64)
        return cls(files, cutoffs + lag_minutes * 60_000_000)

    def published_by(self, time_us: int) -> Graphs:
        """Those that were published at a time, or before it."""
        n = int(np.searchsorted(self.published_us, time_us, "right"))
        return Graphs(self.files[:n], self.published_us[:n])

    def with_near(self, schema: FeatureSchema, inputs: FeatureInputs) -> FeatureInputs:
        """The inputs of B requests with what is near to each, as of its time.

        Requests of a time before all snapshots have nothing near. Requests in order of time are
        done in one go for each snapshot.

        Raises:
            DamagedError: a snapshot is.
            ValueError: of ``check_inputs``.
        """
        if not schema.graph:
            return inputs
        which = np.searchsorted(self.published_us, inputs.time, side="right") - 1
        edges = np.flatnonzero(np.diff(which)) + 1
        bounds = [0, *edges.tolist(), len(which)]
        parts = [
            self._near(schema, inputs.slice(low, high), int(which[low]))
            for low, high in pairwise(bounds)
            if high > low
        ]
        used = [self.files[at] for at in np.unique(which).tolist() if at >= 0]
        snapshots = {cutoff_of(file): read_vectors(file) for file in used}
        return replace(inputs, **Near.joined(parts)._asdict(), snapshots=snapshots)

    def _near(self, schema: FeatureSchema, inputs: FeatureInputs, at: int) -> Near:
        if at < 0:
            return Near.nothing(len(inputs.time))
        near = read_graph(self.files[at]).near(schema, inputs)
        vectors = read_vectors(self.files[at])
        return near._replace(
            user_vectors=user_vectors(vectors, inputs),
            query_vectors=query_vectors(vectors, schema, inputs),
            near_cutoffs=np.full(len(inputs.time), cutoff_of(self.files[at])),
        )
