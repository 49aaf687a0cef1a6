"""The contract of everything that is measured beside InteractRank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


@dataclass(frozen=True)
class Parts:
    """What each of F features adds to the scores of N candidates.

    A score is ``base`` plus the sum of its row of ``parts``.

    Attributes:
        names: of the features; those of x as ``FeatureSchema.cross`` has them.
        values, parts: [N, F].
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    parts: NDArray[np.float64]
    base: float


@runtime_checkable
class Explained(Ranker, Protocol):
    """A ranker whose scores are sums over features."""

    def parts(self, arrays: RequestArrays) -> Parts:
        """What ``score`` is made of."""
        ...
