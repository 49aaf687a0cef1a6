"""What boosted trees found, read from their splits and from what they predict.

A node's gain goes to its column. Where other columns were asked above it, the gain goes to these
pairs too, in equal parts: a tree that asks one column under another may have found that the two
belong together, or may only have had a leaf left. ``strength`` tells the two apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE, SHORTLIST = 100, 20


@dataclass(frozen=True)
class Pair:
    """Two columns, by position: their share of all gain, and how strongly they interact.

    ``strength`` is the standard deviation of what the two say together beyond what each says, as a
    share of that of the scores: an H-statistic (Friedman and Popescu 2008) whose denominator does
    not vanish with the pair.
    """

    columns: tuple[int, int]
    gain: float
    strength: float


def _splits(booster: Any) -> Iterator[tuple[int, float, frozenset[int]]]:
    """Column and gain of each inner node, and the other columns that are asked above it."""
    for tree in booster.dump_model()["tree_info"]:
        waiting = [(tree["tree_structure"], frozenset[int]())]
        while waiting:
            node, above = waiting.pop()
            if "split_feature" in node:
                column = int(node["split_feature"])
                yield column, float(node["split_gain"]), above - {column}
                below = above | {column}
                waiting += [(node["left_child"], below), (node["right_child"], below)]


def gains(booster: Any) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    """Shares of all gain, by column and by pair of columns; greatest first."""
    columns: dict[int, float] = defaultdict(float)
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    for column, gain, others in _splits(booster):
        columns[column] += gain
        for other in others:
            pairs[min(column, other), max(column, other)] += gain / len(others)
    total = sum(columns.values()) or 1.0

    def shares(of: dict[Any, float]) -> dict[Any, float]:
        return {key: of[key] / total for key in sorted(of, key=lambda k: -of[k])}

    return shares(columns), shares(pairs)


def strongest(booster: Any, rows: NDArray[np.float32], seed: int) -> list[Pair]:
    """The SHORTLIST pairs of most gain, strongest first.

    Args:
        booster: fitted trees.
        rows: float32 [N, F], of which SAMPLE are drawn; partial dependence is the mean over them.
        seed: of the sample.
    """
    rng = np.random.default_rng(seed)
    drawn = rows[np.sort(rng.choice(len(rows), min(SAMPLE, len(rows)), replace=False))]
    spread = float(booster.predict(drawn, num_threads=1).std()) or 1.0
    alone: dict[int, NDArray[np.float64]] = {}

    def dependence(*columns: int) -> NDArray[np.float64]:
        """Mean prediction with ``columns`` as in each drawn row, all else as in all, centred."""
        many = np.tile(drawn, (len(drawn), 1))
        for column in columns:
            many[:, column] = np.repeat(drawn[:, column], len(drawn))
        predicted = booster.predict(many, num_threads=1).reshape(len(drawn), -1).mean(1)
        centred: NDArray[np.float64] = predicted - predicted.mean()
        return centred

    found = []
    for pair, gain in list(gains(booster)[1].items())[:SHORTLIST]:
        for column in pair:
            if column not in alone:
                alone[column] = dependence(column)
        together = dependence(*pair) - alone[pair[0]] - alone[pair[1]]
        found.append(Pair(pair, gain, float(together.std()) / spread))
    return sorted(found, key=lambda p: -p.strength)
