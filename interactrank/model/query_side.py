"""What a request alone decides of its scores: the query tower, and the fusion's gate.

A request has one query, so the tower's some sixty small operations cost more to call than to do.
``recorded`` calls them without Python.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from interactrank.features.batch import Requests
from interactrank.features.schema import REQUEST_NUMERIC
from interactrank.features.top_items import TOP_ITEMS_LENGTH
from interactrank.model.fusion import Coefficients
from interactrank.model.interactrank import InteractRank

FIELDS = [field.name for field in fields(Requests)]
WARM_UP = 3
"""Calls in which TorchScript still optimises the graph."""


@dataclass(frozen=True)
class QuerySide:
    """What the request alone decides of a score.

    ``query`` float32 [D]: its heads' vectors, fused by the head weights. ``request`` float32 [R]:
    its statistics, which make the fusion's ``coefficients``; ``cross`` is the factor of g(x).
    """

    query: Tensor
    request: NDArray[np.float32]
    coefficients: Coefficients
    scale: float
    cross: float
    constant: float


class QueryHalf(nn.Module):
    """The half of a model that reads requests: their vectors [B, H, D], and coefficients.

    Takes the tensors of ``Requests`` and returns those of ``Coefficients`` after the vectors, since
    what is recorded knows tensors alone.

    Examples:
        >>> from interactrank.features.batch import Requests
        >>> from interactrank.model.config import ModelConfig
        >>> from interactrank.model.example import example
        >>> from interactrank.model.interactrank import InteractRank
        >>> schema, catalogue, batch = example()
        >>> half = QueryHalf(InteractRank(ModelConfig(), schema, catalogue))
        >>> vectors, *coefficients = half(*(getattr(batch, name) for name in FIELDS))
        >>> vectors.shape  # two requests, one head
        torch.Size([2, 1, 64])
    """

    def __init__(self, model: InteractRank) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the fields of ``Requests``."""
        requests = Requests(**dict(zip(FIELDS, tensors, strict=True)))
        queries_BHD = self.model.encode_queries(requests)
        return queries_BHD, *vars(self.model.fusion.coefficients(requests.request)).values()


def recorded(model: InteractRank) -> Callable[..., tuple[Tensor, ...]]:
    """``QueryHalf`` of a model in eval mode, for one request at a time, as a TorchScript graph.

    The same operations, so the same numbers. The parameters are shared with ``model``, not copied.
    """
    half = QueryHalf(model).eval()
    example = _example(len(model.schema.segments))
    with warnings.catch_warnings(), torch.inference_mode():
        # torch.export runs its graph from Python, and torch.compile needs a C++ compiler.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        # The widths are the model's, and there is one request: both are rightly constants.
        warnings.filterwarnings("ignore", category=TracerWarning)
        graph = torch.jit.freeze(torch.jit.trace(half, example, check_trace=False))
        for _ in range(WARM_UP):
            graph(*example)
    found: Callable[..., tuple[Tensor, ...]] = graph
    return found


def _example(segments: int) -> tuple[Tensor, ...]:
    """A request of two words and two events."""
    two = torch.zeros(1, 2, dtype=torch.int64)
    example = Requests(
        query=torch.zeros(1, dtype=torch.int64),
        text=torch.zeros(2, dtype=torch.int64),
        text_offsets=torch.zeros(1, dtype=torch.int64),
        hist_items=two,
        hist_actions=two,
        hist_hours=two.float(),
        hist_mask=two == 0,
        top_items=torch.zeros(1, TOP_ITEMS_LENGTH, dtype=torch.int64),
        top_items_share=torch.zeros(1, TOP_ITEMS_LENGTH),
        request=torch.zeros(1, len(REQUEST_NUMERIC)),
        segments=torch.zeros(1, segments, dtype=torch.int64),
    )
    return tuple(vars(example).values())
