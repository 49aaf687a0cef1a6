"""What replicas of a node share: memory of one process, and of two, that serve the same index.

    python benchmarks/shared_index.py [--items 1000000]

Each process loads model and index as a replica does, scores the whole index once, so that it has
read every vector, and waits. Linux counts a page that several processes map as a share of each
(PSS); RSS counts it whole for each. Read from ``/proc/PID/smaps`` while all wait.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from printed import markdown, show
from scorer_world import QUERY, SCHEMA, request
from served_world import VERSION, model_and_index

from prerank.core.home import Home
from prerank.registry.bundle import load_bundle
from prerank.registry.index import VECTORS, load_index, scorer_of

SEED = 7


def serve(home: Home) -> None:
    """Be a replica: load, score every item, say so, and wait until standard input ends."""
    torch.set_num_threads(1)
    bundle = load_bundle(home.models / VERSION.name)
    scorer = scorer_of(bundle, load_index(home, VERSION, bundle.digest)).record()
    weights = np.eye(1, len(SCHEMA.heads), dtype=np.float32)[0]
    asked = request(scorer.table.ids, np.random.default_rng(SEED))
    scorer.score(QUERY, asked, None, weights).top(1000)
    print("ready", flush=True)
    sys.stdin.read()


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: RSS and PSS of all, and of the mapped vectors."""
    found, of_vectors = dict.fromkeys(("RSS", "PSS", "vectors RSS", "vectors PSS"), 0), False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):  # a mapping begins: its addresses, ..., its file
            of_vectors = rest[-1].endswith(VECTORS)
        elif first in ("Rss:", "Pss:"):
            name, size = first[:-1].upper(), 1024 * int(rest[0])
            found[name] += size
            found[f"vectors {name}"] += size * of_vectors
    return found


def together(home: Home, processes: int) -> list[dict[str, int]]:
    """Memory of each of so many replicas that run at the same time."""
    command = [sys.executable, __file__, "--replica", str(home.root)]
    pipe = subprocess.PIPE
    with ExitStack() as running:
        replicas = [
            running.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
            for _ in range(processes)
        ]
        for replica in replicas:
            assert replica.stdout is not None
            assert replica.stdout.readline() == "ready\n", "a replica failed: see above"
        return [memory(replica.pid) for replica in replicas]


def main() -> None:
    """Print a row for each process of one, and of two."""
    shown_as_is = argparse.RawDescriptionHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    ask.add_argument("--items", type=int, default=1_000_000)
    ask.add_argument("--replica", type=Path, help=argparse.SUPPRESS)
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    if args.replica:
        serve(Home.at(args.replica))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home, rng = Home.at(Path(folder)), np.random.default_rng(SEED)
        ids = np.unique(rng.integers(0, 1 << 50, args.items + args.items // 100 + 10))
        model_and_index(home, ids[: args.items], rng)
        for processes in (1, 2):
            for i, found in enumerate(together(home, processes)):
                sizes = (f"{size / 1e6:,.0f}" for size in found.values())
                rows.append([f"{i + 1} of {processes}", *sizes])
    head = ["process", "RSS, MB", "PSS, MB", "of vectors: RSS, MB", "PSS, MB"]
    show(f"{args.items:,} items\n\n{markdown(head, rows)}\n", args.out)


if __name__ == "__main__":
    main()
