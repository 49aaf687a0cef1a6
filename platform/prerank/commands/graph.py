"""A look at the item graph: its snapshots, an item's neighbours, and what vectors find alike."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prerank import preflight
from prerank.commands.options import clock_time, home_of, next_step
from prerank.core.errors import ConfigError, StateError
from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.graphs import GRAPH, graph_file, read_graph, read_vectors
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.summaries import Summary, aligned, size

SHOWN = 20
"""Items that are printed of those that are near."""
TEXT = 80
"""Characters of an item's id and title."""


def graph(args: argparse.Namespace) -> Summary:
    """Print the snapshots there are, or an item's neighbours in the last one."""
    home = home_of(args)
    preflight.check_log(home)
    if args.item is None:
        files, text = _snapshots(home)
        print(text)
        then = next_step(args, "graph --item ID", "what is near to an item of yours")
        return Summary(str(files), then=then)
    path, cutoff_us = _last(home)
    found, items = read_graph(path), pq.read_table(home.items)
    at = found.table.rows(np.array([_item_id(items, args.item)]))[0]
    rows = found.rows[at][found.rows[at] >= 0] if at >= 0 else found.rows[:0, 0]
    # As parts of the nearest: what a walk's weight is worth depends on the item.
    parts = found.codes[at][: len(rows)] / max(found.codes[at].max(initial=0), 1)
    print(_near(items, f"near to item {args.item}", found.ids[rows], parts))
    return Summary(
        f"{path}, as of {clock_time(cutoff_us)}", then=next_step(args, f"embed --item {args.item}")
    )


def embed(args: argparse.Namespace) -> Summary:
    """Print the items whose vectors are nearest to an item's, a query's or a user's."""
    home = home_of(args)
    preflight.check_log(home)
    given = {name: getattr(args, name) for name in ("item", "query", "user")}
    asked = {name: value for name, value in given.items() if value is not None}
    if len(asked) != 1:
        raise ConfigError("give one of --item, --query and --user")
    ((name, value),) = asked.items()
    path, cutoff_us = _last(home)
    found, items = read_vectors(path), pq.read_table(home.items)
    if name == "item":
        vector = found.of(np.array([_item_id(items, value)]))[0]
    else:
        vector = _of_request(home, path, cutoff_us, given["query"] or "", given["user"] or "")
    ids, cosines = found.nearest(vector, SHOWN)
    print(_near(items, f"like {name} {value}", ids, cosines))
    return Summary(
        f"{path}, as of {clock_time(cutoff_us)}",
        then=next_step(args, "graph", "which snapshots there are"),
    )


def _of_request(
    home: Home, path: Path, cutoff_us: int, query: str, user: str
) -> NDArray[np.float32]:
    """The vector of a query, or else of a user, as a request has it when the snapshot is out."""
    from interactrank.features.text import normalise
    from prerank.features.offline import offline_inputs

    manifest = LogManifest.load(home)
    out_us = cutoff_us + manifest_of_log(home)["lag_minutes"] * 60_000_000
    requests: dict[str, Any] = {
        "query": pa.array([normalise(query)]),
        "user_id": pa.array([user]),
        "request_time": pa.array([out_us], pa.timestamp("us", tz="UTC")),
    }
    if manifest.schema.segments:
        requests["context"] = pa.array([dict.fromkeys(manifest.schema.segments, "")])
    inputs, found = offline_inputs(home, pa.table(requests)), read_vectors(path)
    vector: NDArray[np.float32] = (
        found.queries(manifest.schema, inputs) if query else found.users(inputs)
    )[0]
    return vector


def _snapshots(home: Home) -> tuple[Path, str]:
    """The folder of the snapshots, and a table of them."""
    tables, told = tables_of_log(home), _told(home)
    home.fetch(tables / GRAPH)
    lines = [f"  {'cutoff':<23}  {'items':>12}  {'edges':>14}  {'size':>9}"]
    for one in told:
        bytes_of = graph_file(tables, one["cutoff_us"]).stat().st_size
        lines.append(
            f"  {clock_time(one['cutoff_us']):<23}  {one['items']:>12,}  {one['edges']:>14,}  "
            f"{size(bytes_of):>9}"
        )
    return tables / GRAPH, "\n".join(lines)


def _told(home: Home) -> list[dict[str, Any]]:
    """What the tables' manifest says of the snapshots.

    Raises:
        StateError: the log asks for no graph, or no snapshot is due yet.
    """
    if not LogManifest.load(home).schema.graph:
        raise StateError(
            "this log has no item graph: add `graph: true` to its mapping, run `prerank ingest "
            "--replace` with it, and `prerank features`."
        )
    told: list[dict[str, Any]] = manifest_of_log(home)["graph"]["snapshots"]
    if not told:
        raise StateError("no snapshot of the item graph yet: the first is due after a day of log.")
    return told


def _last(home: Home) -> tuple[Path, int]:
    """The last snapshot's file and cutoff; errors as of ``_told``."""
    cutoff_us = int(_told(home)[-1]["cutoff_us"])
    path = graph_file(tables_of_log(home), cutoff_us)
    home.fetch(path.parent, home.items)
    return path, cutoff_us


def _item_id(items: pa.Table, given: str) -> int:
    at = pc.index(items["item_ref"], given).as_py()
    if at < 0:
        raise ConfigError(f"--item {given}: the catalogue has no such item")
    return int(items["item_id"][at].as_py())


def _near(items: pa.Table, of: str, ids: NDArray[np.int64], weights: NDArray[Any]) -> str:
    """Lines of items with their weights, from the nearest on."""
    if not len(ids):
        return f"{of}: nothing, as of this snapshot"
    lines = []
    for item, weight in zip(ids[:SHOWN].tolist(), weights[:SHOWN].tolist(), strict=True):
        at = pc.index(items["item_id"], item).as_py()
        text = "an item that left the catalogue"
        if at >= 0:
            text = f"{items['item_ref'][at]}  {items['title'][at]}"
        lines.append((f"{weight:.3f}", text[:TEXT]))
    more = f", the first {SHOWN} of {len(ids)}" if len(ids) > SHOWN else ""
    return f"{of}{more}:\n{aligned(lines)}"
