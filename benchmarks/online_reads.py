"""Reading one request's features online: SQLite beside Redis, over the same features and requests.

    python benchmarks/online_reads.py --home H [--redis host:port] [--requests 500]

``--home`` holds an ingested log with features (`prerank run` or the demo made it); it is read only.
Each store is filled in a temporary home of its own, the Redis one in the empty database that is
named. One process, one thread, no HTTP: packed rows, history and their unpacking into arrays.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from prerank.core.feature_sets import online_state
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.store import REDIS_ENV

WARM_UP = 50


def beside(home: Home, folder: Path) -> Home:
    """A home with the features of ``home`` and an online state of its own."""
    own = Home.at(folder)
    for name in ("log", "manifest.json", "features"):
        if (home.root / name).exists():
            (own.root / name).symlink_to(home.root / name)
    return own


def searches(home: Home, count: int) -> list[tuple[str, str]]:
    """(query, user) of requests of the log's last days."""
    found: list[tuple[str, str]] = []
    for day in sorted(home.events.glob("day=*"), reverse=True):
        table = pq.read_table(day, columns=["request_id", "query", "user_id"], partitioning=None)
        firsts = table.to_pandas().drop_duplicates("request_id")
        found += list(firsts[["query", "user_id"]].itertuples(index=False, name=None))
        if len(found) >= count:
            break
    return found[:count]


def measure(home: Home, asked: list[tuple[str, str]]) -> str:
    """A line of the table: milliseconds, keys and kilobytes of a request."""
    schema = LogManifest.load(home).schema
    until = online_state(home, schema.hash())["until_us"]
    online = OnlineFeatures(home, schema)
    taken, keys, sizes = [], [], []
    for query, user in [*asked[:WARM_UP], *asked]:
        began = time.perf_counter()
        read = online.read(query, user, until)
        taken.append(1e3 * (time.perf_counter() - began))
        keys.append(read.keys)
        sizes.append(read.bytes / 1e3)
        assert not read.degraded
    ms = np.array(taken[WARM_UP:])
    return (
        f"{np.median(ms):8.2f} {np.quantile(ms, 0.99):8.2f} {ms.max():8.2f}   "
        f"{np.median(keys):5.0f} {max(keys):5d}   {np.median(sizes):6.0f} {max(sizes):6.0f}"
    )


def main() -> None:
    """Print a line a store."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--home", type=Path, required=True)
    arguments.add_argument("--redis", help="host:port[,db=N] of an empty database")
    arguments.add_argument("--requests", type=int, default=500)
    args = arguments.parse_args()
    home = Home.at(args.home.resolve())
    asked = searches(home, args.requests)
    print(f"{len(asked)} requests      median      p99      max    keys   max       kB    max")
    for name, address in (("SQLite", None), ("Redis", args.redis)):
        os.environ.pop(REDIS_ENV, None)
        if name == "Redis" and not address:
            continue
        if address:
            os.environ[REDIS_ENV] = address
        with tempfile.TemporaryDirectory() as folder:
            own = beside(home, Path(folder))
            materialise(own, progress=False)
            print(f"{name:<15} ms {measure(own, asked)}", flush=True)


if __name__ == "__main__":
    main()
