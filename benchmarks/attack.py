"""What accounts that boost items do to the counts, and what a cap per user gives back.

    python benchmarks/attack.py [--events E --items I --mapping M] [--caps 3 10] [--item-caps 1 3]
        [--out TABLE.md]

Without --events the log is the simulated one of the preset "demo". Of a log only engagements are
used, so that the whole catalogue is ranked: an item that retrieval does not show cannot be pushed.
Under each of some middling queries an item that nobody clicked is pushed to 1.2 times the clicks of
the query's leader, within the last fifth of the time before the measured requests:

    greedy   accounts of 20 clicks each, all for one (query, item)
    ring     eight accounts with an item each, who click each other's items
    sybil    as many accounts as clicks

Measured is the last fifth of the log's own requests, by three rankers: the query's count of the
item alone (IQP), a linear model over InteractRank's cross features that was fitted on the clean log
(a model that is live when the attack comes), and one fitted on the attacked log. A defence changes
the events before the measured time, before any feature is built:

    cap c           a user's first c engagements of a query count
    item cap c      a user's first c engagements of a query, item and action count
    detector r / f  the events of a share r of the spamming users and f of the others are dropped

A cap is min(1, c / n) times the contribution of each of a user's n engagements of a key, and is
written here as dropped events, for the query's key over all time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from printed import markdown, show

from interactrank.metrics.ranking import mean, request_metrics
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import connect
from prerank.dataset import build as dataset
from prerank.dataset.requests import event_days, requests_between
from prerank.dataset.splits import Splits, plan_splits
from prerank.evaluation.baselines import linear
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.simple import ColumnRanker
from prerank.evaluation.trials import chunks
from prerank.features import build as features
from prerank.ingest import run as ingestion
from prerank.ingest.mapping import LogMapping, load_mapping
from prerank.simulate import simulate

SEED = 7
QUERIES = 200
MIDDLE = (0.10, 0.60)
"""Quantiles between which a query's rank by clicks lies, of the queries with MIN_CLICKS."""
MIN_CLICKS = 5
LEAD = 1.2
GREEDY_CLICKS, RING = 20, 8
ATTACK_SHARE = 0.2
DETECTOR = (0.8, 0.01)
SPAMMER = "spammer-"
QUERY, ITEM = ("query",), ("query", "item_id", "action")
RANKERS = ("IQP", "linear of the clean log", "linear of this log")
COLUMNS = ["request_id", "request_time", "event_time", "user_id", "query", "item_id", "action"]


@dataclass(frozen=True)
class Push:
    """An item to be pushed under a query by so many clicks."""

    query: str
    item: int
    clicks: int


def engagements(home: Home) -> pd.DataFrame:
    """The ingested log's engagements, under the canonical names."""
    passive = {a for a in LogManifest.load(home).actions if a in LogMapping().passive}
    tables = [
        pq.read_table(path, columns=COLUMNS, partitioning=None)
        for path in sorted(home.events.glob("day=*/*.parquet"))
    ]
    events: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    events["user_id"] = events["user_id"].astype(str)
    return events[~events["action"].isin(passive)].reset_index(drop=True)


def pushes(before: pd.DataFrame, items: NDArray[np.int64], rng: np.random.Generator) -> list[Push]:
    """What the attack is to reach, from the events before the measured time."""
    counts = before.groupby("query").size().sort_values(ascending=False, kind="stable")
    counts = counts[counts >= MIN_CLICKS]
    low, high = (int(share * len(counts)) for share in MIDDLE)
    names = counts.index[low:high].to_numpy()
    chosen = rng.choice(names, min(QUERIES, len(names)), replace=False)
    found = []
    for query in chosen:
        own = before.loc[before["query"] == query, "item_id"].value_counts()
        others = items[~np.isin(items, own.index.to_numpy())]
        found.append(Push(str(query), int(rng.choice(others)), int(np.ceil(LEAD * own.iloc[0]))))
    return found


