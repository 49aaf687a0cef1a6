"""Trials: configurations trained on one sample and measured alike, to be compared.

Every trial of a comparison has the same budget (``prerank.evaluation.budget``). On the validation
split, its first half (by time) stops the training and stacks the fusion, and only the second half
is measured.

A trial is a Ray task of one core. Its result is one file, written whole; a comparison that was cut
off, run again, does what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from interactrank.features.batch import Batch
from interactrank.features.catalogue import Catalogue
from interactrank.metrics.ranking import mean, request_metrics
from interactrank.model.architectures import architecture
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.files import read_json, read_json_or_nothing, write_json
from prerank.core.home import Home
from prerank.core.ray_tasks import ray_map
from prerank.dataset.examples import Order
from prerank.evaluation.baselines.neural import TorchRanker, finetune_on_validation
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.samples import sampled_tables
from prerank.evaluation.budget import (
    SAMPLE_SEED,
    Budget,
    chunks,
    measured_requests,
    middle,
    newest,
    per_request,
)
from prerank.training.fit import fit
from prerank.training.reader import Reader, new_model

METRICS = ("recall@cut", "hits@3", "mrr", "hits@10")


@dataclass(frozen=True)
class Trial:
    """One configuration and seed. ``masked`` cross features are zero for everything it sees."""

    name: str
    model: ModelConfig
    train: TrainConfig
    masked: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON form, of which a result file keeps a copy."""
        own = {
            "name": self.name,
            "architecture": architecture(self.model),
            "model": self.model.to_dict(),
            "train": asdict(self.train),
            "masked": self.masked,
        }
        plain: dict[str, Any] = to_jsonable_python(own)
        return plain


class TrialReader(Reader):
    """Reads what the budget allows, with some cross features masked."""

    def __init__(self, home: Home, budget: Budget, masked: Sequence[str]) -> None:
        super().__init__(home)
        self.off = [self.schema.cross.index(name) for name in masked]
        until = middle(home) if budget.split == "validation" else 1 << 62
        sample = sampled_tables(home, "validation", budget.validation_requests, SAMPLE_SEED)
        early = [t.filter(pc.less(t["time"], until)) for t in sample]
        self.own = {
            "train": newest(home, budget.train_requests),
            "validation": [t for t in early if len(t)],
        }

    def tables(self, name: str, order: Order = iter) -> Iterator[pa.Table]:
        """Tables of the budget."""
        own = self.own[name]
        yield from (own[i] for i in order(range(len(own))))

    def sizes(self, name: str) -> list[int]:
        """Requests of each table of the budget."""
        return [len(table) for table in self.own[name]]

    def batch(self, table: pa.Table, negatives: NDArray[np.int64] | None = None) -> Batch:
        """One batch of all requests of ``table``, less the masked features."""
        batch = super().batch(table, negatives)
        batch.x[:, self.off] = 0.0
        return batch


def fitted(
    home: Home,
    trial: Trial,
    budget: Budget,
    begin: Callable[[InteractRank, Catalogue], None] | None = None,
) -> tuple[Trainer, TrialReader, int]:
    """Train a trial; its trainer with the model of the best epoch, its reader, the epochs run.

    ``begin`` may change the weights that training begins with.
    """
    reader = TrialReader(home, budget, trial.masked)
    config = replace(trial.train, epochs=min(trial.train.epochs, budget.epochs))
    trainer, epochs = trained(reader, trial.model, config, begin)
    return trainer, reader, epochs


def trained(
    reader: Reader,
    model_config: ModelConfig,
    config: TrainConfig,
    begin: Callable[[InteractRank, Catalogue], None] | None = None,
) -> tuple[Trainer, int]:
    """Train on what ``reader`` has; a trainer with the model of the best epoch, the epochs run."""
    steps = config.epochs * max(-(-sum(reader.sizes("train")) // config.batch_requests), 1)
    model = new_model(reader, model_config, config)
    if begin is not None:
        begin(model, reader.catalogue)
    trainer = Trainer(model, config, steps)
    kept: dict[str, torch.Tensor] = {}
    epochs: list[float] = []

    def after_epoch(metrics: dict[str, Any], improved: bool, state: dict[str, Any]) -> None:
        epochs.append(metrics["validation_mrr"])
        if improved and not model.config.cross:
            finetune_on_validation(trainer, reader)
        if improved or not kept:
            kept.update({k: v.clone() for k, v in model.state_dict().items()})

    fit(trainer, reader, reader.epochs(config), after_epoch)
    model.load_state_dict(kept)
    return trainer, len(epochs)


def measured(
    home: Home, rankers: Sequence[Ranker], reader: TrialReader, budget: Budget
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Ranker -> metric -> its value for each of the budget's measured requests, [R]."""
    found: dict[str, dict[str, list[NDArray[np.float64]]]] = {
        ranker.name: {m: [] for m in METRICS} for ranker in rankers
    }
    limit = max(budget.measured_candidates // per_request(home), 1)
    for arrays, queries, _, unreachable in chunks(
        home, measured_requests(home, budget.split, limit)
    ):
        arrays.x[:, reader.off] = 0.0
        for ranker in rankers:
            scores = ranker.score(arrays, queries)
            values = request_metrics(scores, arrays.labels & 1 > 0, arrays.offsets, unreachable)
            for metric, kept in found[ranker.name].items():
                kept.append(values[metric])
    return {
        name: {m: np.concatenate([np.zeros(0), *v]) for m, v in own.items()}
        for name, own in found.items()
    }


@dataclass(frozen=True)
class TrialTask:
    """A trial whose result goes to the file ``out``, with what was ``asked`` for as JSON."""

    home: Home
    trial: Trial
    budget: Budget
    asked: dict[str, Any]
    out: Path


def _trial_task(task: TrialTask) -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    trainer, reader, epochs = fitted(task.home, task.trial, task.budget)
    ranker = TorchRanker("trial", trainer.model, reader.catalogue)
    values = measured(task.home, [ranker], reader, task.budget)[ranker.name]
    metrics = {m: mean(v) for m, v in values.items()}
    result = {
        "asked": task.asked,
        "metrics": metrics,
        "epochs": epochs,
        "seconds": time.perf_counter() - began,
    }
    write_json(task.out, result)


def of_data(home: Home, budget: Budget) -> dict[str, Any]:
    """What a result is of, beside its trial: log, features and budget."""
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    return {
        "fingerprint": training["fingerprint"],
        "schema_hash": training["schema_hash"],
        "budget": asdict(budget),
        "metrics": [*METRICS],
    }


def run_trials(
    home: Home, folder: Path, trials: Sequence[Trial], budget: Budget
) -> list[dict[str, Any]]:
    """Run what has no result yet, with a progress bar; results in the order of ``trials``.

    A result counts only if it is of the same data, configuration, seed and budget; a damaged file
    holds none.

    Returns:
        For each trial: ``metrics`` (name -> mean), ``epochs`` and ``seconds``.
    """
    home.look(folder)
    same = of_data(home, budget)
    asked = [{**same, "trial": t.to_dict()} for t in trials]
    files = [folder / f"{t.name.replace(' ', '_')}-{t.train.seed}.json" for t in trials]
    pending = [
        TrialTask(home, t, budget, a, f)
        for t, a, f in zip(trials, asked, files, strict=True)
        if read_json_or_nothing(f).get("asked") != a
    ]
    ray_map(_trial_task, pending, "trials")
    home.look(folder)
    return [read_json(f) for f in files]
