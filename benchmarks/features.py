"""What feature tables cost: a log of some days, then one day more, beside DuckDB's counts.

    python benchmarks/features.py [--rows 2000000] [--cadence 1] [--out TABLE.md] [--workdir FOLDER]

The log is generated, in the canonical form: ten items shown per request, a tenth of them engaged
with, queries and items of Zipfian popularity, evenly over DAYS days; ``--rows`` are those of all
days but the last. Everything runs on a local Ray that has started, save for what the line of
the verb says, which is a process of its own for the last day, start and imports included.

DuckDB aggregates the same (key, item, action, day) counts in SQL from the same files, in one
process with as many threads, from a table of each query's keys that it is given. It makes no
snapshots, no packed rows and no histories: it is what the counts alone cost.

Peak memory is that of the largest task, measured with the tasks one after the other in a process
of its own. One run of each but DuckDB's (the median of three).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from printed import markdown, show

from interactrank.features.text import engagement_keys
from prerank.core.home import Home
from prerank.core.manifest import VERSION, LogManifest
from prerank.core.ray_tasks import start_local
from prerank.core.times import DAY_US, UTC_US
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig

SEED, DAYS, SHOWN, ENGAGED = 7, 30, 10, 0.1
FIRST_DAY = 19_000
ACTIONS = ("click", "impression", "save")
ROOT = Path(__file__).resolve().parents[1]
PEAK = """
import sys
from pathlib import Path
from prerank.core.home import Home
from prerank.features import build

def peak():
    # Not getrusage: its peak survives exec and would include the parent's.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

