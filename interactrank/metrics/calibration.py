"""Reliability of predicted probabilities, tallied in constant memory.

Predictions fall into narrow cells of equal width in log-odds; a cell keeps three sums, so
histograms of parts of a data set add up to the histogram of the whole. Neighbouring cells are then
joined into bins of about equal mass, from which a reliability curve and the expected calibration
error are read. With one cell a distinct logit the error equals
``interactrank.metrics.ranking.expected_calibration_error``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.metrics.ranking import MetricError

LIMIT, CELLS = 16.0, 1600
"""Log-odds are told apart from -16 to 16, in steps of 0.02."""


def histogram(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Sums of a set of predictions: float64 [CELLS, 3], count, predicted mass, engagements.

    Args:
        probabilities: [N], in [0, 1].
        labels: bool [N].

    Raises:
        MetricError: a probability is NaN or outside [0, 1].
    """
    p = np.asarray(probabilities, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise MetricError("probabilities must lie in [0, 1], without NaN")
    with np.errstate(divide="ignore"):
        odds = np.clip(np.log(p) - np.log1p(-p), -LIMIT, LIMIT)
    cell = np.minimum((odds + LIMIT) * (CELLS / (2 * LIMIT)), CELLS - 1).astype(np.int64)
    columns = (None, p, labels.astype(np.float64))
    return np.stack([np.bincount(cell, w, minlength=CELLS) for w in columns], axis=1)


def curve(tallied: NDArray[np.float64], bins: int = 15) -> NDArray[np.float64]:
    """Join cells into at most ``bins`` bins: float64 [bins, 3], count, mean predicted, observed."""
    count = tallied[:, 0]
    if not count.sum():
        return np.zeros((0, 3))
    before = np.cumsum(count) - count
    # A cell belongs where its first prediction does; equal predictions share a bin.
    at = np.minimum((before * bins / count.sum()).astype(np.int64), bins - 1)
    joined = np.zeros((bins, 3))
    np.add.at(joined, at, tallied)
    joined = joined[joined[:, 0] > 0]
    joined[:, 1:] /= joined[:, :1]
    return joined


def calibration_error(tallied: NDArray[np.float64], bins: int = 15) -> float:
    """Expected calibration error: mean distance of predicted and observed rate over the bins."""
    found = curve(tallied, bins)
    if not len(found):
        return float("nan")
    return float(np.average(np.abs(found[:, 1] - found[:, 2]), weights=found[:, 0]))
