"""A linear model over the cross features alone: what the counts know without any tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import FeatureSchema
from interactrank.training.losses import listwise_loss
from prerank.core.home import Home
from prerank.evaluation.baselines.ranker import Parts
from prerank.evaluation.baselines.samples import (
    LOG_Q_POWERS,
    Read,
    expected_mrr,
    owners,
    stored,
)
from prerank.registry.bundle import read_meta, write_meta

REQUESTS = 6_000
"""Training requests seen at most: some forty weights need no more."""
L2 = (1e-3, 1e-5)
"""Ridge strengths tried, on standardised columns."""
WEIGHTS = "weights.safetensors"


def solve(
    train: RequestArrays,
    std: NDArray[np.float32],
    log_q_power: float,
    ridge: float,
    start: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Weights [X] of x / ``std`` that minimise the listwise loss, by L-BFGS.

    Centring is left out: a constant added to all candidates of a request changes no softmax.
    """
    x = torch.from_numpy(train.x / std)
    shift = torch.from_numpy(log_q_power * train.log_q)
    labels = torch.from_numpy((train.labels & 1).astype(np.float32))
    request = torch.from_numpy(owners(train))
    w = torch.zeros(x.shape[1]) if start is None else torch.from_numpy(start.copy())
    w.requires_grad_()
    solver = torch.optim.LBFGS(
        [w], max_iter=40, history_size=10, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        solver.zero_grad()
        loss = listwise_loss(x @ w - shift, labels, request, len(train))
        loss = loss + ridge * (w * w).sum()
        loss.backward()
        return loss

    solver.step(closure)
    weights: NDArray[np.float32] = w.detach().numpy()
    return weights


def fit(
    home: Home, schema: FeatureSchema, folder: Path, seed: int, read: Read = stored
) -> list[dict[str, Any]]:
    """Fit on stored examples, choose ridge and log Q's power on validation, save.

    Returns:
        One entry for each trial: ``l2``, ``log_q_power``, ``validation_mrr``.
    """
    train = read(home, schema, "train", REQUESTS, seed)
    validation = read(home, schema, "validation", REQUESTS, seed)
    std = train.x.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-9, std, 1.0).astype(np.float32)
    trials: list[dict[str, Any]] = []
    best, kept = -1.0, np.zeros(train.x.shape[1], np.float32)
    for power in LOG_Q_POWERS if train.log_q.any() else (0.0,):
        w: NDArray[np.float32] | None = None
        for ridge in L2:
            w = solve(train, std, power, ridge, w)
            mrr = expected_mrr(validation.x @ (w / std), validation)
            trials.append({"l2": ridge, "log_q_power": power, "validation_mrr": mrr})
            if mrr > best:
                best, kept = mrr, w / std
    save(folder, schema, kept)
    return trials


def save(folder: Path, schema: FeatureSchema, weights: NDArray[np.float32]) -> None:
    """Write what ``LinearRanker`` reads; ``weights`` float32 [X] of raw x."""
    write_meta(folder, schema, {"architecture": "linear"})
    save_file({"weights": weights}, folder / WEIGHTS)


class LinearRanker:
    """The fitted weights [X] applied to x."""

    def __init__(self, name: str, folder: Path) -> None:
        schema, _ = read_meta(folder)
        self.name, self.schema = name, schema
        self.weights = load_file(folder / WEIGHTS)["weights"]
        self.flops, self.bytes = 2.0 * len(schema.cross), 4.0 * len(schema.cross)

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Weighted sum of the cross features."""
        return arrays.x @ self.weights

    def parts(self, arrays: RequestArrays) -> Parts:
        """Weight times value; the base is 0."""
        products = arrays.x.astype(np.float64) * self.weights
        return Parts(self.schema.cross, arrays.x, products, 0.0)