build.ray_map = lambda function, tasks, name: [function(task) for task in tasks]
build.build_features(Home.at(sys.argv[1]), build.FeatureConfig(int(sys.argv[2])))
print(peak() / 1024)
"""


@dataclass(frozen=True)
class World:
    """What the log is drawn from: texts of queries, and how many users and items there are."""

    queries: list[str]
    users: int
    items: int

    @classmethod
    def of(cls, rows: int) -> World:
        """Sizes grow with the log: a query for every 40 rows, an item for every 80."""
        rng = np.random.default_rng(SEED)
        letters = np.array(list("etaoinshrdlucmfw"))
        words = ["".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(4_000)]
        drawn = rng.zipf(1.4, (max(rows // 40, 100), 3)) % len(words)
        lengths = rng.integers(1, 4, len(drawn))
        texts = {" ".join(words[w] for w in own[:n]) for own, n in zip(drawn, lengths, strict=True)}
        return cls(sorted(texts), max(rows // 50, 50), max(rows // 80, 50))


def zipfian(rng: np.random.Generator, most: int, count: int) -> np.ndarray:
    """Places below ``most``, the density falling as 1 / place."""
    return np.minimum(np.exp(rng.random(count) * np.log(most)), most - 1).astype(np.int64)


def day_of_events(world: World, day: int, rows: int) -> pa.Table:
    """A day's canonical events."""
    rng = np.random.default_rng([SEED, day])
    requests = max(rows // (SHOWN + 1), 1)
    at = (FIRST_DAY + day) * DAY_US + np.sort(rng.integers(0, DAY_US - 3_600_000_000, requests))
    query = zipfian(rng, len(world.queries), requests)
    user = zipfian(rng, world.users, requests)
    shown = np.repeat(np.arange(requests), SHOWN)
    # Items follow the query, so that its rows have something to say.
    item = (query[shown] * 7919 + zipfian(rng, 200, len(shown))) % world.items
    chosen = np.flatnonzero(rng.random(len(shown)) < ENGAGED)
    request = np.concatenate((shown, shown[chosen]))
    later = np.concatenate(
        (np.zeros(len(shown), np.int64), rng.integers(1, 600_000_000, len(chosen)))
    )
    action = np.concatenate((np.ones(len(shown), np.int64), rng.choice([0, 0, 2], len(chosen))))
    time_us = pa.array(at[request] + later).cast(UTC_US)
    codes = pa.array(query[request].astype(np.int32))
    position = np.concatenate((np.tile(np.arange(SHOWN), requests), chosen % SHOWN))
    return pa.table(
        {
            "event_id": pa.array(rng.integers(-(2**62), 2**62, len(request))),
            "request_id": pa.array([f"{day}-{r}" for r in range(requests)]).take(pa.array(request)),
            "user_id": pa.array([f"u{u}" for u in range(world.users)]).take(
                pa.array(user[request])
            ),
            "query": pa.DictionaryArray.from_arrays(codes, world.queries).cast(pa.string()),
            "item_id": pa.array(np.concatenate((item, item[chosen]))),
            "action": pa.array(ACTIONS).take(pa.array(action)),
            "position": pa.array(position),
            "request_time": pa.array(at[request]).cast(UTC_US),
            "event_time": time_us,
            "known_time": time_us,
        }
    )


def write_day(home: Home, world: World, day: int, rows: int) -> int:
    """Write a day of the log; its rows."""
    events = day_of_events(world, day, rows)
    folder = home.events / f"day={np.datetime64(FIRST_DAY + day, 'D')}"
    folder.mkdir(parents=True)
    pq.write_table(events, folder / "part-00000.parquet")
    return len(events)


def write_manifest(home: Home, days: int, events: int) -> None:
    """What the ingest of these days writes down, as far as features need it."""
    first, last = (
        np.datetime_as_string(np.datetime64(t, "us")) + "Z"
        for t in (FIRST_DAY * DAY_US, (FIRST_DAY + days) * DAY_US - 1)
    )
    names = [str(np.datetime64(FIRST_DAY + day, "D")) for day in range(days)]
    LogManifest(
        version=VERSION,
        dataset="benchmark",
        ids="integer",
        hash_seed=0,
        actions=ACTIONS,
        passive=("impression",),
        heads={"engagement": ("click", "save")},
        head_order=("engagement",),
        weights={},
        weight_order=(),
        segments=(),
        retriever=(),
        numeric=(),
        embedding=(),
        valid_from={},
        label_window_hours=24.0,
        single_time=False,
        has_impressions=True,
        mapping={},
        rows={},
        events=events,
        late=0,
        requests=0,
        requests_per_day=dict.fromkeys(names, max(events // days // (SHOWN + 1), 1)),
        users=0,
        queries=0,
        items=0,
        items_absent=0,
        first_time=first,
        last_time=last,
        fingerprint=str(days),
        warnings=(),
        notices=(),
    ).save(home)


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def counts_in_duckdb(home: Home, keys: Path, threads: int) -> float:
    """Seconds of DuckDB's counts by key, item, action and day."""
    files = sorted(str(path) for path in home.events.glob("day=*/*.parquet"))

    def count() -> None:
        with duckdb.connect(config={"threads": threads}) as db:
            db.execute(
                f"""CREATE TABLE counts AS
                SELECT key, item_id, action, epoch_us(event_time) // {DAY_US} AS day, count(*) AS n
                FROM read_parquet(?) events JOIN read_parquet(?) keys USING (query)
                WHERE action <> 'impression' OR keys.exact GROUP BY ALL""",
                [files, str(keys)],
            )

    return statistics.median(seconds(count) for _ in range(3))


def write_keys(world: World, path: Path) -> None:
    """Each query's keys; ``exact`` is the one that impressions count under too."""
    rows = [(q, k, k[:2] == "q:") for q in world.queries for k in engagement_keys(q)]
    query, key, exact = zip(*rows, strict=True)
    pq.write_table(pa.table({"query": query, "key": key, "exact": exact}), path)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each table and state."""
    found: dict[str, int] = {}
    for path in folder.rglob("*.parquet"):
        name = str(path.parent.relative_to(folder))
        found[name] = found.get(name, 0) + path.stat().st_size
    return found


def in_a_process(*command: str) -> str:
    """Output of a Python process that has this checkout's packages."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": path, "PRERANK_PROGRESS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(root: Path, rows: int, hours: int, threads: int) -> Iterator[tuple[str, ...]]:
    """Rows of the table."""
    home, config = Home.at(root / "home"), FeatureConfig(cadence_hours=hours)
    world = World.of(rows)
    events = sum(write_day(home, world, day, rows // DAYS) for day in range(DAYS))
    write_manifest(home, DAYS, events)
    write_keys(world, root / "keys.parquet")
    alone = counts_in_duckdb(home, root / "keys.parquet", threads)
    million = events / 1e6
    yield "rows", f"{events:,}", ""
    yield "DuckDB's counts", f"{alone:.2f} s", f"{alone / million:.2f} s per million rows"
    start_local(threads)
    build_features(home, config)  # compiles, and starts the workers
    folder = next(home.features.glob("[0-9a-f]*"))
    shutil.rmtree(folder)
    full = seconds(lambda: build_features(home, config))
    yield (
        "all days",
        f"{full:.2f} s",
        f"{full / million:.2f} s per million rows, {full / alone:.1f} x DuckDB's",
    )
    size = sizes(folder)
    for name, count in sorted(size.items()):
        yield f"bytes of {name}", f"{count / 1e6:.1f} MB", f"{count / events:.0f} per row"
    yield (
        "bytes written",
        f"{sum(size.values()) / 1e6:.1f} MB",
        (f"{sum(size.values()) / events:.0f} per row"),
    )
    before = root / "before"
    shutil.copytree(home.root, before)
    added = write_day(home, world, DAYS, rows // DAYS)
    write_manifest(home, DAYS + 1, events + added)
    day = seconds(lambda: build_features(home, config))
    yield "one more day", f"{day:.2f} s", f"{day / full:.3f} of all days, {added:,} rows"
    shutil.rmtree(home.root)
    shutil.copytree(before, home.root)
    write_day(home, world, DAYS, rows // DAYS)
    write_manifest(home, DAYS + 1, events + added)
    (root / "job.yaml").write_text(json.dumps({"features": {"cadence_hours": hours}}))
    verb = ["-c", "from prerank.cli import main; main()", "features"]
    verb += ["--workdir", str(home.root), "--config", str(root / "job.yaml")]
    whole = seconds(lambda: in_a_process(*verb))
    yield "the verb for it", f"{whole:.2f} s", f"{whole - day:.2f} s more"
    shutil.rmtree(folder)
    peak = float(in_a_process("-c", PEAK, str(home.root), str(hours)).splitlines()[-1])
    yield "peak memory of a task", f"{peak:.0f} MB", "with the imports"


def main() -> None:
    """Print a row for each part."""
    shown_as_is = argparse.RawDescriptionHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    ask.add_argument("--rows", type=int, default=2_000_000)
    ask.add_argument("--cadence", type=int, default=1, help="hours between snapshots")
    ask.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    ask.add_argument("--workdir", type=Path, help="for what is generated; removed at the end")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    os.environ["PRERANK_PROGRESS"] = "0"
    if args.workdir:
        args.workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.workdir) as root:
        rows = list(measured(Path(root), args.rows, args.cadence, args.threads))
    show(markdown(("", "", ""), rows) + "\n", args.out)


if __name__ == "__main__":
    main()
