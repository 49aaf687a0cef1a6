"""How far a ranker of the simulated log can come: what the log oracle knows that no log tells yet.

    python benchmarks/simulated_bounds.py [--preset demo] [--seed 7]

The log oracle of ``prerank.simulate`` is given the appeal of every (query, item) pair,
"learnable from an endless log". In a log of this size most pairs were hardly ever shown. The script
simulates the log and measures, on the requests of its last fifth, the oracle of true relevance, the
log oracle, and a log oracle who knows everything but that appeal; the log itself is the same to
the byte.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.metrics.ranking import mean, request_metrics
from prerank.simulate import Oracle, load_oracles, log, simulate
from prerank.simulate.presets import PRESETS

TEST_SHARE = 0.2
METRICS = ("hits@3", "mrr")


@contextmanager
def without_appeal() -> Iterator[None]:
    """While open, a simulation's log oracle does not know the appeal of (query, item) pairs."""
    simulation: Any = log
    score = simulation.score_impressions

    def scored(world: Any, *rest: Any) -> Any:
        plain = replace(world, behaviour=replace(world.behaviour, appeal=0.0))
        truth, _, guess = score(world, *rest)
        return truth, score(plain, *rest)[1], guess

    simulation.score_impressions = scored
    try:
        yield
    finally:
        simulation.score_impressions = score


def engaged(folder: Path) -> dict[str, tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """The last requests with an engagement: id -> items shown, and which were engaged."""
    parts = sorted((folder / "events").glob("*.parquet"))
    events = pd.concat([pq.read_table(p).to_pandas() for p in parts])
    times = events.groupby("request_id")["request_time"].first().sort_values()
    late = set(times.index[int((1 - TEST_SHARE) * len(times)) :])
    found = {}
    for name, own in events[events["request_id"].isin(late)].groupby("request_id"):
        shown = own.loc[own["action"] == "impression", "item_id"].unique()
        hit = np.isin(shown, own.loc[own["action"] != "impression", "item_id"])
        if hit.any():
            found[str(name)] = shown, hit
    return found


def measured(oracle: Oracle, requests: dict[str, Any]) -> list[float]:
    """Metrics of an oracle's order of what was shown."""
    scores = np.concatenate([oracle.score(name, shown) for name, (shown, _) in requests.items()])
    labels = np.concatenate([hit for _, hit in requests.values()])
    sizes = [len(shown) for shown, _ in requests.values()]
    values = request_metrics(scores, labels, np.concatenate(([0], np.cumsum(sizes))))
    return [mean(values[m]) for m in METRICS]


def main() -> None:
    """Print a table of oracles × metrics."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--preset", choices=sorted(PRESETS), default="demo")
    ask.add_argument("--seed", type=int, default=7)
    args = ask.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, less = Path(folder, "whole"), Path(folder, "less")
        simulate(whole, args.preset, args.seed)
        with without_appeal():
            simulate(less, args.preset, args.seed)
        requests = engaged(whole)
        oracles = load_oracles(whole)
        oracles["oracle_log without pair appeal"] = load_oracles(less)["oracle_log"]
        print(f"\n{args.preset}, seed {args.seed}, {len(requests)} requests\n")
        print("| | " + " | ".join(METRICS) + " |\n" + "|---" * (len(METRICS) + 1) + "|")
        for name, oracle in oracles.items():
            print(
                f"| {name} | " + " | ".join(f"{v:.3f}" for v in measured(oracle, requests)) + " |"
            )


if __name__ == "__main__":
    main()
