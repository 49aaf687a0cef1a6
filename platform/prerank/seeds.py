"""The trainings of a job: one for each seed, and which of them becomes the version."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from interactrank.training.trainer import TrainConfig
from prerank.config import JobConfig
from prerank.core.files import replaced
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import ray_map
from prerank.evaluation.baselines import suite
from prerank.evaluation.results import LEAD
from prerank.registry import tracking

PARAMETERS = ("learning_rate", "batch_requests", "epochs", "seed")
"""Of a training, which the MLflow run shows."""
FORGOTTEN = "forgotten"
"""In a bundle's meta data: digest of those who had been forgotten when it was trained."""


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


def fit_baselines(home: Home, config: JobConfig, seeds: int, run_id: str) -> None:
    """Fit the job's baselines with each of ``seeds`` seeds; ``run_id`` is of its MLflow run."""
    suite.remove_seeds(home)
    # Before the model, one core each: beside it, on two cores, they would take the cores of its
    # data tasks.
    tasks = [
        task
        for train in _of_seeds(config, seeds)
        for task in suite.tasks(
            home, config.baselines, config.model, train, run_id, config.train.seed
        )
    ]
    ray_map(suite.fit_baseline, tasks, "baselines")
    home.look(home.root / "baselines")


def _of_seeds(config: JobConfig, seeds: int) -> list[TrainConfig]:
    return [replace(config.train, seed=config.train.seed + s) for s in range(seeds)]


@dataclass(frozen=True)
class Job:
    """A job on a home's training set.

    Attributes:
        home: with a training set.
        config: the job's; seed s of its trainings is its own plus s.
        name: of the job.
        run_id: of its MLflow run, which is active. Epochs of another than the configured seed stand
            there under ``seed-S.``.
        meta: what each bundle says of the job.
    """

    home: Home
    config: JobConfig
    name: str
    run_id: str
    meta: Mapping[str, Any]

    def train(self, seeds: int, warm: Path | None = None) -> list[Trained]:
        """Train InteractRank with each of ``seeds`` seeds, the configured one first.

        Where the job's run is one that was cut off, a training goes on from its last epoch.

        Args:
            seeds: how many.
            warm: bundle of the version whose towers the trainings begin with; None for none.

        Returns:
            The trainings, best on validation first: that is the one to register. The bundles of the
            others lie among the baselines.
        """
        trained = [self._train(train, warm) for train in _of_seeds(self.config, seeds)]
        # Of equal ones, the earlier seed.
        trained.sort(key=lambda t: -t.validation_mrr)
        for other in trained[1:]:
            with replaced(suite.folder_of(self.home, LEAD, other.seed)) as folder:
                shutil.copytree(other.bundle, folder, dirs_exist_ok=True)
        return trained

    def _train(self, train: TrainConfig, warm: Path | None) -> Trained:
        from prerank.training.ray_train import run_training

        own = "" if train.seed == self.config.train.seed else f"seed-{train.seed}"
        bundle, history = run_training(
            self.home,
            "-".join(filter(None, (self.name, self.run_id[:8], own))),
            self.config.model,
            train,
            tracking.tracking_uri(self.home),
            self.run_id,
            {**self.meta, "seed": train.seed},
            prefix=own and f"{own}.",
            warm=warm,
        )
        return Trained(train.seed, bundle, history)


@contextmanager
def job(home: Home, config: JobConfig, name: str, run_id: str | None = None) -> Iterator[Job]:
    """A job on the training set that ``home`` has, with its MLflow run.

    Args:
        home: with a training set.
        config: the job's.
        name: of the job.
        run_id: of a job that was cut off and goes on; None begins one.
    """
    from prerank.registry.datasets import log_inputs

    home.look()
    manifest = LogManifest.load(home)
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    params = {k: getattr(config.train, k) for k in PARAMETERS} | {
        "fingerprint": manifest.fingerprint,
        "dataset": manifest.dataset,
    }
    full = {
        "model": config.model.to_dict(),
        "train": asdict(config.train),
        "features": asdict(config.features),
        "training_set": training,
    }
    with tracking.job_run(home, name, params, full, run_id) as own:
        if run_id is None:
            log_inputs(home, manifest, training["splits"])
        meta = {
            "run_id": own,
            "dataset": manifest.dataset,
            "fingerprint": manifest.fingerprint,
            "splits": training["splits"],
            "actions": manifest.actions,
            "heads": manifest.heads,
            "last_us": manifest.last_us,
            FORGOTTEN: Forgotten.of(home).digest,
        }
        yield Job(home, config, name, own, meta)


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
