"""What a ranker learns from few requests: InteractRank beside the linear model and the trees.

A point of the curve is a job on a shorter log: the newest share of the training requests, and as
large a share of the validation requests that choose. Features are those of the whole log. All
points are measured on the same requests (``prerank.evaluation.budget``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import FeatureSchema
from interactrank.metrics.ranking import mean, paired_test
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.files import read_json, read_json_or_nothing, write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import ray_map
from prerank.dataset.examples import split_sizes
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.samples import shuffled
from prerank.evaluation.baselines.suite import FITTED, load_ranker
from prerank.evaluation.budget import Budget
from prerank.evaluation.results import LEAD, CurvePoint, Difference
from prerank.evaluation.trials import METRICS, Trial, TrialReader, fitted, measured, of_data
from prerank.registry import tracking

FILE = "learning_curve.json"
SHARES = (2, 5, 10, 25, 50, 100)
"""Points of the curve, in percent of the requests."""
TESTED = ("recall@cut", "mrr")
"""Metrics by which the others are tested against LEAD."""
FEWEST = 16
"""Requests that a point has at least, of either split."""


@dataclass(frozen=True)
class PointTask:
    """A share and a seed to train and measure; the result goes to ``out``, with ``asked``."""

    home: Home
    trial: Trial
    budget: Budget
    asked: dict[str, Any]
    out: Path


def budget_of(home: Home, share: int, epochs: int, split: str) -> Budget:
    """What a trial of a share gets."""

    def part(of: str) -> int:
        return max(sum(split_sizes(home, of)) * share // 100, FEWEST)

    return Budget(part("train"), part("validation"), epochs=epochs, split=split)


def _point(task: PointTask) -> None:
    """Train and measure all rankers of a point (a Ray task)."""
    torch.set_num_threads(1)
    trainer, reader, _ = fitted(task.home, task.trial, task.budget)
    rankers: list[Ranker] = [TorchRanker(LEAD, trainer.model, reader.catalogue)]
    with TemporaryDirectory() as folder:
        rankers += _baselines(task, reader, Path(folder))
        values = measured(task.home, rankers, reader, task.budget)
    plain = {
        name: {m: [None if np.isnan(x) else float(x) for x in v] for m, v in own.items()}
        for name, own in values.items()
    }
    requests = sum(reader.sizes("train"))
    write_json(task.out, {"asked": task.asked, "requests": requests, "values": plain})


def _baselines(task: PointTask, reader: TrialReader, folder: Path) -> list[Ranker]:
    """The linear model and the trees, fitted on the requests of ``reader``."""

    def read(_: Home, schema: FeatureSchema, split: str, limit: int, seed: int) -> RequestArrays:
        kept, rng = [], np.random.default_rng(seed)
        share = min(limit / max(sum(reader.sizes(split)), 1), 1.0)
        for table in reader.tables(split):
            rows = rng.choice(len(table), int(np.ceil(share * len(table))), replace=False)
            kept.append(table.take(np.sort(rows)))
        none = next(iter(reader.tables("train"))).slice(0, 0)
        return shuffled(kept or [none], schema, seed)

    found = []
    for name, fit in FITTED.items():
        (folder / name).mkdir()
        fit(task.home, reader.schema, folder / name, task.trial.train.seed, read)
        found.append(load_ranker(name, folder / name))
    return found


def learning_curve(
    home: Home, model: ModelConfig, train: TrainConfig, seeds: int, split: str
) -> dict[str, Any]:
    """Train and measure every point with ``seeds`` seeds; what is done already is kept.

    Writes ``learning_curve.json`` under ``home`` and logs an MLflow run.

    Returns:
        ``dataset``, ``split``, ``about`` (in words) and ``points``: the fields of ``CurvePoint``.
    """
    folder = home.root / "learning_curve" / split
    home.look(folder)
    tasks = {s: _tasks(home, folder, s, model, train, seeds, split) for s in SHARES}
    flat = [task for share in SHARES[::-1] for task in tasks[share]]
    ray_map(
        _point,
        [task for task in flat if read_json_or_nothing(task.out).get("asked") != task.asked],
        "learning curve",
    )
    home.look(folder)
    found = [
        _of_seeds(share, [read_json(task.out) for task in own]) for share, own in tasks.items()
    ]
    manifest = LogManifest.load(home)
    results = {
        "dataset": manifest.dataset,
        "split": split,
        "about": f"{seeds} seeds, {train.epochs} epochs at most; {_where(split)}",
        "points": [asdict(point) for point in found],
    }
    write_json(home.root / FILE, results)
    _log(home, results, found)
    return results


def _where(split: str) -> str:
    later = "the later half of the validation requests"
    return f"measured on {later if split == 'validation' else 'the test requests'}"


def _tasks(
    home: Home,
    folder: Path,
    share: int,
    model: ModelConfig,
    train: TrainConfig,
    seeds: int,
    split: str,
) -> list[PointTask]:
    budget, found = budget_of(home, share, train.epochs, split), []
    same = of_data(home, budget)
    for seed in range(train.seed, train.seed + seeds):
        trial = Trial(LEAD, model, replace(train, seed=seed))
        asked = {**same, "trial": trial.to_dict()}
        found.append(PointTask(home, trial, budget, asked, folder / f"{share}-{seed}.json"))
    return found


def _of_seeds(share: int, done: Sequence[Mapping[str, Any]]) -> CurvePoint:
    """A point from the results of its seeds: paired tests are of their means by request."""
    values = {
        name: {m: np.array([d["values"][name][m] for d in done], np.float64) for m in METRICS}
        for name in done[0]["values"]
    }
    versus = {}
    for name in values:
        if name != LEAD:
            pairs = {m: (values[LEAD][m].mean(0), values[name][m].mean(0)) for m in TESTED}
            tests = {m: paired_test(*pair) for m, pair in pairs.items()}
            versus[name] = {
                m: Difference(t.mean_difference, t.ci, t.p_value) for m, t in tests.items()
            }
    means = {name: {m: [mean(v) for v in own[m]] for m in METRICS} for name, own in values.items()}
    return CurvePoint(share, done[0]["requests"], means, versus)


def _log(home: Home, results: Mapping[str, Any], found: Sequence[CurvePoint]) -> None:
    import mlflow

    params = {"dataset": results["dataset"], "split": results["split"]}
    with tracking.job_run(home, "learning curve", params, {"about": results["about"]}):
        for point in found:
            means = {
                f"{name}.{tracking.metric_name(m)}": float(np.mean(seeds))
                for name, own in point.models.items()
                for m, seeds in own.items()
            }
            mlflow.log_metrics(means, step=point.requests)
        mlflow.log_artifact(str(home.root / FILE))
        mlflow.log_text(table(results), "learning_curve.txt")


def load_results(home: Home) -> dict[str, Any]:
    """What the last ``learning_curve`` returned; empty if there was none."""
    path = home.root / FILE
    return home.read_json(path, "prerank curve") if path.exists() else {}


def points(results: Mapping[str, Any]) -> list[CurvePoint]:
    """The points of results; none of empty ones."""
    return [CurvePoint.of(point) for point in results.get("points", ())]


def table(results: Mapping[str, Any]) -> str:
    """Points × rankers: mean MRR over seeds, and what LEAD gains on each other ranker (95%)."""
    found = points(results)
    names = [*found[0].models]
    head = f"{'requests':>16}" + "".join(f"{name:>14}" for name in names)
    head += "".join(f"{'- ' + name:>26}" for name in names[1:])
    lines = [f"{results['dataset']}, mrr: {results['about']}", head]
    for point in found:
        row = f"{point.requests:>10,} {point.share:>4}%"
        row += "".join(f"{np.mean(point.models[name]['mrr']):>14.4f}" for name in names)
        for name in names[1:]:
            d = point.versus[name]["mrr"]
            row += f"{d.difference:>+9.4f} ({d.ci[0]:+.4f} to {d.ci[1]:+.4f})".rjust(26)
        lines.append(row)
    return "\n".join(lines)
