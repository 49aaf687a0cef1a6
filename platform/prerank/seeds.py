"""The trainings of a job: one for each seed, and which of them becomes the version."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prerank.config import JobConfig
from prerank.core.files import replaced
from prerank.core.home import Home
from prerank.core.ray_tasks import ray_map
from prerank.evaluation.baselines import suite
from prerank.evaluation.results import LEAD


@dataclass(frozen=True)
class Trained:
    """InteractRank trained with a seed: the best epoch's bundle, and the epochs' metrics."""

    seed: int
    bundle: Path
    history: Sequence[Mapping[str, Any]]

    @property
    def validation_mrr(self) -> float:
        """Of the best epoch."""
        return max(float(epoch["validation_mrr"]) for epoch in self.history)


def train_seeds(
    home: Home,
    config: JobConfig,
    name: str,
    uri: str,
    run_id: str,
    meta: Mapping[str, Any],
    seeds: int,
) -> list[Trained]:
    """Fit the baselines and InteractRank with each of ``seeds`` seeds, the configured one first.

    Args:
        home: with a training set.
        config: the job's; seed s of the trainings is its own plus s.
        name: of the job.
        uri, run_id: of the MLflow run. Epochs of another than the configured seed stand there under
            ``seed-S.``.
        meta: what each bundle says of the job.
        seeds: how many.

    Returns:
        The trainings, best on validation first: that is the one to register. The bundles of the
        others lie among the baselines.
    """
    from prerank.training.ray_train import run_training

    suite.remove_seeds(home)
    of_seed = [replace(config.train, seed=config.train.seed + s) for s in range(seeds)]
    # Before the model, one core each: beside it, on two cores, they would take the cores of its
    # data tasks.
    tasks = [
        task
        for train in of_seed
        for task in suite.tasks(home, config.baselines, config.model, train, config.train.seed)
    ]
    ray_map(suite.fit_baseline, tasks, "baselines")
    home.look(home.root / "baselines")
    trained = []
    for train in of_seed:
        own = "" if train is of_seed[0] else f"seed-{train.seed}"
        bundle, history = run_training(
            home,
            "-".join(filter(None, (name, run_id[:8], own))),
            config.model,
            train,
            uri,
            run_id,
            {**meta, "seed": train.seed},
            prefix=own and f"{own}.",
        )
        trained.append(Trained(train.seed, bundle, history))
    # Of equal ones, the earlier seed.
    trained.sort(key=lambda t: -t.validation_mrr)
    for other in trained[1:]:
        with replaced(suite.folder_of(home, LEAD, other.seed)) as folder:
            shutil.copytree(other.bundle, folder, dirs_exist_ok=True)
    return trained


def folders(
    home: Home, names: Sequence[str], bundle: Path, numbers: Sequence[int], configured: int | None
) -> dict[str, dict[int, Path]]:
    """Folder of each ranker by seed: the baselines ``names``, and InteractRank.

    ``bundle`` is the version's, whose seed is the first of ``numbers``; ``configured`` is the job's
    own seed, whose baselines bear no number.
    """
    found = {
        name: {s: suite.folder_of(home, name, None if s == configured else s) for s in numbers}
        for name in names
    }
    found[LEAD] = {s: suite.folder_of(home, LEAD, s) for s in numbers} | {numbers[0]: bundle}
    return found
