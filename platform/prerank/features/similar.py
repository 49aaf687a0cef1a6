"""What the item graph found: its snapshots, an item's neighbours, and what vectors find alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.alike import query_vectors, user_vectors
from interactrank.features.item_vectors import ItemVectors
from interactrank.features.text import normalise
from prerank.core.errors import ConfigError, StateError
from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.graphs import graph_file, read_graph, read_vectors
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import UTC_US
from prerank.features.offline import offline_inputs


@dataclass(frozen=True)
class Similar:
    """Items that are near, the nearest first, as of a snapshot.

    ``ids`` int64 [n] and ``weights`` float [n].
    """

    cutoff_us: int
    ids: NDArray[np.int64]
    weights: NDArray[Any]
    items: pa.Table

    def lines(self, most: int) -> Iterator[tuple[float, str]]:
        """Weight, and id and title, of the first ``most``."""
        for item, weight in zip(self.ids[:most], self.weights[:most].tolist(), strict=True):
            at = pc.index(self.items["item_id"], int(item)).as_py()
            known = "an item that left the catalogue"
            if at >= 0:
                known = f"{self.items['item_ref'][at]}  {self.items['title'][at]}"
            yield weight, known


def snapshots(home: Home) -> list[tuple[dict[str, int], Path]]:
    """What is known of each snapshot (``features.graph.GraphCounts``), and its file.

    Raises:
        StateError: the log asks for no graph, or no snapshot is due yet.
    """
    if not LogManifest.load(home).schema.graph:
        raise StateError(
            "this log has no item graph: add `graph: true` to its mapping, run `prerank ingest "
            "--replace` with it, and `prerank features`."
        )
    told: list[dict[str, int]] = manifest_of_log(home)["graph"]["snapshots"]
    if not told:
        raise StateError("no snapshot of the item graph yet: the first is due after a day of log.")
    files = [graph_file(tables_of_log(home), one["cutoff_us"]) for one in told]
    home.fetch(files[0].parent, home.items)
    return list(zip(told, files, strict=True))


def neighbours(home: Home, item: str) -> Similar:
    """Neighbours of an item by its id in the log, with weights as parts of the nearest one's.

    Raises:
        ConfigError: the catalogue has no such item.
        StateError: as of ``snapshots``.
    """
    told, path = snapshots(home)[-1]
    found, items = read_graph(path), pq.read_table(home.items)
    (at,) = found.table.rows(np.array([_item_id(items, item)]))
    near = found.rows[at : at + 1].ravel() if at >= 0 else np.zeros(0, np.int32)
    near = near[near >= 0]
    # What a walk's weight is worth depends on the item, and its nearest has the greatest code.
    codes = found.codes[at, : len(near)]
    return Similar(told["cutoff_us"], found.ids[near], codes / codes.max(initial=1), items)


def alike(
    home: Home,
    most: int,
    item: str | None = None,
    query: str | None = None,
    user: str | None = None,
) -> Similar:
    """The ``most`` items most like an item, a query or a user, of which one is given; by cosine.

    Raises:
        ConfigError: the catalogue has no such item, or not one of the three is given.
        StateError: as of ``snapshots``.
    """
    if sum(given is not None for given in (item, query, user)) != 1:
        raise ConfigError("give one of --item, --query and --user")
    told, path = snapshots(home)[-1]
    found, items = read_vectors(path), pq.read_table(home.items)
    if item is not None:
        (vector,) = found.of(np.array([_item_id(items, item)]))
    else:
        vector = _of_request(home, found, query, user or "")
    return Similar(told["cutoff_us"], *found.nearest(vector, most), items)


def _of_request(
    home: Home, vectors: ItemVectors, query: str | None, user: str
) -> NDArray[np.float32]:
    """The vector of a query, or else of a user, from the last features that were published."""
    schema, built = LogManifest.load(home).schema, manifest_of_log(home)
    now_us = built["last_cutoff_us"] + built["lag_minutes"] * 60_000_000
    requests: dict[str, Any] = {
        "query": pa.array([normalise(query or "")]),
        "user_id": pa.array([user]),
        "request_time": pa.array([now_us], UTC_US),
    }
    if schema.segments:
        requests["context"] = pa.array([dict.fromkeys(schema.segments, "")])
    inputs = offline_inputs(home, pa.table(requests))
    if query is None:
        return user_vectors(vectors, inputs)[0]
    return query_vectors(vectors, schema, inputs)[0]


def _item_id(items: pa.Table, given: str) -> int:
    at = pc.index(items["item_ref"], given).as_py()
    if at < 0:
        raise ConfigError(f"--item {given}: the catalogue has no such item")
    return int(items["item_id"][at].as_py())