def greedy(targets: list[Push]) -> Iterator[tuple[str, Push]]:
    """Account and push of each click of greedy bots."""
    for at, push in enumerate(targets):
        for click in range(push.clicks):
            yield f"greedy-{at}-{click // GREEDY_CLICKS}", push


def ring(targets: list[Push]) -> Iterator[tuple[str, Push]]:
    """Account and push of each click of rings: nobody clicks the own item."""
    for at, push in enumerate(targets):
        for click in range(push.clicks):
            member = (at % RING + 1 + click % (RING - 1)) % RING
            yield f"ring-{at // RING}-{member}", push


def sybil(targets: list[Push]) -> Iterator[tuple[str, Push]]:
    """Account and push of each click of sybils."""
    for at, push in enumerate(targets):
        for click in range(push.clicks):
            yield f"sybil-{at}-{click}", push


ATTACKS: dict[str, Callable[[list[Push]], Iterator[tuple[str, Push]]]] = {
    "greedy": greedy,
    "ring": ring,
    "sybil": sybil,
}


def attacked(
    events: pd.DataFrame, attack: str, targets: list[Push], until: pd.Timestamp
) -> pd.DataFrame:
    """The log with an attack that ends at `until`."""
    rng = np.random.default_rng(SEED)
    clicks = list(ATTACKS[attack](targets))
    begin = until - ATTACK_SHARE * (until - events["request_time"].min())
    seconds = (until - begin).total_seconds() * rng.random(len(clicks))
    at = pd.DatetimeIndex(begin + pd.to_timedelta(seconds, unit="s")).floor("s")
    added = pd.DataFrame(
        {
            "request_id": [f"{SPAMMER}{i}" for i in range(len(clicks))],
            "request_time": at,
            "event_time": at + pd.Timedelta(seconds=2),
            "user_id": [SPAMMER + account for account, _ in clicks],
            "query": [push.query for _, push in clicks],
            "item_id": [push.item for _, push in clicks],
            "action": events["action"].mode().iloc[0],
        }
    )
    return pd.concat([events, added.astype(events.dtypes.to_dict())], ignore_index=True)


def capped(events: pd.DataFrame, until: pd.Timestamp, cap: int, of: Sequence[str]) -> pd.DataFrame:
    """The log with a user's first `cap` engagements of each `of` before `until`, and all later."""
    nth = events.sort_values("event_time", kind="stable").groupby(["user_id", *of]).cumcount()
    return events[(nth.reindex(events.index) < cap) | (events["request_time"] >= until)]


def detected(events: pd.DataFrame, until: pd.Timestamp) -> pd.DataFrame:
    """The log without the users whom a detector of a given recall and false positives finds."""
    rng = np.random.default_rng(SEED)
    users = events["user_id"].unique()
    spams = np.array([user.startswith(SPAMMER) for user in users])
    found = users[rng.random(len(users)) < np.where(spams, *DETECTOR)]
    return events[~events["user_id"].isin(found) | (events["request_time"] >= until)]


def in_process(function: Callable[[Any], Any], tasks: Sequence[Any], _: str) -> list[Any]:
    """What Ray does elsewhere: two dozen small logs are done sooner without it."""
    return [function(task) for task in tasks]


