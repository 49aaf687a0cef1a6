"""InteractRank whose id table begins at item vectors: the third part of ``embed.py``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from interactrank.features.catalogue import Catalogue
from interactrank.features.item_vectors import ItemVectors
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.training.trainer import TrainConfig
from prerank.core.home import Home
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.budget import Budget
from prerank.evaluation.trials import Trial, fitted, measured

RANDOM = "at random"


def begin_at(model: InteractRank, catalogue: Catalogue, vectors: ItemVectors) -> None:
    """Set the ids of items that have a vector to its principal components, as long on average as
    the random ones were.
    """
    own = vectors.of(catalogue.ids)
    (rows,) = np.nonzero(own.any(1))
    centred = own[rows] - own[rows].mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    components = centred @ directions[: model.ids.embedding_dim].T
    made = torch.from_numpy(components / components.std())
    with torch.no_grad():
        ids = model.ids.weight
        ids[torch.from_numpy(rows + 1), : made.shape[1]] = ids.std() * made


def id_tables(
    home: Home, starts: Mapping[str, ItemVectors], seeds: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Metrics of each start and of the random one, by request: means over seeds."""
    budget, found = Budget(), {}
    for name in (RANDOM, *starts):
        of_seeds = []
        for seed in range(seeds):
            begin = partial(begin_at, vectors=starts[name]) if name in starts else None
            trial = Trial(name, ModelConfig(), TrainConfig(seed=seed))
            trainer, reader, _ = fitted(home, trial, budget, begin)
            ranker = TorchRanker(name, trainer.model, reader.catalogue)
            of_seeds.append(measured(home, [ranker], reader, budget)[name])
            print(name, seed, {m: f"{np.nanmean(v):.4f}" for m, v in of_seeds[-1].items()})
        found[name] = {m: np.mean([s[m] for s in of_seeds], axis=0) for m in of_seeds[0]}
    return found
