"""Reading one request's features online, beside Feast's own API and a bare MGET of the same bytes.

    python benchmarks/online_reads.py --home H [--redis host:port[,db=N]] [--requests 500]

``--home`` holds an ingested log with features (`prerank run` or the demo made it); it is read only.
Each store is filled in a temporary home of its own, the Redis one in the empty database that is
named, else on a server that is started for it. One process, one thread, no HTTP. Each request of
the log's last days is read in every way, one after the other:

- bare MGET: the raw bytes of the same rows and history, under as many keys of their own, by a plain
  redis-py client, and `np.frombuffer` of each;
- one round trip: the rows, the sentinel and the history, as a request reads them;
- Feast's API: the same by two calls of `FeatureStore.get_online_features`;
- all of a read: the keys of the query, one round trip, and the arrays that features are made from.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from feast import FeatureStore
from printed import markdown
from redis import Redis

from interactrank.features.schema import FeatureSchema
from interactrank.features.searches import Searches
from interactrank.features.text import NO_CONTEXT
from prerank.core.feature_sets import online_state
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.processes import redis_server
from prerank.online.history import HISTORY_FIELDS, History, stored_history, wanted_histories
from prerank.online.layout import packed_row
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.sentinel import KEY, wanted_rows
from prerank.online.store import REDIS_ENV
from prerank.online.values import OnlineValues

WARM_UP = 50
PATIENT_S = 10.0
Asked = tuple[str, str, list[str]]
"""Query, user, and the keys that are read for the query."""
Way = Callable[[Asked], Any]


def beside(home: Home, folder: Path) -> Home:
    """A home with the features of ``home`` and an online state of its own."""
    own = Home.at(folder)
    for name in ("log", "manifest.json", "features"):
        if (home.root / name).exists():
            (own.root / name).symlink_to(home.root / name)
    return own


def searches(home: Home, count: int) -> list[Asked]:
    """Requests of the log's last days."""
    found: list[tuple[str, str]] = []
    for day in sorted(home.events.glob("day=*"), reverse=True):
        table = pq.read_table(day, columns=["request_id", "query", "user_id"], partitioning=None)
        firsts = table.to_pandas().drop_duplicates("request_id")
        found += list(firsts[["query", "user_id"]].itertuples(index=False, name=None))
        if len(found) >= count:
            break
    return [(q, user, [*Searches.one(q, NO_CONTEXT).keys[0], KEY]) for q, user in found[:count]]


@contextmanager
def named_or_own(address: str | None) -> Iterator[str | None]:
    """The server that is named, else one of its own; None where there is no `redis-server`."""
    if address:
        yield address
        return
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as server:
        yield server.address if server else None


def client_of(address: str) -> Redis:
    """A plain client of the server and database that PRERANK_REDIS would name so."""
    place, *settings = address.split(",")
    host, port = place.split(":")
    options: dict[str, Any] = dict(s.split("=", 1) for s in settings)
    return Redis(host, int(port), **options)


def in_one_round_trip(store: FeatureStore, schema: FeatureSchema) -> Way:
    values = OnlineValues.of(store)
    # Each hashes the schema: a reader asks once.
    of_rows, of_histories = schema.engagement_view, schema.history_view

    def read(asked: Asked) -> tuple[list[bytes], History]:
        _, user, keys = asked
        rows, (own,) = values.read(
            [
                wanted_rows(of_rows, keys),
                wanted_histories(of_histories, [user]),
            ],
            time.monotonic() + PATIENT_S,
        )
        return [packed_row(row) for (row,) in rows], stored_history(own)

    return read


