"""Team-draft interleaving: one ranking of two, in which each item belongs to the one that chose it.

F. Radlinski, M. Kurup, T. Joachims: How does clickthrough data reflect retrieval quality?
(CIKM 2008). In each round both rankings, in an order left to chance, choose their best item that is
not chosen yet. An engagement is then a point for the item's team, and since both teams stand as
high as each other on average, more points are a better ranking.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def team_draft(
    first: Sequence[int], second: Sequence[int], k: int, seed: int
) -> list[tuple[int, int]]:
    """Draft the best ``k`` of two rankings.

    Args:
        first: distinct ids, the best one first; one team's ranking. second: the other's.
        k: items to draft; fewer are where the rankings hold fewer.
        seed: of who begins each round.

    Returns:
        Of each item, its team (0 for ``first``, 1 for ``second``) and its place in that ranking.
    """
    rankings = enumerate(first), enumerate(second)
    taken: set[int] = set()
    drafted: list[tuple[int, int]] = []
    for begins in np.random.default_rng(seed).integers(0, 2, k).tolist():
        for team in (begins, 1 - begins):
            if len(drafted) == k:
                return drafted
            found = next(((at, item) for at, item in rankings[team] if item not in taken), None)
            if found is not None:
                taken.add(found[1])
                drafted.append((team, found[0]))
    return drafted
