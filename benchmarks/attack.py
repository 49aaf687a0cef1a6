"""What accounts that boost items do to the counts, and what caps and trust weights give back.

    python benchmarks/attack.py [--events E --items I --mapping M] [--split test] [--caps 1 2 3]
        [--attacks greedy ring sybil] [--requests 1500] [--rows R] [--out TABLE.md]

Without --events the log is the simulated one of the preset "demo". Of a log only engagements are
used, so that the whole catalogue is ranked: an item that retrieval does not show cannot be pushed.
Under each of some middling queries an item that nobody clicked is pushed to 1.2 times the clicks of
the query's leader, within the last fifth of the time before the measured requests:

    greedy   accounts of 20 clicks each, all for one (query, item)
    ring     eight accounts with an item each, who click each other's items
    sybil    as many accounts as clicks

Measured are requests of the last fifth of the log (--split test), or, with the last fifth cut off,
of what is then the last fifth (--split validation), on which a default is chosen. They are ranked
by the query's count of the item alone (IQP) and by linear models over InteractRank's cross
features: one that was fitted on the clean log with the same defence (a model that is live when the
attack comes), and one fitted on the attacked log. Defences are those of a real installation:

    cap c           `features.user_cap: c`
    detector r / f  `prerank users --flag`: weight 0 of a share r of the spamming users and of a
                    share f of the others, known an hour before the measured requests

Everything runs in this process, on one core.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from attacks import ATTACKS, DETECTOR, SEED, attacked, detected, pushes
from numpy.typing import NDArray
from printed import markdown, show

from interactrank.metrics.ranking import request_metrics
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import HOUR_US
from prerank.core.trust import add_flags
from prerank.dataset import build as dataset
from prerank.dataset.requests import event_days, requests_between
from prerank.dataset.splits import plan_splits
from prerank.evaluation.baselines import linear
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.simple import ColumnRanker
from prerank.evaluation.budget import chunks
from prerank.features import build as features
from prerank.features.config import FeatureConfig
from prerank.ingest import run as ingestion
from prerank.ingest.mapping import LogMapping, load_mapping
from prerank.simulate import simulate

RANKERS = ("IQP", "linear of the clean log", "linear of this log")
COLUMNS = ["request_id", "request_time", "event_time", "user_id", "query", "item_id", "action"]


@dataclass(frozen=True)
class Defence:
    """A cap, or none, and whether a detector's flags are told."""

    cap: int | None = None
    detector: bool = False

    def __str__(self) -> str:
        """As the table has it, behind the log's name."""
        found = [f"cap {self.cap}"] if self.cap else []
        found += [f"detector {DETECTOR[0]:.0%} / {DETECTOR[1]:.0%}"] if self.detector else []
        return "".join(f", {name}" for name in found)


def engagements(home: Home) -> pd.DataFrame:
    """The ingested log's engagements, under the canonical names, by time."""
    passive = {a for a in LogManifest.load(home).actions if a in LogMapping().passive}
    tables = [
        pq.read_table(path, columns=COLUMNS, partitioning=None)
        for path in sorted(home.events.glob("day=*/*.parquet"))
    ]
    events: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    events["user_id"] = events["user_id"].astype(str)
    events = events[~events["action"].isin(passive)]
    return events.sort_values("request_time", kind="stable").reset_index(drop=True)


def in_process(function: Callable[[Any], Any], tasks: Sequence[Any], _: str) -> list[Any]:
    """What Ray does elsewhere: two dozen small logs are done sooner without it."""
    return [function(task) for task in tasks]


class Measure:
    """Ranks the measured requests by the features of any version of the log.

    Attributes:
        homes: version of the log -> its home, ingested.
    """

    def __init__(self, root: Path, catalogue: Path, versions: dict[str, pd.DataFrame]) -> None:
        root.mkdir()
        self.root, self.homes = root, {name: Home.at(root / f"home-{name}") for name in versions}
        self.users = {name: np.unique(events["user_id"]) for name, events in versions.items()}
        for name, events in versions.items():
            path = root / f"{name}.parquet"
            events.to_parquet(path)
            ingestion.ingest(path, catalogue, self.homes[name], LogMapping(name="attack"))
        clean = self.homes["clean"]
        manifest = LogManifest.load(clean)
        splits = plan_splits(clean, manifest)
        self.low, high = splits.test_from, splits.closed_before
        days = event_days(clean, self.low, high)
        found = [requests_between(files, manifest, self.low, high) for files in days]
        self.requests = pa.concat_tables(found)
        self.pushed = self.sampled = np.zeros(0, bool)

    def choose(self, pushed: set[str], limit: int) -> None:
        """Of the requests measure at most ``limit`` of pushed queries, and as many of all."""
        rng, count = np.random.default_rng(SEED), len(self.requests)
        hit = np.flatnonzero([query in pushed for query in self.requests["query"].to_pylist()])
        hit = rng.choice(hit, min(limit, len(hit)), replace=False)
        sample = rng.choice(count, min(limit, count), replace=False)
        chosen = np.union1d(hit, sample)
        self.requests = self.requests.take(pa.array(chosen))
        self.pushed, self.sampled = np.isin(chosen, hit), np.isin(chosen, sample)

    def __call__(self, version: str, defence: Defence, served: Ranker | None) -> tuple[Any, Ranker]:
        """MRR of each ranker and request [R, n], and the model that was fitted on this version."""
        home = self.homes[version]
        # As in a new installation: a flag would else wait for what is published already.
        shutil.rmtree(home.features, ignore_errors=True)
        home.flags.unlink(missing_ok=True)
        if defence.detector:
            users = detected(self.users[version])
            add_flags(home, users, [0.0] * len(users), [self.low - HOUR_US] * len(users))
        features.build_features(home, FeatureConfig(user_cap=defence.cap))
        dataset.build_training_set(home)
        schema = LogManifest.load(home).schema
        folder = self.root / f"linear-{version}{defence}"
        linear.fit(home, schema, folder, SEED)
        fitted = linear.LinearRanker("linear", folder)
        rankers = [ColumnRanker("iqp", schema, "q:engage:all"), served or fitted, fitted]
        found: list[list[NDArray[np.float64]]] = [[] for _ in rankers]
        for arrays, queries, _, unreachable in chunks(home, self.requests):
            for own, ranker in zip(found, rankers, strict=True):
                scores, positive = ranker.score(arrays, queries), arrays.labels & 1 > 0
                own.append(request_metrics(scores, positive, arrays.offsets, unreachable)["mrr"])
        return np.array([np.concatenate(own) for own in found]), fitted

    def means(self, values: NDArray[np.float64]) -> list[str]:
        """Mean of each ranker on pushed queries, then on all."""
        parts = [values[:, self.pushed], values[:, self.sampled]]
        return [f"{mean:.3f}" for part in parts for mean in np.nanmean(part, axis=1)]

    def difference(self, values: NDArray[np.float64], others: NDArray[np.float64]) -> list[str]:
        """Mean of values - others of each ranker on all, with half a 95% interval."""
        apart = (values - others)[:, self.sampled]
        half = 1.96 * np.nanstd(apart, axis=1) / np.sqrt((~np.isnan(apart)).sum(axis=1))
        means = np.nanmean(apart, axis=1)
        return [f"{m:+.4f} ± {h:.4f}" for m, h in zip(means, half, strict=True)]


