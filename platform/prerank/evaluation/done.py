"""What a task of an evaluation hands back, beside its requests' metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Histograms = dict[tuple[str, str], NDArray[np.float64]]
"""(ranker, head) -> float64 [CELLS, 3] of ``interactrank.metrics.calibration.histogram``."""


@dataclass(frozen=True)
class RankerCost:
    """Seconds that a ranker took for a task's candidates; its operations and bytes for one."""

    seconds: float
    flops: float
    bytes: float


@dataclass(frozen=True)
class Done:
    """What one task measured, beside its requests' metrics; ``costs`` by ranker."""

    requests: int
    candidates: int
    costs: Mapping[str, RankerCost]
    histograms: Histograms
