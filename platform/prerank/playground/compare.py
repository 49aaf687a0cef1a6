"""The rankings of several rankers side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.playground.catalogue import Items
from prerank.playground.ranking import Ranked

COMPARED = 10
"""Of the best so many it is said how many two rankers share."""


def column(
    ranked: Ranked, first: Ranked, rows: int, engaged: NDArray[np.int64], items: Items
) -> dict[str, Any]:
    """The best ``rows`` of a ranking, and how far each moved from its place in the ``first`` one.

    Args:
        ranked: the ranking.
        first: that it is compared with, which may be itself.
        rows: that are shown.
        engaged: keys int64 [m] that the log says were engaged with in this search.
        items: that have titles.
    """
    keys = ranked.keys[:rows]
    shown = items.shown(keys)
    places = dict(zip(first.keys.tolist(), range(len(first.keys)), strict=True))
    for place, (key, item) in enumerate(zip(keys.tolist(), shown, strict=True)):
        before = places.get(key)
        item |= {
            "place": place + 1,
            "score": float(ranked.scores[place]),
            "moved": None if ranked is first or before is None else before - place,
            "engaged": bool((engaged == key).any()),
        }
    best = min(COMPARED, len(first.keys))
    shared = len(set(first.keys[:best].tolist()) & set(ranked.keys[:best].tolist()))
    return {
        "items": shown,
        "version": ranked.version,
        "unknown": ranked.unknown,
        "degraded": list(ranked.degraded),
        "snapshot_cutoff": ranked.snapshot_cutoff,
        "shared": None if ranked is first else {"of": best, "shared": shared},
    }
