"""How far the values of a feature have moved: coverage, and the population stability index.

PSI = sum over bins of (p - q) ln(p / q), p the share of the training values in a bin, q that of the
later ones (Siddiqi 2006; a symmetric Kullback-Leibler divergence). By custom below .1 is no change
and above .25 a large one. Most counts are 0, so 0 is a bin of its own, missing values are another,
and the bins of the rest are the deciles of the training values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DECILES = np.linspace(0.1, 0.9, 9)
LEAST_SHARE = 1e-4
"""Of a bin: an empty one would make the index infinite."""


@dataclass(frozen=True)
class Drift:
    """A feature in the training data and later.

    Attributes:
        name: of the feature.
        psi: population stability index of its values.
        coverage, coverage_later: share of values that are there and not 0.
        mean, mean_later: of the values that are there; 0 where none is.
    """

    name: str
    psi: float
    coverage: float
    coverage_later: float
    mean: float
    mean_later: float


def psi(train: NDArray[np.floating], later: NDArray[np.floating]) -> float:
    """Population stability index of float [n] against float [m]; 0 where either is empty."""
    if not len(train) or not len(later):
        return 0.0
    there = train[np.isfinite(train) & (train != 0)]
    edges = np.unique(np.quantile(there, DECILES)) if len(there) else np.zeros(0)
    p, q = (_shares(values, edges) for values in (train, later))
    return float(((p - q) * np.log(p / q)).sum())


def _shares(values: NDArray[np.floating], edges: NDArray[np.floating]) -> NDArray[np.float64]:
    # 0: missing, 1: zero, from 2 on by the edges.
    bins = 2 + np.searchsorted(edges, values, side="right")
    bins = np.where(np.isfinite(values), np.where(values == 0, 1, bins), 0)
    counts = np.bincount(bins, minlength=len(edges) + 3)
    return np.maximum(counts / len(values), LEAST_SHARE)


def drift(
    names: Sequence[str], train: NDArray[np.floating], later: NDArray[np.floating]
) -> list[Drift]:
    """Drift of the columns ``names`` of float [n, F] against float [m, F], the largest first."""
    found = []
    for at, name in enumerate(names):
        old, new = train[:, at].astype(np.float64), later[:, at].astype(np.float64)
        ours = (_coverage(old), _coverage(new), _mean(old), _mean(new))
        found.append(Drift(name, psi(old, new), *ours))
    return sorted(found, key=lambda d: -d.psi)


def _coverage(values: NDArray[np.float64]) -> float:
    return float((np.isfinite(values) & (values != 0)).mean()) if len(values) else 0.0


def _mean(values: NDArray[np.float64]) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else 0.0
