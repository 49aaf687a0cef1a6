"""The fusion fitted on held-out requests: how much to trust the towers beside the counts.

On the requests they were trained on, the towers know too much: the dot looks more reliable than
it is, while as-of cross features look just as they will when served. A fusion fitted on the same
requests therefore over-trusts the dot. Refitting its few parameters (a, g, c_h) on requests that
the towers never saw is stacking (Wolpert 1992); the towers stay as they are.

Held-out requests are few. Training requests join them with their dot left out
(``auxiliary_requests``): their cross features are as of each request and thus as honest as
held-out ones, so g is fitted on all of them, and only the trust in the dot rests on the held-out
requests alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interactrank.features.batch import Batch
from interactrank.metrics.ranking import mean, request_metrics
from interactrank.model.fusion import Fusion
from interactrank.model.interactrank import InteractRank
from interactrank.training.losses import LossConfig, listwise_loss, pointwise_loss, teacher_loss

ITERATIONS, FOLD_ITERATIONS = 40, 15
"""L-BFGS steps of the fusion that is kept, and of those that only choose an epoch. Later steps
lower the loss on these requests, not on those to come."""
BATCHES, FOLD_BATCHES = 40, 24
"""Batches of such fits, held-out and auxiliary, at most (``fitted_on``)."""
NEWTON_STEPS, RIDGE = 30, 1e-6
PULL, GATE_PULL = 3e-3, 3e-2
"""Strength of the L2 pull of the fusion towards weights of 0, and of its gates towards 0, which is
one set of weights for all requests."""
EVIDENCE = 10_000
"""Requests of a fit from which on the pulls are no stronger than that."""
STRONGEST = 300.0
"""Pull of gates at most: it leaves nothing of them, and L-BFGS stands still before one much
stronger."""
NO_TRUST, TRUST_PULL = -7.0, 1e-3
"""Logit of a scale of next to nothing, towards which the trust in the dot is pulled, and how hard.
"""
LITTLE_TRUST = -4.6
"""Logit of a scale of 1, from which a fit begins: a few requests move it little, and a dot that was
trusted too much costs more than one that was trusted too little."""
UNITS_SEED = 0


@dataclass(frozen=True)
class HeldOut:
    """A held-out batch with its dots: all that the fusion needs of it.

    ``dots`` [N, H], ``x`` [N, X], ``statistics`` [B, R], ``labels`` [N, H], ``weights``,
    ``log_q``, ``teacher`` and ``request`` [N].
    """

    dots: Tensor
    x: Tensor
    statistics: Tensor
    labels: Tensor
    weights: Tensor
    log_q: Tensor
    teacher: Tensor
    request: Tensor
    requests: int

    @classmethod
    def of(cls, dots: Tensor, batch: Batch) -> HeldOut:
        """What the fusion needs of ``batch``, whose candidates have ``dots``."""
        return cls(
            dots,
            batch.x,
            batch.request,
            batch.labels,
            batch.weights,
            batch.log_q,
            batch.teacher,
            batch.candidate_request,
            len(batch.text_offsets),
        )


@torch.inference_mode()
def _dots(model: InteractRank, batch: Batch) -> Tensor:
    return model.match(batch)[0]


def hold_out(model: InteractRank, batches: Iterable[Batch]) -> list[HeldOut]:
    """Run the towers over batches that they were not trained on (in eval mode)."""
    model.eval()
    device = next(model.parameters()).device
    out = []
    for batch in batches:
        b = batch.to(device)
        # Cloned out of inference mode, so that the fusion may be differentiated over them.
        out.append(HeldOut.of(_dots(model, b).clone(), b))
    return out


def auxiliary_requests(batches: Iterable[Batch], device: torch.device | str) -> list[HeldOut]:
    """Training batches as the fusion sees them where the towers say nothing: dots of 0."""
    moved = (batch.to(device) for batch in batches)
    return [HeldOut.of(torch.zeros_like(b.labels), b) for b in moved]


def fitted_on(
    held: Sequence[HeldOut], auxiliary: Sequence[HeldOut], most: int = BATCHES
) -> list[HeldOut]:
    """At most ``most`` batches for a fit, from all over both; at most half of them are held out.

    More cost time in proportion, and rank no better. Where held-out batches are few, auxiliary ones
    take their place.
    """
    own = _thinned(held, most // 2)
    return [*own, *_thinned(auxiliary, most - len(own))]


def _thinned(batches: Sequence[HeldOut], most: int) -> list[HeldOut]:
    at = np.linspace(0, len(batches) - 1, min(most, len(batches))).round().astype(np.int64)
    return [batches[i] for i in at]


def fusion_loss(fusion: Fusion, held: Sequence[HeldOut], config: LossConfig) -> Tensor:
    """The losses of candidates (``interactrank.training.losses``) of held-out batches.

    Every request counts the same, whatever the size of its batch.
    """
    loss = held[0].dots.new_zeros(())
    requests = sum(h.requests for h in held)
    heads = held[0].dots.shape[1]
    head_weights = loss.new_tensor(config.head_weights[:heads])
    head_weights = head_weights / head_weights.sum()
    for h in held:
        logits = fusion.logits(h.dots, h.x, h.statistics, h.request)
        log_q = config.log_q_power * h.log_q
        weights = h.weights * torch.exp(-log_q)
        of_batch = config.pointwise * pointwise_loss(
            logits, h.labels, weights, head_weights, config.focal
        )
        for head in range(heads):
            corrected = logits[:, head] - log_q
            of_batch = of_batch + config.listwise * head_weights[head] * listwise_loss(
                corrected, h.labels[:, head], h.request, h.requests
            )
        if config.teacher:
            of_batch = of_batch + config.teacher * head_weights[0] * teacher_loss(
                logits[:, 0] - log_q, h.teacher, log_q, h.request, h.requests
            )
        loss = loss + of_batch * (h.requests / requests)
    return loss


def refit(
    fusion: Fusion, held: Sequence[HeldOut], config: LossConfig, iterations: int = ITERATIONS
) -> None:
    """Fit the fusion's parameters on held-out batches by L-BFGS, in place.

    What training found is of requests that the towers knew by heart, so the fit does not lean on
    it: weights are pulled towards 0, hidden units are drawn anew, and the dot has to earn its
    trust, from a scale of 1 on. Gates are pulled harder: there are many of them, and held-out
    requests are few. With fewer requests than ``EVIDENCE`` gates and hidden units are pulled
    harder still, by the square of how many times as few there are: what has many parameters
    fades in with the evidence, and few requests teach one set of weights. Gates weigh counts
    against the dot, which requests that have one alone can tell; with fewer of these their pull
    grows again.
    """
    parameters = dict(fusion.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    doubt = _times_too_few(held) ** 2
    with_dots = [h for h in held if h.dots.any()]
    _forget(fusion, doubt)
    targets = {name: p.detach().clone() for name, p in parameters.items()}
    targets["raw_scale"] = torch.full_like(fusion.raw_scale, NO_TRUST)
    if fusion.units is not None:
        targets["unit_weight"] = torch.zeros_like(fusion.unit_weight)
    pulls = {
        "raw_scale": TRUST_PULL,
        "weight": PULL,
        "bias": PULL,
        "gate.weight": min(GATE_PULL * doubt * _times_too_few(with_dots or held), STRONGEST),
    }
    optimizer = torch.optim.LBFGS(
        [*parameters.values()], max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = fusion_loss(fusion, held, config)
        if fusion.crosses:
            for name, p in parameters.items():
                pull = pulls.get(name, PULL * doubt)
                loss = loss + pull * ((p - targets[name]) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    if not all(torch.isfinite(p).all() for p in parameters.values()):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])


def _times_too_few(held: Sequence[HeldOut]) -> float:
    """How many times more requests ``EVIDENCE`` is; 1 where there are as many."""
    return max(1.0, EVIDENCE / max(sum(h.requests for h in held), 1))


@torch.no_grad()
def _forget(fusion: Fusion, doubt: float) -> None:
    """Weights and gates of 0, little trust in the dot, and hidden units as before any training,
    with ``doubt`` less say. A dot that has nothing beside it keeps its scale.
    """
    if fusion.crosses:
        fusion.weight.zero_()
        fusion.raw_scale.fill_(LITTLE_TRUST)
    if fusion.gate is not None:
        fusion.gate.weight.zero_()
    if fusion.units is not None:
        rng = torch.Generator().manual_seed(UNITS_SEED)
        reach = fusion.units.in_features**-0.5
        for p in (fusion.units.weight, fusion.units.bias):
            p.copy_(reach * (2 * torch.rand(p.shape, generator=rng) - 1))
        of_unit = 0.1 * torch.randn(fusion.unit_weight.shape, generator=rng)
        fusion.unit_weight.copy_(of_unit / doubt)


def calibrate(fusion: Fusion, held: Sequence[HeldOut]) -> None:
    """Fit slope and shift of each head so that sigmoid(logit) is a probability (Platt 1999).

    By Newton's method on the unweighted log loss, so that row weights, which train the order, do
    not bend the probabilities. Meaningful only for candidates that were shown. A head without a
    positive and a negative, or whose slope would not be positive, is left as it is.
    """
    labels = torch.cat([h.labels for h in held]).double()
    with torch.no_grad():
        fusion.slope.fill_(1.0)
        fusion.shift.fill_(0.0)
        logits = torch.cat([fusion.logits(h.dots, h.x, h.statistics, h.request) for h in held])
        for head in range(labels.shape[1]):
            slope, shift = _platt(logits[:, head].double(), labels[:, head])
            if slope > 0:
                fusion.slope[head], fusion.shift[head] = slope, shift


def _platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Slope and shift that minimise the log loss of one head; slope 0 where there is none."""
    if labels.min() == labels.max():
        return 0.0, 0.0
    # Standardised and from the base rate, Newton converges however large the logits are.
    mean, std = logits.mean(), logits.std().clamp(min=1e-9)
    design = torch.stack(((logits - mean) / std, torch.ones_like(logits)), 1)
    found = torch.stack((logits.new_zeros(()), labels.mean().logit()))
    ridge = RIDGE * torch.eye(2, dtype=logits.dtype, device=logits.device)
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(design @ found)
        gradient = design.T @ (p - labels) / len(labels)
        curvature = design.T @ (design * (p * (1 - p)).unsqueeze(1)) / len(labels)
        step = torch.linalg.solve(curvature + ridge, gradient)
        # A full step may overshoot where the curve is flat: none is longer than 2.
        found = found - step * min(1.0, 2.0 / float(step.norm().clamp(min=1e-12)))
    slope = found[0] / std
    shift = found[1] - slope * mean
    return (float(slope), float(shift)) if found.isfinite().all() else (0.0, 0.0)