def by_feast(store: FeatureStore, schema: FeatureSchema) -> Way:
    of_rows = [f"{schema.engagement_view}:row"]
    of_histories = [f"{schema.history_view}:{name}" for name in HISTORY_FIELDS]

    def read(asked: Asked) -> tuple[list[bytes], History]:
        _, user, keys = asked
        rows = store.get_online_features(of_rows, [{"engagement_key": k} for k in keys]).proto
        own = store.get_online_features(of_histories, [{"user_id": user}]).proto
        at = list(rows.metadata.feature_names.val).index("row")
        names = list(own.metadata.feature_names.val)
        lists = [own.results[names.index(f)].values[0].int64_list_val.val for f in HISTORY_FIELDS]
        return [v.bytes_val for v in rows.results[at].values], History.from_lists(lists)

    return read


def bare(client: Redis, asked: list[Asked], ours: Way) -> Way:
    """Put what ``ours`` reads into keys of its own; the way to read it back."""
    for request in asked:
        _, user, keys = request
        rows, history = ours(request)
        raw = {f"bare:{k}": row for k, row in zip(keys, rows, strict=True) if row}
        client.mset(raw | {f"bare user:{user}": np.concatenate(history.columns).tobytes()})

    def read(request: Asked) -> list[Any]:
        _, user, keys = request
        found: Any = client.mget([*(f"bare:{k}" for k in keys), f"bare user:{user}"])
        return [np.frombuffer(v, np.uint8) for v in found if v]

    return read


def measure(ways: dict[str, Way], asked: list[Asked]) -> dict[str, np.ndarray]:
    """Milliseconds of each request by way; each request is read by all before the next is."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names, draw = list(ways), random.Random(0)
    for request in [*asked[:WARM_UP], *asked]:
        # What came just before warms caches, or fills them: the order is another each time.
        for name in draw.sample(names, len(names)):
            began = time.perf_counter()
            ways[name](request)
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: np.array(ms[min(WARM_UP, len(asked)) :]) for name, ms in taken.items()}


def ways_of(home: Home, asked: list[Asked], address: str | None) -> dict[str, Way]:
    schema = LogManifest.load(home).schema
    online = OnlineFeatures(home, schema, timeout_s=PATIENT_S)
    until = online_state(home, schema.hash())["until_us"]

    def whole(request: Asked) -> object:
        query, user, _ = request
        read = online.read(query, user, until)
        assert not read.degraded
        return read

    ours = in_one_round_trip(online.store, schema)
    ways = {"one round trip": ours, "Feast's API": by_feast(online.store, schema)}
    ways["all of a read"] = whole
    return {"bare MGET": bare(client_of(address), asked, ours), **ways} if address else ways


def rows_of(store: str, taken: dict[str, np.ndarray]) -> list[list[str]]:
    base = taken.get("bare MGET")
    found = []
    for way, ms in taken.items():
        ratio = f"{np.median(ms) / np.median(base):.2f}" if base is not None else ""
        parts = [np.median(ms), np.quantile(ms, 0.99), ms.max()]
        found.append([store, way, *(f"{part:.3f}" for part in parts), ratio])
    return found


def main() -> None:
    """Print a table, a line per store and way."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--home", type=Path, required=True)
    arguments.add_argument("--redis", help="host:port[,db=N] of an empty database")
    arguments.add_argument("--requests", type=int, default=500)
    args = arguments.parse_args()
    home = Home.at(args.home.resolve())
    asked = searches(home, args.requests)
    rows: list[list[str]] = []
    with named_or_own(args.redis) as server:
        for name, address in (("Redis", server), ("SQLite", None)):
            os.environ.pop(REDIS_ENV, None)
            if name == "Redis" and not address:
                print("There is no redis-server here, and no --redis: SQLite alone.\n")
                continue
            if address:
                os.environ[REDIS_ENV] = address
            with tempfile.TemporaryDirectory() as folder:
                own = beside(home, Path(folder))
                materialise(own, progress=False)
                rows += rows_of(name, measure(ways_of(own, asked, address), asked))
    keys = [len(k) + 1 for _, _, k in asked]
    print(f"{len(asked)} requests, {np.median(keys):.0f} keys in the median, {max(keys)} at most\n")
    print(markdown(["store", "way", "median ms", "p99 ms", "max ms", "of the bare MGET"], rows))


if __name__ == "__main__":
    main()
