"""Trained models as rankers: InteractRank itself, or a neural baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays, collate
from interactrank.features.catalogue import Catalogue
from interactrank.model.config import ModelConfig
from interactrank.model.cost import cost
from interactrank.model.interactrank import InteractRank
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.home import Home
from prerank.registry.bundle import load_bundle, save_bundle
from prerank.training.fit import fit, total_steps
from prerank.training.reader import Reader, new_model

FINETUNE_PASSES, FINETUNE_LEARNING_RATE = 2, 1e-3


class TorchRanker:
    """A model in eval mode; cost as ``interactrank.model.cost.cost`` has it.

    Its weights must not change: items that were encoded for one call serve the next, as an index
    would. Ranking a whole catalogue chunk by chunk asks for the same ones again and again.
    """

    def __init__(self, name: str, model: InteractRank, catalogue: Catalogue) -> None:
        self.name, self.model, self.catalogue = name, model.eval(), catalogue
        self.table = catalogue.table()
        self.flops, self.bytes = cost(model)
        self._encoded = dict[str, torch.Tensor](), torch.zeros(0)

    @classmethod
    def load(cls, name: str, folder: Path) -> TorchRanker:
        """The model of a bundle folder."""
        bundle = load_bundle(folder)
        return cls(name, bundle.model, bundle.catalogue)

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Logit of the first head."""
        logits: NDArray[np.float32] = self._logits(arrays)[:, 0].numpy()
        return logits

    def probabilities(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Engagement probability by head [N, H]."""
        chances: NDArray[np.float32] = self._logits(arrays).sigmoid().numpy()
        return chances

    @torch.inference_mode()
    def _logits(self, arrays: RequestArrays) -> torch.Tensor:
        batch = collate(arrays, self.catalogue, self.table, len(self.model.schema.heads))
        items, encoded = self._encoded
        if not items or not all(
            np.array_equal(v, items[k], equal_nan=True) for k, v in batch.items.items()
        ):
            encoded = self.model.encode_items(batch.items)
            # Both at once: another thread may score other items.
            self._encoded = batch.items, encoded
        logits: torch.Tensor = self.model(batch, encoded).logits
        return logits


def finetune_on_validation(trainer: Trainer, reader: Reader) -> None:
    """Train a model without cross features on the validation requests too, in two short passes.

    They are the newest requests, and such a model has no counts to learn of them from. It is worth
    .03 MRR to the two-tower on Best Buy, and nothing to InteractRank (decision 13). The fusion and
    the optimiser and schedule of ``trainer`` stay as they were.
    """
    size = trainer.config.batch_requests
    steps = sum(-(-requests // size) for requests in reader.sizes("validation"))
    config = replace(
        trainer.config,
        learning_rate=FINETUNE_LEARNING_RATE,
        fusion_learning_rate=0.0,
        warmup_steps=1,
    )
    last = Trainer(trainer.model, config, FINETUNE_PASSES * steps, trainer.device)
    last.frequency.seen = trainer.frequency.seen.clone()
    last.frequency.batches = trainer.frequency.batches
    trainer.model.train()
    for n in range(FINETUNE_PASSES):
        for batch in reader.split("validation", size, config.seed + n, config.random_negatives):
            last.step(batch)
    trainer.model.eval()


def fit_neural(
    home: Home, name: str, folder: Path, model_config: ModelConfig, config: TrainConfig
) -> list[dict[str, Any]]:
    """Train a neural baseline: same reader, loop and budget as the model, no registry.

    Its reported validation metrics are from before ``finetune_on_validation``.

    Args:
        home: with a training set.
        name: the baseline's.
        folder: where the best epoch's bundle goes.
        model_config: its own model, of whatever architecture.
        config: how it is trained.

    Returns:
        The epochs' metrics.
    """
    reader = Reader(home)
    model = new_model(reader, model_config, config)
    trainer = Trainer(model, config, total_steps(home, config))
    history: list[dict[str, Any]] = []

    def after_epoch(metrics: dict[str, Any], improved: bool, state: dict[str, Any]) -> None:
        history.append(metrics)
        if improved:
            finetune_on_validation(trainer, reader)
            save_bundle(folder, model, reader.catalogue, {"name": name})

    fit(trainer, reader, reader.epochs(config), after_epoch)
    return history
