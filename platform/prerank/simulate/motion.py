"""How a world moves over days: what is asked for, which items are in fashion, which ones fade.

Everything here is a function of the time alone, drawn with the world, so it costs no memory as the
log grows and the log oracle may know it: an endless log of each day would tell it.

Shape letters: N requests of a batch, I items of a request, K topics, P items, D days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.presets import DAY, LOG_START, Motion

WEEK = (0.95, 0.93, 0.94, 0.97, 1.00, 1.15, 1.06)  # requests of Monday to Sunday
FIRST_WEEKDAY = 2  # the log starts on a Wednesday


@dataclass(frozen=True)
class Movement:
    """demand float64 [D + 1, K], by how much each topic is asked for beyond its share; period
    (days) and phase (turns) float64 [P] of the items' ups and downs.
    """

    motion: Motion
    demand: NDArray[np.float64]
    period: NDArray[np.float64]
    phase: NDArray[np.float64]

    def wanted(self, theta: NDArray[np.float64], time: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interests [N, K] as they show in searches at times [N] seconds; rows sum to 1."""
        last = len(self.demand) - 1
        tilted = theta * self.demand[np.minimum(_days(time).astype(np.int64), last)]
        return np.asarray(tilted / tilted.sum(axis=1, keepdims=True))

    def wave(self, items: NDArray[np.int64], time: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logit float64 [N, I] that fashion adds to items [N, I] at times [N] seconds."""
        turns = _days(time)[:, None] / self.period[items] + self.phase[items]
        return np.asarray(self.motion.wave * np.sin(2 * np.pi * turns))

    def turned(
        self, first: NDArray[np.float64], second: NDArray[np.float64], time: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Blend of two standard normals [N, I], itself one at any time [N] seconds.

        The correlation of two times is the cosine of their distance in turns.
        """
        turn = (2 * np.pi / self.motion.appeal_days) * _days(time)[:, None]
        return np.asarray(np.cos(turn) * first + np.sin(turn) * second)

    def kept(self, age: NDArray[np.float64]) -> NDArray[np.float64]:
        """Chance that an item of this age (seconds) is still retrieved where it matches."""
        return np.exp2(-np.maximum(age, 0.0) / (self.motion.fade_half_life * DAY))


def _days(time: NDArray[np.float64]) -> NDArray[np.float64]:
    return (time - LOG_START) / DAY


def busy_days(days: int) -> NDArray[np.float64]:
    """Requests of each day of the log as a multiple of the mean weekday's, float64 [D]."""
    return np.array(WEEK)[(FIRST_WEEKDAY + np.arange(days)) % 7]


def draw_movement(
    motion: Motion, days: int, topics: int, items: int, rng: np.random.Generator
) -> Movement:
    """Topic trends that wander and return (an autoregression by days), weekdays and waves."""
    stay = np.exp(-1.0 / motion.demand_days)
    trend = np.empty((days + 1, topics))
    trend[0] = rng.normal(size=topics)
    for day in range(1, days + 1):
        trend[day] = stay * trend[day - 1] + np.sqrt(1 - stay**2) * rng.normal(size=topics)
    weekday = rng.normal(size=(7, topics))[(FIRST_WEEKDAY + np.arange(days + 1)) % 7]
    return Movement(
        motion,
        np.exp(motion.demand * trend + motion.weekly * weekday),
        rng.uniform(*motion.wave_days, size=items),
        rng.random(items),
    )
