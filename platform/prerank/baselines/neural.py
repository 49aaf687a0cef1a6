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

    @torch.inference_mode()
    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Logit of the first head."""
        heads = len(self.bundle.schema.heads)
        output = self.bundle.model(collate(arrays, self.bundle.catalogue, self.table, heads))
        logits: NDArray[np.float32] = output.logits[:, 0].numpy()
        return logits

    @torch.inference_mode()
    def probabilities(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Engagement probability by head [N, H]."""
        heads = len(self.bundle.schema.heads)
        output = self.bundle.model(collate(arrays, self.bundle.catalogue, self.table, heads))
        chances: NDArray[np.float32] = output.logits.sigmoid().numpy()
        return chances
