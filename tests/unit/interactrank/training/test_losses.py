"""Each loss against the formula, written out request by request in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.candidate_batches import batch_of

from interactrank.model.interactrank import Output
from interactrank.training.losses import (
    TEMPERATURE,
    ItemFrequency,
    LossConfig,
    listwise_loss,
    pointwise_loss,
    teacher_loss,
    total_loss,
)
from interactrank.training.sampled_softmax import sampled_softmax_loss

SEEDS = st.integers(0, 2**32 - 1)


def bce(logit: float, label: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p if label else 1 - p)


@given(SEEDS, st.booleans())
@settings(deadline=None, max_examples=40)
def test_pointwise(seed: int, focal: bool) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    logits, labels = rng.normal(0, 3, (n, 3)), rng.integers(0, 2, (n, 3)).astype(float)
    weights, heads = rng.random(n) + 0.1, np.array([0.5, 0.2, 0.3])
    expected = 0.0
    for h in range(3):
        total = 0.0
        for i in range(n):
            loss = bce(logits[i, h], labels[i, h])
            p = 1 / (1 + math.exp(-logits[i, h]))
            p_t = p if labels[i, h] else 1 - p
            total += weights[i] * loss * ((1 - p_t) ** 2 if focal else 1)
        expected += heads[h] * total / weights.sum()
    tensor = torch.tensor
    found = pointwise_loss(tensor(logits), tensor(labels), tensor(weights), tensor(heads), focal)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_pointwise_of_extreme_logits_is_finite() -> None:
    logits = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    for focal in (False, True):
        loss = pointwise_loss(
            logits, torch.tensor([[0.0], [1.0]]), torch.ones(2), torch.ones(1), focal
        )
        assert float(loss.detach()) == pytest.approx(200.0)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
    nothing = pointwise_loss(logits, torch.zeros(2, 1), torch.zeros(2), torch.ones(1), False)
    assert float(nothing.detach()) == 0.0


def listwise_by_hand(logits: list[float], labels: list[int], request: list[int], b: int) -> float:
    losses = []
    for r in range(b):
        mine = [i for i, q in enumerate(request) if q == r]
        positive = [i for i in mine if labels[i]]
        if not positive or len(positive) == len(mine):
            continue
        mass = sum(math.exp(logits[i]) for i in mine)
        losses.append(-sum(logits[i] - math.log(mass) for i in positive) / len(positive))
    return sum(losses) / max(len(losses), 1)


@given(SEEDS)
@settings(deadline=None, max_examples=60)
def test_listwise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b, n = 5, int(rng.integers(1, 20))
    # Candidates of a request need not stand together, and some requests have none.
    request, labels = rng.integers(0, b, n), rng.integers(0, 2, n)
    logits = rng.normal(0, 4, n)
    found = listwise_loss(
        torch.tensor(logits), torch.tensor(labels.astype(float)), torch.tensor(request), b
    )
    expected = listwise_by_hand(logits.tolist(), labels.tolist(), request.tolist(), b)
    assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_listwise_ignores_requests_that_teach_no_order() -> None:
    request = torch.tensor([0, 0, 1, 1, 2])
    logits = torch.tensor([1.0, 2.0, 3.0, -1.0, 9.0], requires_grad=True)
    loss = listwise_loss(logits, torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]), request, 4)
    assert float(loss.detach()) == 0.0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.any()


def test_listwise_stands_large_logits_and_does_not_see_a_shift() -> None:
    request = torch.tensor([0, 0, 1, 1])
    logits, labels = torch.tensor([0.3, 1.0, -2.0, 0.5]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    base = float(listwise_loss(logits, labels, request, 2))
    moved = logits.double() + torch.tensor([1e4, 1e4, -1e4, -1e4], dtype=torch.float64)
    assert float(listwise_loss(moved, labels.double(), request, 2)) == pytest.approx(base, rel=1e-6)


@given(SEEDS)
@settings(deadline=None, max_examples=40)
def test_teacher(seed: int) -> None:
    rng = np.random.default_rng(seed)
    b, n = 4, int(rng.integers(1, 20))
    request, logits, log_q = rng.integers(0, b, n), rng.normal(0, 3, n), np.log(rng.random(n))
    teacher = np.where(rng.random(n) < 0.3, np.nan, 100 + 50 * rng.integers(0, 4, n))
    losses = []
    for r in range(b):
        mine = (request == r) & ~np.isnan(teacher)
        if len(np.unique(teacher[mine])) < 2:
            continue
        told, times = teacher[mine], np.exp(-log_q[mine])
        centre = (told * times).sum() / times.sum()
        spread = math.sqrt(((told - centre) ** 2 * times).sum() / times.sum())
        wanted = np.exp((told - centre) / spread / TEMPERATURE) * times
        mass = np.exp(logits[mine])
        losses.append(-(wanted / wanted.sum() * np.log(mass / mass.sum())).sum())
    told, given, taken, of = (torch.tensor(v) for v in (teacher, logits, log_q, request))
    found = teacher_loss(given, told, taken, of, b)
    assert float(found) == pytest.approx(sum(losses) / max(len(losses), 1), rel=1e-6, abs=1e-9)


def test_a_teacher_that_says_nothing_teaches_nothing() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    request, nan = torch.tensor([0, 0, 1]), float("nan")
    for told in ([nan, nan, nan], [5.0, 5.0, nan], [1.0, nan, 2.0]):
        loss = teacher_loss(logits, torch.tensor(told), torch.zeros(3), request, 2)
        assert float(loss.detach()) == 0.0
        (gradient,) = torch.autograd.grad(loss, logits)
        assert not gradient.any()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_total_is_the_sum_of_its_parts(power: float) -> None:
    rng = torch.Generator().manual_seed(0)
    request, item = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 1, 3])
    labels = torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 0], [1, 1]])
    weights = torch.tensor([1.0, 2, 1, 1, 3])
    log_q = torch.log(torch.tensor([1.0, 0.2, 0.5, 0.1, 1.0]))
    told = torch.tensor([1.0, 2, 4, torch.nan, 3])
    batch = batch_of(request, item, labels, weights, log_q, teacher=told)
    output = Output(
        torch.randn(5, 2, generator=rng),
        torch.randn(2, 2, 3, generator=rng),
        torch.randn(4, 3, generator=rng),
        torch.tensor([3.0, 2.0]),
    )
    item_q = torch.log(torch.tensor([0.3, 0.5, 0.1, 0.9]))
    config = LossConfig(0.1, True, 0.7, 0.2, power, (6.0, 2.0, 99.0), teacher=0.3)
    shares = torch.tensor([0.75, 0.25])
    expected = 0.1 * pointwise_loss(
        output.logits, labels, weights * torch.exp(log_q) ** -power, shares, True
    )
    taken = power * log_q
    taught = teacher_loss(output.logits[:, 0] - taken, told, taken, request, 2)
    expected = expected + 0.3 * shares[0] * taught
    for h in range(2):
        listed = listwise_loss(output.logits[:, h] - taken, labels[:, h], request, 2)
        sampled = sampled_softmax_loss(output, batch, item_q, h)
        expected = expected + shares[h] * (0.7 * listed + 0.2 * sampled)
    found = total_loss(output, batch, item_q, config)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_item_frequency_is_the_share_of_batches_that_held_the_item() -> None:
    frequency = ItemFrequency(5)
    batches = [[0, 1, 2], [1, 2], [2, 4], [2]]
    for n, rows in enumerate(batches, 1):
        found = frequency.update(torch.tensor(rows))
        expected = [math.log(sum(r in b for b in batches[:n]) / n) for r in rows]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_item_frequency_counts_an_item_once_a_batch() -> None:
    frequency = ItemFrequency(3)
    frequency.update(torch.tensor([0]))
    assert frequency.update(torch.tensor([1, 1])).exp().tolist() == pytest.approx([0.5, 0.5])
