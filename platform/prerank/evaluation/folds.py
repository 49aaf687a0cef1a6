"""Configurations that are trained and measured at origins of the past: a file for each result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from interactrank.metrics.ranking import mean
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.files import read_json, read_json_or_nothing, write_json
from prerank.core.home import Home
from prerank.core.ray_tasks import ray_map
from prerank.evaluation.origins import FoldBudget, OriginReader, reciprocal_ranks
from prerank.evaluation.search_space import Value, applied
from prerank.evaluation.trials import trained


@dataclass(frozen=True)
class FoldTask:
    """A configuration to be trained and measured at an origin; its result goes to ``out``."""

    home: Home
    model: ModelConfig
    train: TrainConfig
    k: int
    budget: FoldBudget
    out: Path


def _fold(task: FoldTask) -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    reader = OriginReader(task.home, task.k, task.budget)
    config = replace(task.train, epochs=min(task.train.epochs, task.budget.epochs))
    trainer, epochs = trained(reader, task.model, config)
    ranks = reciprocal_ranks(task.home, reader, trainer.model, task.k, task.budget)
    plain = [None if np.isnan(r) else float(r) for r in ranks]
    seconds = time.perf_counter() - began
    write_json(task.out, {"ranks": plain, "epochs": epochs, "seconds": seconds})


@dataclass(frozen=True)
class Folds:
    """Results of a search, in ``folder``.

    Attributes:
        home: with a training set.
        folder: of the results.
        model, train: the configuration whose settings are replaced.
        budget: of each origin.
    """

    home: Home
    folder: Path
    model: ModelConfig
    train: TrainConfig
    budget: FoldBudget

    def measure(
        self, asked: Sequence[tuple[int, Mapping[str, Value]]], k: int, seed: int = 0
    ) -> None:
        """Train and measure at origin ``k`` what has no result there yet, a Ray task each.

        Args:
            asked: numbers of trials with their values.
            k: the origin.
            seed: of the training is the configuration's plus this.
        """
        tasks = []
        for number, values in asked:
            if not read_json_or_nothing(self._file(number, k, seed)):
                model, train = applied(values, self.model, self.train)
                train = replace(train, seed=self.train.seed + seed)
                file = self._file(number, k, seed)
                tasks.append(FoldTask(self.home, model, train, k, self.budget, file))
        ray_map(_fold, tasks, "")
        self.home.look(self.folder)
        self.home.fetch(*(self._file(number, k, seed) for number, _ in asked))

    def ranks(self, number: int, k: int, seed: int = 0) -> NDArray[np.float64]:
        """Reciprocal rank of each measured request, [R]; NaN for those without a positive."""
        return np.array(read_json(self._file(number, k, seed))["ranks"], np.float64)

    def mrr(self, number: int, k: int) -> float:
        """Mean of ``ranks``."""
        return mean(self.ranks(number, k))

    def _file(self, number: int, k: int, seed: int) -> Path:
        return self.folder / f"{number}-{k}-{seed}.json"