class Measure:
    """Ranks the measured requests by the features of any version of the log."""

    def __init__(
        self, root: Path, items: Path, splits: Splits, requests: pa.Table, targets: list[Push]
    ) -> None:
        self.root, self.items, self.splits, self.requests = root, items, splits, requests
        self.pushed = {push.query for push in targets}
        self.served: Ranker | None = None

    def __call__(self, name: str, events: pd.DataFrame) -> list[str]:
        """A row: name, events, MRR of each ranker on the pushed queries, then on all."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            path = Path(folder)
            events.to_parquet(path / "events.parquet")
            home = Home.at(path / "home")
            ingestion.ingest(path / "events.parquet", self.items, home, LogMapping(name="attack"))
            features.build_features(home)
            dataset.build_training_set(home)
            schema = LogManifest.load(home).schema
            linear.fit(home, schema, path / "linear", SEED)
            fitted = linear.LinearRanker("linear", path / "linear")
            # The first version measured is the clean log, whose model the others are attacked with.
            self.served = self.served or fitted
            rankers = [ColumnRanker("iqp", schema, "q:engage:all"), self.served, fitted]
            found = self._mrr(home, rankers)
        print(name, len(events), *found, flush=True)
        return [name, f"{len(events):,}", *(f"{value:.3f}" for value in found)]

    def _mrr(self, home: Home, rankers: list[Ranker]) -> list[float]:
        found: list[list[NDArray[np.float64]]] = [[] for _ in rankers]
        pushed: list[bool] = []
        for arrays, queries, _, unreachable in chunks(home, self.requests):
            pushed += [query in self.pushed for query in queries]
            for own, ranker in zip(found, rankers, strict=True):
                scores, positive = ranker.score(arrays, queries), arrays.labels & 1 > 0
                own.append(request_metrics(scores, positive, arrays.offsets, unreachable)["mrr"])
        values = [np.concatenate(own) for own in found]
        return [mean(v[np.array(pushed)]) for v in values] + [mean(v) for v in values]


def main() -> None:
    """Print a table of versions of the log × rankers."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--events", type=Path, help="a log (default: a simulated one)")
    ask.add_argument("--items", type=Path)
    ask.add_argument("--mapping", type=Path)
    ask.add_argument("--caps", type=int, nargs="*", default=[3, 10])
    ask.add_argument("--item-caps", type=int, nargs="*", default=[1, 3])
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    torch.set_num_threads(1)
    connect()  # asked by ingest how many cores there are
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for module in (ingestion, features, dataset):
            stack.enter_context(patch.object(module, "ray_map", in_process))
        root = Path(folder)
        events, items = args.events, args.items
        if events is None:
            simulate(root / "simulated", seed=SEED)
            events, items = root / "simulated" / "events", root / "simulated" / "items.parquet"
        home = Home.at(root / "log")
        ingestion.ingest(events.resolve(), items.resolve(), home, load_mapping(args.mapping))
        catalogue = root / "items.parquet"
        pq.write_table(pq.read_table(home.items).select(["item_id", "title"]), catalogue)
        clean = engagements(home)
        clean.to_parquet(root / "clean.parquet")
        home = Home.at(root / "clean")
        ingestion.ingest(root / "clean.parquet", catalogue, home, LogMapping(name="attack"))
        manifest = LogManifest.load(home)
        splits = plan_splits(home, manifest)
        low, high = splits.test_from, splits.closed_before
        requests = pa.concat_tables(
            requests_between(files, manifest, low, high) for files in event_days(home, low, high)
        )
        until = pd.Timestamp(low, unit="us", tz="UTC")
        ids = pq.read_table(catalogue)["item_id"].to_numpy()
        before = clean[clean["request_time"] < until]
        targets = pushes(before, ids, np.random.default_rng(SEED))
        measure = Measure(root, catalogue, splits, requests, targets)
        versions = {"clean": clean}
        versions |= {a: attacked(clean, a, targets, until) for a in ATTACKS}
        defences: dict[str, Callable[[pd.DataFrame, pd.Timestamp], pd.DataFrame]] = {
            "": lambda version, _: version,
            **{f", item cap {c}": partial(capped, cap=c, of=ITEM) for c in args.item_caps},
            f", detector {DETECTOR[0]:.0%} / {DETECTOR[1]:.0%}": detected,
            **{f", cap {c}": partial(capped, cap=c, of=QUERY) for c in args.caps},
        }
        rows = [
            measure(attack + defence, defend(version, until))
            for defence, defend in defences.items()
            for attack, version in versions.items()
        ]
    known = sum(query in measure.pushed for query in requests["query"].to_pylist())
    head = ["log", "events", *(f"{r}, {q}" for q in ("pushed", "all") for r in RANKERS)]
    show(
        f"MRR; {len(targets)} pushed queries with {known:,} of {len(requests):,} requests\n\n"
        + markdown(head, rows)
        + "\n",
        args.out,
    )


if __name__ == "__main__":
    main()
