"""What a candidate costs after the towers: FLOPs and bytes read.

A multiply-add is two FLOPs, as in torch's own counter. Element-wise steps are not counted, nor
what folds into constants of the request. Item vectors are bf16, cross features float32.
"""

from __future__ import annotations

from torch import nn

from interactrank.model.interactrank import InteractRank
from interactrank.model.inttower import IntTower


def cost(model: InteractRank) -> tuple[float, float]:
    """FLOPs and bytes read per candidate.

    64 dimensions and 7 cross features under a linear g make the 142 FLOPs quoted for the paper's
    model: 2 (64 + 7).
    """
    return _early_interaction(model) if isinstance(model, IntTower) else _dot_and_fusion(model)


def flops_of_g(crosses: int, hidden: int) -> float:
    """FLOPs per candidate of g(x) over ``crosses`` columns, with ``hidden`` units."""
    return 2.0 * (crosses + (crosses * hidden + hidden if crosses else 0))


def _dot_and_fusion(model: InteractRank) -> tuple[float, float]:
    crosses, width = model.fusion.crosses, model.config.width
    flops = 2.0 * width + flops_of_g(crosses, model.config.fusion_hidden)
    return flops, 2.0 * width + 4.0 * crosses


def _early_interaction(model: IntTower) -> tuple[float, float]:
    heads, width = model.config.interaction_heads, model.config.interaction_width
    layers = len(model.query_views)
    linear = [m for m in model.mlp if isinstance(m, nn.Linear)]
    mlp = sum(m.in_features * m.out_features for m in linear[:-1])
    # One head ranks: the last layer's outputs fuse with the request's weights beforehand.
    mlp += linear[-1].in_features
    return 2.0 * (layers * heads * heads * width + mlp), 2.0 * heads * width