@torch.no_grad()
def measure(fusion: Fusion, held: Sequence[HeldOut]) -> list[np.ndarray]:
    """Reciprocal rank of each held-out request for the ranking head, a batch an array."""
    out = []
    for h in held:
        scores = fusion.logits(h.dots, h.x, h.statistics, h.request)[:, 0]
        counts = torch.bincount(h.request, minlength=h.requests).cpu().numpy()
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        positive = h.labels[:, 0].cpu().numpy() > 0
        out.append(request_metrics(scores.float().cpu().numpy(), positive, offsets)["mrr"])
    return out


def cross_fitted(
    fusion: Fusion,
    held: Sequence[HeldOut],
    config: LossConfig,
    stacking: bool = True,
    auxiliary: Sequence[HeldOut] = (),
) -> tuple[float, float]:
    """Loss and MRR of held-out requests under fusions fitted on *other* held-out requests.

    Two folds of alternating batches: no request is measured with a fusion that saw it. The
    fusion is left as it was. Without ``stacking`` it is measured as it is. ``auxiliary`` are the
    ``auxiliary_requests`` of both folds.
    """
    start = {k: v.clone() for k, v in fusion.state_dict().items()}
    losses, ranks = [], []
    for fold in (0, 1):
        fitted, measured = held[1 - fold :: 2], held[fold::2]
        if not measured:
            continue
        if stacking and fitted and fusion.crosses:
            refit(fusion, fitted_on(fitted, auxiliary, FOLD_BATCHES), config, FOLD_ITERATIONS)
        with torch.no_grad():
            losses.append(float(fusion_loss(fusion, measured, config)))
        ranks += measure(fusion, measured)
        fusion.load_state_dict(start)
    if not ranks:
        return float("nan"), float("nan")
    return float(np.mean(losses)), mean(np.concatenate(ranks))
