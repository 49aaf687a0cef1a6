"""Trained bundles as rankers: InteractRank itself, or a neural rival."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from interactrank.batch import RequestArrays, collate
from prerank.bundle import load_bundle


class TorchRanker:
    """A bundle folder's model; cost as :meth:`interactrank.model.InteractRank.cost` has it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.bundle = name, load_bundle(folder)
        self.table = self.bundle.catalogue.table()
        self.flops, self.bytes = self.bundle.model.cost()

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
        heads = len(self.bundle.schema.heads)
        batch = collate(arrays, self.bundle.catalogue, self.table, heads)
        logits: torch.Tensor = self.bundle.model(batch).logits
        return logits
