"""Layers of our own do on a processor what torch's do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interactrank.model.layers import Dropout, MeanBag

WORDS, WIDTH = 50, 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("words", "offsets"),
    [
        ([1, 5, 5, 9, 0, 49, 5], [0, 3, 3, 4]),
        # Bags that are empty at both ends, and nothing but empty bags.
        ([7, 7], [0, 0, 2, 2]),
        ([], [0, 0]),
        ([3], [0]),
    ],
)
def test_a_bag_and_its_gradient_are_those_of_torch(
    words: list[int], offsets: list[int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    own, plain = MeanBag(WORDS, WIDTH).to(dtype), nn.EmbeddingBag(WORDS, WIDTH, mode="mean")
    plain = plain.to(dtype)
    plain.load_state_dict(own.state_dict())
    given = torch.tensor(words, dtype=torch.int64), torch.tensor(offsets)
    of_means = torch.randn(WIDTH, len(offsets), dtype=dtype).T
    found, expected = own(*given), plain(*given)
    torch.testing.assert_close(found, expected)
    found.backward(of_means)
    expected.backward(of_means)
    torch.testing.assert_close(own.weight.grad, plain.weight.grad)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(1)
    for share in (0.005, 0.5):
        v = torch.ones(1000, 400, requires_grad=True)
        found = Dropout(share)(v)
        dropped = found == 0
        # Six standard deviations of a share of 400,000 units.
        assert float(dropped.float().mean()) == pytest.approx(
            share, abs=6 * (share * (1 - share) / 400_000) ** 0.5
        )
        assert found[~dropped].unique().tolist() == pytest.approx([1 / (1 - share)])
        (gradient,) = torch.autograd.grad(found.sum(), v)
        assert torch.equal(gradient, found.detach())


def test_dropout_draws_anew_and_only_in_training() -> None:
    torch.manual_seed(1)
    drop, v = Dropout(0.3), torch.ones(100)
    assert not torch.equal(drop(v), drop(v))
    assert torch.equal(drop.eval()(v), v)
    assert torch.equal(Dropout(0.0)(v), v)
    assert not Dropout(1.0)(v).any()
