"""In-batch softmax of each positive against the distinct items of the batch (paper, aux. loss).

    loss = mean over positives i of    log(exp s(r_i, p_i) + sum_{u not in E(r_i)} exp s(r_i, u))
                                       - s(r_i, p_i)
    s(r, u) = <scaled query r, item u> - log Q(u)
    E(r): the items that requests of r's query engaged, p_i among them

The sum is one of the request, whichever of its positives is looked at. It is therefore taken once a
request, over chunks of requests whose logits stay in the processor's cache, and the gradient is
taken along with it: what is left of the work is three matrix products. Written as operations of
autograd it took three times as long, most of it to move logits to memory and back.

Shapes: A requests that have a positive, P positives, U distinct items, D width, E pairs (request,
item) that are no negatives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from interactrank.features.batch import Batch
from interactrank.model.interactrank import Output

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits at a time: a megabyte, which a core's cache holds; on a card as few chunks as fit."""


class Places(NamedTuple):
    """Cells of the logits [A, U]: int64 ``row``, ascending, and ``item``."""

    row: Tensor
    item: Tensor

    def within(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Those of rows low to high - 1, whose number is then counted from ``low``."""
        first, last = torch.searchsorted(self.row, torch.tensor((low, high)).to(self.row)).tolist()
        return self.row[first:last] - low, self.item[first:last]


def sampled_softmax_loss(output: Output, batch: Batch, log_q: Tensor, head: int) -> Tensor:
    """The loss of one head [].

    Only the dot enters, times the requests' scale (no cross feature is needed for a negative).
    ``log_q`` [U] is the log probability that the item stands in a batch; it is taken off positive
    and negative logits alike. No negative is the positive's own item, as it may stand in the batch
    twice (its text known and not yet known), nor what requests of the same query engaged.
    """
    positive = batch.labels[:, head] > 0
    request, item = batch.candidate_request[positive], batch.candidate_item[positive]
    if not request.numel():
        return output.queries.sum() * 0.0
    order = request.argsort()
    request, item = request[order], item[order]
    asking, row = request.unique_consecutive(return_inverse=True)
    scaled_AD = output.scale[asking].unsqueeze(1) * output.queries[asking, head]
    positives, engaged = Places(row, item), _engaged(batch, asking, request, item)
    given = (scaled_AD, output.items, log_q, positives, engaged)
    loss: Tensor = _Softmax.apply(*given)  # type: ignore[no-untyped-call]
    return loss


def _engaged(batch: Batch, asking: Tensor, request: Tensor, item: Tensor) -> Places:
    """What requests of the same query engaged, for each of the requests ``asking`` [A].

    Args:
        batch: the batch.
        asking: requests [A].
        request, item: of each positive [P].
    """
    rows_U, by_row = batch.items["rows"].sort()
    own_P = batch.items["rows"][item]
    first_P = torch.searchsorted(rows_U, own_P)
    times_P = torch.searchsorted(rows_U, own_P, right=True) - first_P
    same_query = batch.query[asking].unsqueeze(1) == batch.query[request]
    row, positive = same_query.nonzero(as_tuple=True)
    # Each as often as the item stands in the batch, one after another from ``first``.
    times = times_P[positive]
    ends = times.cumsum(0)
    back = (ends - first_P[positive] - times).repeat_interleave(times)
    return Places(row.repeat_interleave(times), by_row[torch.arange(len(back)).to(back) - back])


class _Softmax(torch.autograd.Function):
    """Scaled queries [A, D], items [U, D] -> the loss []."""

    @staticmethod
    def forward(
        ctx: Any,
        queries_AD: Tensor,
        items_UD: Tensor,
        log_q_U: Tensor,
        positives: Places,
        engaged: Places,
    ) -> Tensor:
        of_queries_AD, of_items_UD = torch.empty_like(queries_AD), torch.zeros_like(items_UD)
        loss, limits = queries_AD.new_zeros(()), torch.finfo(queries_AD.dtype)
        chunk = max(CHUNK[queries_AD.device.type] // len(items_UD), 1)
        for low in range(0, len(queries_AD), chunk):
            chunk_CD = queries_AD[low : low + chunk]
            row, item = positives.within(low, low + chunk)
            s_CU = torch.addmm(-log_q_U, chunk_CD, items_UD.T)
            own = s_CU[row, item]
            s_CU[engaged.within(low, low + chunk)] = float("-inf")
            # Clamped, as a request may have no negative at all: its sum is then 0.
            top_C1 = s_CU.amax(1, keepdim=True).clamp(min=limits.min)
            sum_C1 = s_CU.sub_(top_C1).exp_().sum(1, keepdim=True)
            gap = (top_C1 + sum_C1.log()).squeeze(1)[row] - own
            loss += F.softplus(gap).sum()
            # From here on s is the gradient of the logits.
            of_gap = gap.sigmoid()
            of_sum_C = s_CU.new_zeros(len(s_CU)).index_add_(0, row, of_gap)
            s_CU.mul_(of_sum_C.unsqueeze(1) / sum_C1.clamp(min=limits.tiny))
            s_CU.index_put_((row, item), -of_gap, accumulate=True)
            torch.mm(s_CU, items_UD, out=of_queries_AD[low : low + chunk])
            of_items_UD.addmm_(s_CU.T, chunk_CD)
        ctx.save_for_backward(of_queries_AD, of_items_UD)
        ctx.positives = len(positives.row)
        return loss / ctx.positives

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        of_queries_AD, of_items_UD = ctx.saved_tensors
        share = of_loss / ctx.positives
        return share * of_queries_AD, share * of_items_UD, None, None, None
