"""A look at the item graph."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prerank import preflight
from prerank.commands.options import clock_time, home_of, next_step
from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.summaries import Summary, aligned, count, size

if TYPE_CHECKING:
    from prerank.features.similar import Similar

SHOWN = 20
"""Items that are printed of those that are near."""
TEXT = 80
"""Characters of an item's id and title."""


def graph(args: argparse.Namespace) -> Summary:
    """Print the snapshots there are, or an item's neighbours in the last one; or export all."""
    from prerank.features.similar import neighbours, snapshots

    home = home_of(args)
    preflight.check_log(home)
    if args.export:
        return _exported(args, home)
    if args.item is not None:
        found = neighbours(home, args.item)
        print(_text(f"near to item {args.item}", found))
        return Summary(_read(found), then=next_step(args, f"embed --item {args.item}"))
    all_of_them = snapshots(home)
    print(f"  {'cutoff':<23}  {'items':>12}  {'edges':>14}  {'size':>9}")
    for one, path in all_of_them:
        print(
            f"  {clock_time(one['cutoff_us']):<23}  {one['items']:>12,}  {one['edges']:>14,}  "
            f"{size(path.stat().st_size):>9}"
        )
    then = next_step(args, "graph --item ID", "what is near to an item of yours")
    return Summary(str(all_of_them[0][1].parent), then=then)


def _exported(args: argparse.Namespace, home: Home) -> Summary:
    """Write the snapshots as a table."""
    from prerank.core.feature_sets import tables_of_log
    from prerank.features.graph_table import TABLE, export_graph

    if args.item is not None:
        raise ConfigError("--export writes all items: leave out --item")
    made, folder = export_graph(home), tables_of_log(home) / TABLE
    written = size(sum(path.stat().st_size for path in made))
    wrote = f"{folder}: {count(len(made), 'snapshot')}, {written}"
    then = next_step(args, "materialise", "which registers its feature view with Feast")
    return Summary(wrote=wrote, then=then)


def embed(args: argparse.Namespace) -> Summary:
    """Print the items whose vectors are nearest to an item's, a query's or a user's; or register
    all vectors.
    """
    from prerank.features.similar import alike

    home = home_of(args)
    preflight.check_log(home)
    asked = {
        name: getattr(args, name)
        for name in ("item", "query", "user")
        if getattr(args, name) is not None
    }
    if args.register:
        if asked:
            raise ConfigError("--register is of all items: leave out --item, --query and --user")
        return _registered(args, home)
    found = alike(home, SHOWN, **asked)
    print(_text(" ".join(("like", *asked, *asked.values())), found))
    return Summary(_read(found), then=next_step(args, "graph", "which snapshots there are"))


def _registered(args: argparse.Namespace, home: Home) -> Summary:
    """Register the vectors of the last snapshot."""
    from prerank.core.graphs import read_vectors
    from prerank.core.manifest import LogManifest
    from prerank.features.similar import snapshots
    from prerank.registry.embedding import EMBEDDING, register_embedding

    told, path = snapshots(home)[-1]
    vectors, cutoff_us = read_vectors(path), told["cutoff_us"]
    version, new = register_embedding(home, vectors, cutoff_us, LogManifest.load(home).schema)
    wrote = f"{EMBEDDING} version {version}, {count(len(vectors.ids), 'item')}"
    wrote += "" if new else ": it was there already"
    then = next_step(args, "train", "whose version names the cutoff that it was trained with")
    return Summary(f"the snapshot as of {clock_time(cutoff_us)}", wrote, then)


def _read(found: Similar) -> str:
    return f"the snapshot as of {clock_time(found.cutoff_us)}"


def _text(of: str, found: Similar) -> str:
    """Lines of items with their weights, from the nearest on."""
    if not len(found.ids):
        return f"{of}: nothing, as of this snapshot"
    more = f", the first {SHOWN} of {len(found.ids)}" if len(found.ids) > SHOWN else ""
    lines = [(f"{weight:.3f}", text[:TEXT]) for weight, text in found.lines(SHOWN)]
    return f"{of}{more}:\n{aligned(lines)}"
