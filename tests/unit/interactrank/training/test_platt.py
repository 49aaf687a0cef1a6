"""Calibration recovers the slope and the shift that were planted, and keeps the order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from interactrank.metrics.calibration import calibration_error, histogram
from interactrank.model.fusion import Fusion
from interactrank.training.stacking import (
    HeldOut,
    calibrate,
)

X, R, SHOWN = 4, 2, 8


def shown(slopes: list[float], shifts: list[float], requests: int = 4000) -> tuple[Fusion, HeldOut]:
    """Candidates engaged with probability sigmoid(slope * logit + shift), a head each."""
    heads = len(slopes)
    torch.manual_seed(5)
    fusion = Fusion(X, R, heads, True, 0)
    n = requests * SHOWN
    held = HeldOut(
        dots=torch.rand(n, heads) * 2 - 1,
        x=torch.randn(n, X),
        statistics=torch.randn(requests, R),
        labels=torch.zeros(n, heads),
        weights=torch.rand(n) * 20,
        log_q=torch.zeros(n),
        teacher=torch.full((n,), torch.nan),
        request=torch.arange(requests).repeat_interleave(SHOWN),
        requests=requests,
    )
    odds = raw(fusion, held) * torch.tensor(slopes) + torch.tensor(shifts)
    return fusion, replace(held, labels=(torch.rand(n, heads) < odds.sigmoid()).float())


@torch.no_grad()
def raw(fusion: Fusion, held: HeldOut) -> Tensor:
    return fusion.logits(held.dots, held.x, held.statistics, held.request)


def errors(logits: Tensor, held: HeldOut) -> list[float]:
    """Expected calibration error of each head."""
    p, labels = logits.sigmoid().numpy(), held.labels.numpy() > 0
    return [calibration_error(histogram(p[:, h], labels[:, h])) for h in range(p.shape[1])]


def test_calibration_recovers_slope_and_shift_and_keeps_the_order() -> None:
    slopes, shifts = [0.4, 1.8, 1.0], [-1.0, 0.7, -3.0]
    fusion, held = shown(slopes, shifts)
    before = raw(fusion, held)
    halves = [split(held, low, low + 2000) for low in (0, 2000)]
    calibrate(fusion, halves)
    after = raw(fusion, held)
    # Row weights, random here, must not bend the probabilities.
    assert fusion.slope.tolist() == pytest.approx(slopes, rel=0.06)
    assert fusion.shift.tolist() == pytest.approx(shifts, abs=0.12)
    for miss, was in zip(errors(after, held), errors(before, held), strict=True):
        assert miss < 0.01 < was / 2
    ordered = after.gather(0, before.argsort(dim=0))
    assert (ordered.diff(dim=0) >= 0).all()


def split(held: HeldOut, low: int, high: int) -> HeldOut:
    """Requests low to high - 1."""
    rows = slice(low * SHOWN, high * SHOWN)
    return HeldOut(
        held.dots[rows],
        held.x[rows],
        held.statistics[low:high],
        held.labels[rows],
        held.weights[rows],
        held.log_q[rows],
        held.teacher[rows],
        held.request[rows] - low,
        high - low,
    )


def test_calibrating_again_changes_nothing() -> None:
    fusion, held = shown([0.5], [-1.0], 500)
    calibrate(fusion, [held])
    first = {name: value.clone() for name, value in fusion.state_dict().items()}
    calibrate(fusion, [held])
    assert all(torch.equal(value, first[name]) for name, value in fusion.state_dict().items())


@pytest.mark.parametrize("spread", [0.01, 30.0, 1000.0])
def test_logits_of_any_size_are_calibrated(spread: float) -> None:
    fusion, held = shown([1.0], [-2.0], 1500)
    truth = raw(fusion, held)
    with torch.no_grad():
        fusion.weight.copy_(torch.eye(X)[0])
        held = replace(held, dots=truth * 0, x=truth * spread * torch.eye(X)[:1])
    calibrate(fusion, [held])
    assert float(fusion.slope) == pytest.approx(1 / spread, rel=0.05)
    assert float(fusion.shift) == pytest.approx(-2.0, abs=0.1)


def test_a_head_that_nothing_can_be_learned_of_is_left_as_it_is() -> None:
    fusion, held = shown([1.0, 1.0, -2.0, 0.5], [0.0, 0.0, 0.0, 1.0], 500)
    held.labels[:, 0], held.labels[:, 1] = 0, 1
    calibrate(fusion, [held])
    assert fusion.slope[:3].tolist() == [1.0] * 3
    assert fusion.shift[:3].tolist() == [0.0] * 3
    assert fusion.slope[3] != 1


def test_a_head_that_is_always_right_stays_finite() -> None:
    fusion, held = shown([1.0], [0.0], 200)
    held = replace(held, labels=(raw(fusion, held) > 0.3).float())
    calibrate(fusion, [held])
    assert fusion.slope.isfinite().all()
    assert (fusion.slope > 1).all()
    assert (raw(fusion, held) > 0).eq(held.labels > 0).float().mean() > 0.99
