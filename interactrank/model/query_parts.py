"""A request's scores in parts that an engine with the item vectors can put together by itself.

    score(item) = <vector, p_item> + cross(item) + constant

cross(item) is listed for every item that the request's rows or history name, or that is near to it;
of all others it depends on their age alone, through t = log(1 + age in days). g is linear but for
its rectified hidden units, so it is linear in t between a few points (``AgeCurve``), and nothing is
lost.

Cosines and what a caller gives are the exceptions: of items that are not listed, an engine knows
neither, and they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from interactrank.features.engagement import FRESH_DAYS, own_columns
from interactrank.features.inputs import FeatureInputs
from interactrank.features.reached import Reached
from interactrank.model.cross_part import base_of, cross_scores_of
from interactrank.model.scorer import Scorer
from interactrank.model.sweep import Base

OLDEST_DAYS = 1e6
AGE, UNKNOWN, FRESH = 1, 2, 3
"""Rows of ``Affine`` after the base's."""


@dataclass(frozen=True)
class AgeCurve:
    """g of items that stand nowhere, by age.

    ``unknown``: of an item whose age is not known, or that is yet to be created. ``fresh`` and
    ``old`` float64 [points, 2]: t and g, ascending in t; between two points g is linear. ``fresh``
    is of items younger than ``fresh_days``.
    """

    unknown: float
    fresh: NDArray[np.float64]
    old: NDArray[np.float64]
    fresh_days: float = FRESH_DAYS

    def __call__(self, days: float | None) -> float:
        """G of an item of that age; None where it is not known."""
        if days is None:
            return self.unknown
        points = self.fresh if days < self.fresh_days else self.old
        return float(np.interp(np.log1p(days), points[:, 0], points[:, 1]))


@dataclass(frozen=True)
class QueryParts:
    """What a score is put together from; see the module.

    ``vector`` float32 [D]; ``items`` int64 [n], of the index, and their ``weights`` float32 [n].
    ``left_out``: cross features that have no part in ``others``.
    """

    vector: NDArray[np.float32]
    items: NDArray[np.int64]
    weights: NDArray[np.float32]
    others: AgeCurve
    constant: float
    left_out: tuple[str, ...] = ()


@torch.inference_mode()
def query_parts(
    scorer: Scorer, query: str, inputs: FeatureInputs, head_weights: NDArray[np.float32]
) -> QueryParts:
    """The parts of one request's scores, without what a caller gives of candidates.

    Args:
        scorer: of the model version that is served.
        query, inputs, head_weights: as in ``Scorer.score``.
    """
    side = scorer.query_side(query, inputs, head_weights)
    somewhere = Reached(scorer.schema, inputs)
    items = somewhere.items()
    listed = scorer.find(inputs, items[scorer.table.rows(items) >= 0], None)
    # The rows are gone over once, for the items that they name and for one that they do not.
    x = listed.x(np.arange(len(listed.ids)), somewhere.nobody())
    base = base_of(scorer.model, side, x[0])
    weights = cross_scores_of(scorer.model, side, x[1:])
    vector: NDArray[np.float32] = (side.scale * side.query).numpy()
    left_out: tuple[str, ...] = ()
    if scorer.model.fusion.crosses:
        left_out = tuple(scorer.schema.cross[c] for c in own_columns(scorer.schema)[0][3:])
    return QueryParts(vector, listed.ids, weights, _curve(base), side.constant, left_out)


def _curve(base: Base) -> AgeCurve:
    affine, fresh_value = base.affine, base.fresh_value
    if affine.linear.size == 1:  # no cross features: nothing depends on the age
        flat = np.array([[0.0, affine.linear[0]]], np.float64)
        return AgeCurve(float(affine.linear[0]), flat, flat)
    linear, units = affine.linear.astype(np.float64), affine.units.astype(np.float64)
    known, slope = (linear[0] - linear[UNKNOWN], units[0] - units[UNKNOWN]), units[AGE]
    fresh = known[0] + fresh_value * linear[FRESH], known[1] + fresh_value * units[FRESH]

    def points(base: float, pre: NDArray[np.float64], until: float) -> NDArray[np.float64]:
        # A hidden unit begins or ends where what it rectifies is zero.
        with np.errstate(divide="ignore", invalid="ignore"):
            bends = -pre / slope
        bends = bends[np.isfinite(bends) & (bends > 0) & (bends < until)]
        t = np.concatenate(([0.0], np.sort(bends), [until]))
        g = base + linear[AGE] * t
        g += np.maximum(pre + t[:, None] * slope, 0.0) @ affine.unit_weight.astype(np.float64)
        return np.column_stack((t, g))

    unknown = linear[0] + np.maximum(units[0], 0.0) @ affine.unit_weight.astype(np.float64)
    return AgeCurve(
        float(unknown),
        points(*fresh, float(np.log1p(FRESH_DAYS))),
        points(*known, float(np.log1p(OLDEST_DAYS))),
    )
