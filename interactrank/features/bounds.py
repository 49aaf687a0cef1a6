"""Bounds of the parts of an array, which kernels trust."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.kernels import kernel


@kernel
def _are_bounds(offsets: NDArray[np.int64], end: int) -> bool:
    for i in range(1, offsets.size):
        if offsets[i] < offsets[i - 1]:
            return False
    return offsets[0] == 0 and offsets[-1] == end


def check_bounds(name: str, offsets: NDArray[np.int64], count: int, end: int) -> None:
    """Refuse ``offsets`` that are not the bounds of ``count`` parts of ``end`` entries.

    Raises:
        ValueError: naming them.
    """
    if len(offsets) != count + 1 or not _are_bounds(offsets, end):
        raise ValueError(f"{name} must be {count + 1} bounds from 0 to {end} that never fall")
