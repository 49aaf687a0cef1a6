"""On a GPU the step is the CPU's: same loss and gradients, in bf16 and compiled to its rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.planted import FAST, NAMED, SCHEMA, SMALL, batch, parameters, same

from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.training.trainer import TrainConfig, Trainer, fit_statistics, mark_trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STILL = replace(SMALL, dropout=0.0, id_dropout=0.0, fusion_hidden=4)
"""No drawn masks, which differ between devices."""
BF16 = replace(FAST, bf16=True)


def trainer(
    device: str, train: TrainConfig = FAST, config: ModelConfig = STILL, wrap: Any = None
) -> Trainer:
    torch.manual_seed(0)
    return Trainer(InteractRank(config, SCHEMA, NAMED), train, 90, device, wrap)


def gradients(one: Trainer) -> torch.Tensor:
    """Loss and all gradients of one batch, in a row, on the CPU."""
    data = batch(1, "text").to(one.device)
    mark_trained(one.model, data)
    loss = one.loss(data)
    loss.backward()
    found = [p.grad.reshape(-1) for p in one.model.parameters() if p.grad is not None]
    return torch.cat([loss.detach().reshape(1), *found]).cpu().double()


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("train", "wrap", "at_most"),
    # The CPU's own bf16 is .08 away from its fp32.
    [(FAST, None, 1e-4), (FAST, torch.compile, 1e-4), (BF16, None, 0.15)],
)
def test_loss_and_gradients_are_the_cpus(
    train: TrainConfig, wrap: Callable[..., Any] | None, at_most: float
) -> None:
    expected = gradients(trainer("cpu"))
    assert apart(gradients(trainer("cuda", train, wrap=wrap)), expected) < at_most


@pytest.mark.parametrize("bf16", [False, True])
def test_a_planted_signal_is_found_on_the_gpu(bf16: bool) -> None:
    data = [batch(s, "text") for s in range(30)]
    held_out = [batch(s, "text") for s in range(1000, 1005)]
    one = trainer("cuda", replace(FAST, bf16=bf16), replace(STILL, cross=False, history=False))
    for e in range(3):
        report = one.epoch(e, data, held_out)
    assert report.validation_mrr >= 0.8


def test_resuming_on_the_gpu_draws_the_same_masks() -> None:
    noisy = replace(SMALL, dropout=0.2, id_dropout=0.2)
    data = [batch(s, "text") for s in range(8)]
    whole = trainer("cuda", config=noisy)
    fit_statistics(whole.model, data)
    whole.epoch(0, data, [])
    state = copy.deepcopy(whole.state())
    drawn = torch.rand(4, device="cuda")
    resumed = trainer("cuda", config=noisy)
    resumed.load_state(state)
    assert torch.equal(torch.rand(4, device="cuda"), drawn)
    assert same(parameters(resumed), [v.cuda() for v in state["model"].values()])
