"""Tune every neural model with the same budget, on validation.

    python benchmarks/tune.py --home HOME [--home HOME2] [--config JOB.yaml] [--out TABLE.md]

HOME is an absolute path that `prerank run` has filled. Each model gets the same grid, so the same
number of trials: learning rate × share of the in-batch softmax. A trial trains on the same requests
and is measured on the later half of the validation requests, with their whole candidates
(``prerank.evaluation.budget``); the test split takes no part. Where several homes are given, the
choice is the configuration with the best mean over homes of MRR relative to the home's best, so
that no log decides by its scale. Trials lie under HOME/tuning: run it again and it goes on.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from printed import markdown, show

from interactrank.training.trainer import TrainConfig
from prerank.config import JobConfig
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import connect
from prerank.evaluation.baselines.suite import MODELS
from prerank.evaluation.budget import Budget
from prerank.evaluation.trials import METRICS, Trial, run_trials

GRID: dict[str, tuple[float, ...]] = {
    "learning_rate": (1e-3, 3e-3),
    "softmax": (0.0, 0.1, 1.0),
}
Point = tuple[float, ...]


def configured(train: TrainConfig, point: Point) -> TrainConfig:
    """``train`` with a point of the grid."""
    rate, softmax = point
    return replace(train, learning_rate=rate, loss=replace(train.loss, softmax=softmax))


def trials(config: JobConfig, models: list[str], grid: list[Point]) -> dict[tuple[str, Point], Any]:
    """A trial for each model and point of the grid."""
    out = {}
    for name, point in itertools.product(models, grid):
        model, train = MODELS[name].configs(config.model, config.train)
        label = f"{name} " + " ".join(f"{v:g}" for v in point)
        out[name, point] = Trial(label, model, configured(train, point))
    return out


def choose(measured: dict[tuple[str, Point], list[float]], name: str, grid: list[Point]) -> Point:
    """The point with the best mean over homes of MRR / that home's best for this model."""
    rows = np.array([measured[name, point] for point in grid])
    return grid[int(np.argmax((rows / rows.max(0)).mean(1)))]


def main() -> None:
    """Run what is missing, print the table, write it."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--home", action="append", required=True, help="a PRERANK_HOME; repeatable")
    ask.add_argument("--config", type=Path, help="job YAML whose sizes are tuned")
    ask.add_argument("--models", nargs="+", choices=sorted(MODELS), default=sorted(MODELS))
    ask.add_argument("--train-requests", type=int, default=Budget.train_requests)
    ask.add_argument("--candidates", type=int, default=Budget.measured_candidates)
    ask.add_argument("--epochs", type=int, default=Budget.epochs)
    ask.add_argument("--points", type=int, help="only the grid's first points, to try the script")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    grid = list(itertools.product(*GRID.values()))[: args.points]
    budget = Budget(
        train_requests=args.train_requests, measured_candidates=args.candidates, epochs=args.epochs
    )
    asked = trials(JobConfig.load(args.config), args.models, grid)
    connect()
    homes = [Home.at(Path(h).resolve()) for h in args.home]
    found = [run_trials(home, home.root / "tuning", list(asked.values()), budget) for home in homes]
    rows = {key: [own[i]["metrics"] for own in found] for i, key in enumerate(asked)}
    mrr = {key: [m["mrr"] for m in metrics] for key, metrics in rows.items()}
    names = [LogManifest.load(h).dataset for h in homes]
    head = ["model", *GRID, *(f"{n} {m}" for n in names for m in METRICS), "chosen"]
    lines = []
    for name in args.models:
        best = choose(mrr, name, grid)
        for point in grid:
            cells = [name, *(f"{v:g}" for v in point)]
            cells += [f"{m[k]:.4f}" for m in rows[name, point] for k in METRICS]
            lines.append([*cells, "×" if point == best else ""])
    text = f"Validation, {len(grid)} trials a model; {budget}\n\n{markdown(head, lines)}\n"
    show(text, args.out)


if __name__ == "__main__":
    main()
