"""The part of a score that cross features give, g, as a function of x for one request."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from interactrank.features.engagement import own_columns
from interactrank.model.interactrank import InteractRank
from interactrank.model.query_side import QuerySide
from interactrank.model.sweep import Affine, Base, add_up_rows

_NONE = np.zeros(0, np.float32)
NO_CROSS = Base(Affine(np.zeros(1, np.float32), np.zeros((1, 0), np.float32), _NONE), 0.0, _NONE)
"""Of a model without cross features."""


@torch.inference_mode()
def base_of(model: InteractRank, side: QuerySide, x: NDArray[np.float32]) -> Base:
    """What all items share that stand nowhere in the request, of which ``x`` [X] is one."""
    if not model.fusion.crosses:
        return NO_CROSS
    own, fresh_column = own_columns(model.schema)
    return Base(_affine(model, side, x, own), float(x[fresh_column]), x[own[3:]])


@torch.inference_mode()
def cross_scores_of(
    model: InteractRank, side: QuerySide, x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """G [n] of cross features [n, X], as it enters the score."""
    found = np.zeros(len(x), np.float32)
    if model.fusion.crosses:
        columns = np.arange(x.shape[1])
        affine = _affine(model, side, np.zeros_like(x, shape=len(columns)), columns)
        add_up_rows(affine._replace(units=np.ascontiguousarray(affine.units)), x, found)
    return found


# A model whose weights are no numbers gives scores that are none: they are counted, not warned of.
@np.errstate(invalid="ignore", over="ignore")
def _affine(
    model: InteractRank, side: QuerySide, base: NDArray[np.float32], own: NDArray[np.int64]
) -> Affine:
    """g, with its factor, as a function of the columns ``own`` less those of ``base`` [X]."""
    c = side.coefficients
    mix, weights = c.mix[0].numpy(), c.weights[0].numpy()
    linear = np.concatenate(([weights @ base + mix @ c.offset.numpy()], weights[own]))
    units, unit_weight = np.zeros((len(own) + 1, 0), np.float32), base[:0]
    if len(c.units):
        of_columns = c.units.numpy()
        pre = of_columns @ base + c.shift[0].numpy()
        units = np.concatenate((pre[None], of_columns[:, own].T))
        unit_weight = np.float32(side.cross) * model.fusion.unit_weight.detach().numpy()
    return Affine(np.float32(side.cross) * linear, units, unit_weight)
