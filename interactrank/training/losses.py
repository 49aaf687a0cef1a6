"""The losses: weighted multi-head BCE or focal, a softmax over each request's candidates, and their
sum with the in-batch softmax (``interactrank.training.sampled_softmax``).

Shapes: N candidates, B requests, U distinct items of the batch, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from interactrank.features.batch import Batch
from interactrank.model.interactrank import Output
from interactrank.training.sampled_softmax import sampled_softmax_loss

TEMPERATURE = 0.5
"""Standard deviations of a teacher's scores, within a request, that are worth one logit."""


@dataclass(frozen=True)
class LossConfig:
    """Shares of the losses.

    The paper's total is pointwise + 0.01 softmax over logged impressions. ``listwise`` is ours:
    without it, a log of sampled negatives teaches calibration more than order.

    Attributes:
        pointwise: weight of the cross-entropy of each candidate and head.
        focal: use the focal loss as the pointwise one: what is right already weighs less.
        listwise: weight of the softmax over each request's own candidates.
        softmax: weight of the softmax over the batch's items (in-batch negatives).
        log_q_power: factor of log Q in the pointwise and listwise losses, which corrects for
            sampled candidates: 1 is unbiased, less trades bias for variance.
        head_weights: weights of the heads in each loss, ranking head first; those of heads that
            the log lacks are left out.
        softmax_log_q: correct the softmax for how often an item is an in-batch negative (the
            paper's correction).
        teacher: weight of each request's softmax, of the ranking head, against that of a full
            ranker's scores, where the log has them (``teacher_loss``).
    """

    pointwise: float = 0.1
    focal: bool = False
    listwise: float = 1.0
    softmax: float = 0.1
    log_q_power: float = 1.0
    head_weights: tuple[float, ...] = (20.0, 7.0, 20.0)
    softmax_log_q: bool = True
    teacher: float = 0.0


def pointwise_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, head_weights: Tensor, focal: bool
) -> Tensor:
    """L = sum_h c_h mean_n w_n l(logit_nh, label_nh); focal: l = (1 - p_t)^2 BCE.

    Args:
        logits, labels: [N, H]. weights: [N]. head_weights: [H], summing to 1.
        focal: weigh down what is already right (the reference's default).
    """
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    if focal:
        loss = loss * (1 - torch.exp(-loss)) ** 2
    mean = (loss * weights.unsqueeze(1)).sum(0) / weights.sum().clamp(min=1e-6)
    return (mean * head_weights).sum()


def listwise_loss(logits: Tensor, labels: Tensor, request: Tensor, requests: int) -> Tensor:
    """Softmax over each request's own candidates: -log of the positives' mean share, [N] -> [].

    ``logits`` and ``labels`` are [N] of one head; requests without a positive or without a
    negative do not count.
    """
    log_share = _log_shares(logits, request, requests)
    positives = labels.new_zeros(requests).index_add(0, request, labels)
    sizes = labels.new_zeros(requests).index_add(0, request, torch.ones_like(labels))
    valid = (positives > 0) & (positives < sizes)
    share = labels / positives.clamp(min=1)[request] * valid[request]
    return -(log_share * share).sum() / valid.sum().clamp(min=1)


def teacher_loss(
    logits: Tensor, teacher: Tensor, log_q: Tensor, request: Tensor, requests: int
) -> Tensor:
    """Cross-entropy of each request's softmax against its teacher's, [N] -> [].

    The teacher's scores may be of any scale: they are standardised within each request and divided
    by ``TEMPERATURE``. What it says nothing of takes no part; nor does a request of which it says
    nothing, or the same of all candidates.

    Args:
        logits: [N], less log Q, as in ``listwise_loss``.
        teacher: [N], NaN where it has no score.
        log_q: [N], what was taken off the logits.
        request: int64 [N], of ``requests``.
    """
    known = torch.isfinite(teacher)
    logits, log_q, request = logits[known], log_q[known], request[known]

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(requests).index_add(0, request, values)

    stands_for = torch.exp(-log_q)
    of_request = total(stands_for).clamp(min=1e-9)
    apart = teacher[known].to(logits.dtype)
    apart = apart - (total(stands_for * apart) / of_request)[request]
    spread = (total(stands_for * apart**2) / of_request).sqrt()
    valid = spread > 1e-6
    wanted = apart / (TEMPERATURE * spread.clamp(min=1e-6))[request] - log_q
    share = _log_shares(wanted, request, requests).exp() * valid[request]
    return -(_log_shares(logits, request, requests) * share).sum() / valid.sum().clamp(min=1)


def _log_shares(logits: Tensor, request: Tensor, requests: int) -> Tensor:
    """Logarithm of each candidate's share of its request's softmax, [N]."""
    top = logits.new_full((requests,), float("-inf"))
    top = top.scatter_reduce(0, request, logits.detach(), "amax")
    mass = logits.new_zeros(requests).index_add(0, request, torch.exp(logits - top[request]))
    return logits - top[request] - torch.log(mass)[request]


class ItemFrequency:
    """Streaming estimate of P(item in batch): share of the batches so far that held the item.

    With several ranks, of the batches of all: every rank has the same estimate.
    """

    def __init__(self, items: int, device: torch.device | str = "cpu") -> None:
        self.seen = torch.zeros(items, device=device)
        self.batches = 0

    def update(self, rows: Tensor) -> Tensor:
        """Count the distinct item ``rows`` [U] of a batch; return their log probabilities [U]."""
        here = torch.zeros_like(self.seen)
        here[rows] = 1
        if dist.is_initialized():
            dist.all_reduce(here)
        self.seen += here
        self.batches += dist.get_world_size() if dist.is_initialized() else 1
        return torch.log((self.seen[rows] / self.batches).clamp(1e-6, 1.0))


def total_loss(output: Output, batch: Batch, log_q: Tensor, config: LossConfig) -> Tensor:
    """Weighted sum of the parts (paper: pointwise + 0.01 sampled softmax)."""
    heads, requests = output.logits.shape[1], output.queries.shape[0]
    head_weights = output.logits.new_tensor(config.head_weights[:heads])
    head_weights = head_weights / head_weights.sum()
    loss = output.logits.new_zeros(())
    taken = config.log_q_power * batch.log_q
    if config.pointwise:
        loss = loss + config.pointwise * pointwise_loss(
            output.logits,
            batch.labels,
            batch.weights * torch.exp(-taken),
            head_weights,
            config.focal,
        )
    if config.teacher:
        loss = loss + config.teacher * head_weights[0] * teacher_loss(
            output.logits[:, 0] - taken,
            batch.teacher,
            taken,
            batch.candidate_request,
            requests,
        )
    for h in range(heads):
        if config.listwise:
            loss = loss + config.listwise * head_weights[h] * listwise_loss(
                output.logits[:, h] - taken, batch.labels[:, h], batch.candidate_request, requests
            )
        if config.softmax:
            loss = loss + config.softmax * head_weights[h] * sampled_softmax_loss(
                output, batch, log_q, h
            )
    return loss
