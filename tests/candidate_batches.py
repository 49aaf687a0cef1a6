"""Batches of candidates alone: the losses read nothing else of a request."""

from __future__ import annotations

import torch
from torch import Tensor

from interactrank.features.batch import Batch


def batch_of(
    request: Tensor,
    item: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    log_q: Tensor | None = None,
    query: Tensor | None = None,
    rows: Tensor | None = None,
    teacher: Tensor | None = None,
) -> Batch:
    none, n = torch.zeros(0), len(request)
    return Batch(
        query=torch.arange(int(request.max()) + 1) if query is None else query,
        top_items=none,
        top_items_share=none,
        text=none,
        text_offsets=none,
        hist_items=none,
        hist_actions=none,
        hist_hours=none,
        hist_mask=none,
        request=none,
        x=none,
        candidate_request=request,
        candidate_item=item,
        items={"rows": torch.arange(int(item.max()) + 1) if rows is None else rows},
        labels=labels,
        weights=torch.ones(n) if weights is None else weights,
        log_q=torch.zeros(n) if log_q is None else log_q,
        teacher=torch.full((n,), torch.nan) if teacher is None else teacher,
    )
