"""The contract of everything that is measured beside InteractRank."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays


class Ranker(Protocol):
    """Scores candidates. ``flops`` and ``bytes`` are per candidate, after per-request work.

    A ranker whose scores are estimates of engagement may also have ``probabilities(arrays,
    queries)``, [N, H] in [0, 1]; its calibration is then reported.
    """

    name: str
    flops: float
    bytes: float

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Scores [N] of the N candidates of B requests; higher is better."""
        ...