def prepared(root: Path, args: argparse.Namespace) -> tuple[pd.DataFrame, Path]:
    """Engagements to work on, and a file of the catalogue."""
    events, items = args.events, args.items
    if events is None:
        simulate(root / "simulated", seed=SEED)
        events, items = root / "simulated" / "events", root / "simulated" / "items.parquet"
    home = Home.at(root / "log")
    ingestion.ingest(events.resolve(), items.resolve(), home, load_mapping(args.mapping))
    catalogue = root / "items.parquet"
    pq.write_table(pq.read_table(home.items).select(["item_id", "title"]), catalogue)
    clean = engagements(home)
    if args.split == "validation":
        test_from = pd.Timestamp(plan_splits(home, LogManifest.load(home)).test_from, unit="us")
        clean = clean[clean["event_time"] < test_from.tz_localize("UTC")]
    return clean.tail(args.rows or len(clean)).reset_index(drop=True), catalogue


def measured(root: Path, args: argparse.Namespace) -> str:
    """Tables of versions of the log × rankers."""
    clean, catalogue = prepared(root, args)
    # Of the clean log alone: the attacks' bounds and targets are those of what it holds.
    bounds = Measure(root / "bounds", catalogue, {"clean": clean})
    until = pd.Timestamp(bounds.low, unit="us", tz="UTC")
    ids = pq.read_table(catalogue)["item_id"].to_numpy()
    before = clean[clean["request_time"] < until]
    targets = pushes(before, ids, np.random.default_rng(SEED))
    versions = {"clean": clean}
    versions |= {name: attacked(clean, name, targets, until) for name in args.attacks}
    measure = Measure(root / "versions", catalogue, versions)
    measure.choose({push.query for push in targets}, args.requests)
    defences = [Defence(), *(Defence(cap) for cap in args.caps), Defence(detector=True)]
    defences += [Defence(cap, detector=True) for cap in args.caps[:1]]
    rows, apart = [], []
    plain: NDArray[np.float64] | None = None
    for defence in defences:
        served: Ranker | None = None
        for name, events in versions.items():
            began = time.perf_counter()
            values, fitted = measure(name, defence, served)
            served = served or fitted
            rows.append([f"{name}{defence}", f"{len(events):,}", *measure.means(values)])
            print(*rows[-1], f"{time.perf_counter() - began:.1f} s", flush=True)
            plain = values if plain is None else plain
            if name == "clean" and defence != Defence():
                apart.append([str(defence)[2:], *measure.difference(values, plain)[::2]])
    head = ["log", "events", *(f"{r}, {q}" for q in ("pushed", "all") for r in RANKERS)]
    return (
        f"MRR; {len(targets)} pushed queries; {measure.pushed.sum():,} of their requests, and "
        f"{measure.sampled.sum():,} of all requests\n\n{markdown(head, rows)}\n\n"
        "MRR of all requests on the clean log, less that without a defence\n\n"
        + markdown(["defence", RANKERS[0], RANKERS[2]], apart)
        + "\n"
    )


def main() -> None:
    """Print the tables."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--events", type=Path, help="a log (default: a simulated one)")
    ask.add_argument("--items", type=Path)
    ask.add_argument("--mapping", type=Path)
    ask.add_argument("--split", choices=("validation", "test"), default="test")
    ask.add_argument("--caps", type=int, nargs="+", default=[1, 2, 3])
    ask.add_argument(
        "--attacks", nargs="*", choices=tuple(ATTACKS), default=tuple(ATTACKS), help="none: clean"
    )
    ask.add_argument("--requests", type=int, default=1_500, help="measured, of pushed and of all")
    ask.add_argument("--rows", type=int, help="latest engagements that are used (default: all)")
    ask.add_argument("--workdir", type=Path, help="for what is generated; removed at the end")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.workdir) as folder, ExitStack() as stack:
        for module in (ingestion, features, dataset):
            stack.enter_context(patch.object(module, "ray_map", in_process))
        stack.enter_context(patch.object(ingestion, "cluster_cpus", lambda: 1))
        show(measured(Path(folder), args), args.out)


if __name__ == "__main__":
    main()
