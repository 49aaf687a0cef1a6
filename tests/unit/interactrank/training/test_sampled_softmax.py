"""The in-batch softmax and its gradients against the formula, written out positive by positive."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.candidate_batches import batch_of
from torch import Tensor

from interactrank.features.batch import Batch
from interactrank.model.interactrank import Output
from interactrank.training import sampled_softmax
from interactrank.training.sampled_softmax import sampled_softmax_loss

B, U, N, H, D = 4, 7, 12, 2, 3
LEAVES = ("queries", "items", "scale")


def drawn(seed: int, spread: float) -> tuple[Output, Batch, Tensor]:
    """Requests of two queries, items that stand in the batch twice, candidates in any order."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return (spread * torch.randn(shape, generator=rng, dtype=torch.float64)).requires_grad_()

    pairs = torch.randperm(B * U, generator=rng)[:N]
    labels = torch.randint(0, 2, (N, H), generator=rng).float()
    labels[0, 1] = 1.0
    batch = batch_of(
        pairs // U,
        pairs % U,
        labels,
        query=torch.randint(0, 2, (B,), generator=rng),
        rows=torch.randint(0, U - 2, (U,), generator=rng),
    )
    scale = torch.rand(B, generator=rng, dtype=torch.float64) + 0.5
    output = Output(torch.zeros(N, H), normal(B, H, D), normal(U, D), scale.requires_grad_())
    return output, batch, torch.rand(U, generator=rng, dtype=torch.float64).log()


def by_hand(output: Output, batch: Batch, log_q: Tensor, head: int) -> Tensor:
    """The mean over positives of -log of the positive's share."""
    rows, losses = batch.items["rows"], []
    at = batch.labels[:, head].nonzero().squeeze(1)
    positives = list(zip(batch.candidate_request[at], batch.candidate_item[at], strict=True))
    engaged = [(int(batch.query[r]), int(rows[p])) for r, p in positives]
    for r, p in positives:
        logits = output.scale[r] * output.items @ output.queries[r, head] - log_q
        others = [u for u in range(U) if (int(batch.query[r]), int(rows[u])) not in engaged]
        mine = torch.cat((logits[p].unsqueeze(0), logits[others]))
        losses.append(mine.logsumexp(0) - logits[p])
    return torch.stack(losses).mean()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 9.0]), st.integers(1, B))
@settings(deadline=None, max_examples=60)
def test_loss_and_gradients_are_those_of_the_formula(seed: int, spread: float, rows: int) -> None:
    output, batch, log_q = drawn(seed, spread)
    leaves = [getattr(output, name) for name in LEAVES]
    expected = by_hand(output, batch, log_q, 1)
    with patch.object(sampled_softmax, "CHUNK", {"cpu": rows * U}):
        found = sampled_softmax_loss(output, batch, log_q, 1)
    torch.testing.assert_close(found, expected)
    # Half of it, as a sum of losses takes a share of it.
    for own, wanted in zip(
        torch.autograd.grad(0.5 * found, leaves),
        torch.autograd.grad(0.5 * expected, leaves),
        strict=True,
    ):
        torch.testing.assert_close(own, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_have_finite_loss_and_gradients(size: float) -> None:
    output, batch, log_q = drawn(3, 1.0)
    output.scale.data.fill_(size)
    loss = sampled_softmax_loss(output, batch, log_q, 1)
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, [getattr(output, name) for name in LEAVES]):
        assert gradient.isfinite().all()


def test_without_a_negative_there_is_nothing_to_learn() -> None:
    items = torch.randn(2, D, requires_grad=True)
    output = Output(torch.zeros(2, 1), torch.randn(1, 1, D), items, torch.ones(1))
    batch = batch_of(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.ones(2, 1))
    loss = sampled_softmax_loss(output, batch, torch.zeros(2), 0)
    assert float(loss.detach()) == 0.0
    (gradient,) = torch.autograd.grad(loss, items)
    assert not gradient.any()


def test_without_a_positive_it_is_a_zero_with_gradient() -> None:
    queries = torch.randn(2, 1, D, requires_grad=True)
    output = Output(torch.zeros(2, 1), queries, torch.randn(2, D), torch.ones(2))
    batch = batch_of(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.zeros(2, 1))
    loss = sampled_softmax_loss(output, batch, torch.zeros(2), 0)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert queries.grad is not None
    assert not queries.grad.any()
