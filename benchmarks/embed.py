"""Is a learned encoder worth more than the item vectors of the graph, an SVD of the same events?

    python benchmarks/embed.py --home HOME [--epochs 8] [--seeds 1] [--requests 8000]
        [--tables 0] [--out TABLE.md]

HOME is an absolute path that `prerank run` has filled; it is only read. Both see the engagements
that were known before the first validation request (``prerank.features.graph``). Two rows are the
SVD's ("vectors") and those of ``embed_encoder.py`` ("learned"): a user's vector is the mean of the
last engagements' items in either; a query's is that of its top items, and of the encoder also what
it makes of the query's text.

1. What their cosines are worth: the fusion without towers is fitted on the earlier half of the
   validation requests and measured on the later half, with their stored candidates, each counted
   1 / Q times. Columns of x that hold cosines already are masked in all rows.
2. What they retrieve from the whole catalogue by query + user, in the later half.
3. With --tables N: N seeds of InteractRank, whose id table begins at random, or at the principal
   components of either (``prerank.evaluation.trials``), on whole candidates.

The earlier half also chooses the encoder's epoch. Differences are of the same requests, means over
seeds, with 95% intervals over requests. The test split takes no part.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from embed_encoder import Bags, Edges, Encoder, trained
from embed_measures import (
    DEPTHS,
    Floats,
    Log,
    Vectors,
    cosines,
    measured,
    over_seeds,
    retrieved,
    rows_of,
    sides,
)
from embed_tables import id_tables
from printed import show

from interactrank.features.batch import RequestArrays
from interactrank.features.item_vectors import ItemVectors, narrowed
from interactrank.features.schema import REQUEST_NUMERIC
from interactrank.graph.walk import walked
from prerank.core.home import Home
from prerank.core.times import utc


def of_text(encoder: Encoder, arrays: RequestArrays) -> Vectors:
    """What the encoder makes of the queries' texts."""
    bags = Bags(arrays.text, arrays.text_offsets)
    with torch.no_grad():
        made: Vectors = encoder.queries(bags, np.arange(len(arrays))).numpy()
    return made


def items_of(encoder: Encoder, log: Log) -> ItemVectors:
    """Vectors of the whole catalogue."""
    with torch.no_grad():
        made = encoder.items(np.arange(1, len(log.reader.catalogue) + 1)).numpy()
    return ItemVectors(log.reader.catalogue.ids, narrowed(made))


def edges_to_learn(log: Log) -> Edges:
    """What the encoder learns from."""
    return Edges.of(*log.engaged(), walked(log.ids, log.relations), log.reader.catalogue)


Row = Callable[[RequestArrays], Vectors]


def worth(log: Log, floor: ItemVectors, encoder: Encoder) -> dict[str, dict[str, Floats]]:
    """What cosines are worth in the fusion, row by row."""
    learned = items_of(encoder, log)

    def svd(arrays: RequestArrays) -> Vectors:
        return cosines(floor, arrays, sides(floor, arrays))

    def encoded(arrays: RequestArrays) -> Vectors:
        of = sides(learned, arrays) | {"top": of_text(encoder, arrays)}
        return cosines(learned, arrays, of)

    def whole(arrays: RequestArrays) -> Vectors:
        of = sides(learned, arrays) | {"text": of_text(encoder, arrays)}
        return cosines(learned, arrays, of)

    rows: dict[str, Row | None] = {
        "none": None,
        "vectors": svd,
        "learned: user, text": encoded,
        "learned: user, top items, text": whole,
        "vectors and learned": lambda a: np.concatenate((svd(a), whole(a)), axis=1),
    }
    found = {}
    for name, extra in rows.items():
        began = time.process_time()
        found[name] = measured(log, extra)
        took = time.process_time() - began
        print(name, {m: f"{np.nanmean(v):.4f}" for m, v in found[name].items()}, f"{took:.0f} s")
    return found


def retrieval(log: Log, floor: ItemVectors, encoder: Encoder) -> dict[str, dict[str, Floats]]:
    """Recall among the catalogue, row by row."""
    learned, asked = items_of(encoder, log), log.later
    of_floor, of_learned = sides(floor, asked), sides(learned, asked)
    text = {"text": of_text(encoder, asked)}
    rows = {
        "vectors: user + top items": (floor, of_floor),
        "vectors: top items": (floor, {"top": of_floor["top"]}),
        "learned: user + text": (learned, {"user": of_learned["user"]} | text),
        "learned: user + top items + text": (learned, of_learned | text),
        "learned: text": (learned, text),
    }
    return {name: retrieved(vectors, asked, of) for name, (vectors, of) in rows.items()}


def learn(log: Log, edges: Edges, epochs: int, seed: int) -> Encoder:
    """An encoder, of the epoch that retrieves most of what the earlier half engaged."""

    def measure(encoder: Encoder) -> float:
        vectors = items_of(encoder, log)
        of = {"user": sides(vectors, log.earlier)["user"], "text": of_text(encoder, log.earlier)}
        found = retrieved(vectors, log.earlier, of)
        return float(np.nanmean(found[f"recall@{DEPTHS[0]}"]))

    return trained(log.reader.catalogue, edges, epochs, measure, seed=seed)


def main() -> None:
    """Print three tables."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--home", required=True, type=Path)
    ask.add_argument("--epochs", type=int, default=8, help="of the encoder, at most (default: 8)")
    ask.add_argument("--seeds", type=int, default=1, help="encoders (default: 1)")
    ask.add_argument("--requests", type=int, default=8000, help="of validation (default: 8000)")
    ask.add_argument("--tables", type=int, default=0, help="seeds of part 3 (default: 0, no part)")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    torch.set_num_threads(1)
    home = Home.at(args.home.resolve())
    log = Log(home, args.requests)
    began = time.process_time()
    floor, edges = log.vectors(), edges_to_learn(log)
    print(f"vectors: {time.process_time() - began:.1f} s of processor time", flush=True)
    began, encoders = time.process_time(), []
    for seed in range(args.seeds):
        encoders.append(learn(log, edges, args.epochs, seed))
    took = (time.process_time() - began) / args.seeds
    text = (
        f"{home.root.name}, as of {utc(log.cutoff):%Y-%m-%d}: {len(edges.item):,} engagements, "
        f"{len(log.ids):,} items of {len(log.reader.catalogue):,}, {len(log.table):,} requests to "
        f"fit and {len(log.later):,} to measure; an encoder takes {took:.0f} s of processor time\n"
    )
    statistics = log.later.request[:, REQUEST_NUMERIC.index("query:log_total")]
    unseen = ~(statistics > 0)
    found = over_seeds([worth(log, floor, encoder) for encoder in encoders])
    text += f"\n{rows_of(found, 'vectors', unseen)}\n"
    found = over_seeds([retrieval(log, floor, encoder) for encoder in encoders])
    text += f"\n{rows_of(found, 'vectors: user + top items', unseen)}\n"
    if args.tables:
        starts = {"vectors": floor, "learned": items_of(encoders[0], log)}
        text += f"\n{rows_of(id_tables(home, starts, args.tables), 'at random', None)}\n"
    show(text, args.out)


if __name__ == "__main__":
    main()
