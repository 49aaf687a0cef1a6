"""The fusion against its formula in NumPy, and what must hold whatever its parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from interactrank.model.fusion import MAX_SCALE, MIN_STD, REACH, Fusion

SEEDS = st.integers(0, 2**32 - 1)
N, B, X, R, H = 12, 4, 5, 3, 3


def sigmoid(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-value))


def new(seed: int, crosses: int = X, gated: bool = True, hidden: int = 0) -> Fusion:
    """Random parameters and calibration, fitted on 200 random candidates and requests."""
    torch.manual_seed(seed)
    fusion = Fusion(crosses, R, H, gated, hidden)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_(0, 0.7)
        fusion.slope.uniform_(0.2, 2.0)
        fusion.shift.normal_()
    if crosses:
        fusion.fit(torch.rand(200, crosses) * 3 - 1, torch.randn(200, R) * 2 + 1)
    return fusion


def sample(seed: int, crosses: int = X) -> tuple[torch.Tensor, ...]:
    """dots [N, H], x [N, X], statistics [B, R] with some unknown, request [N]."""
    rng = np.random.default_rng(seed)
    statistics = rng.normal(1, 4, (B, R)).astype(np.float32)
    statistics[rng.random((B, R)) < 0.3] = np.nan
    return (
        torch.tensor(rng.uniform(-1, 1, (N, H)).astype(np.float32)),
        torch.tensor(rng.normal(0, 2, (N, crosses)).astype(np.float32)),
        torch.tensor(statistics),
        torch.tensor(rng.integers(0, B, N)),
    )


def by_hand(
    fusion: Fusion,
    dots: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    request: torch.Tensor,
) -> NDArray[np.float64]:
    """The module's formula, one candidate and head at a time."""
    p = {k: v.double().numpy() for k, v in fusion.state_dict().items()}
    out = np.zeros((N, H))
    for n, b in enumerate(request.tolist()):
        raw, cross_score = float(p["raw_scale"]), 0.0
        if fusion.crosses:
            weights = p["weight"].copy()
            z = (x[n].double().numpy() - p["x_mean"]) / p["x_std"]
            phi = np.zeros(0)
            if fusion.gate is not None:
                phi = (statistics[b].double().numpy() - p["request_mean"]) / p["request_std"]
                phi = np.array([0.0 if np.isnan(f) else min(max(f, -3.0), 3.0) for f in phi])
                raw += p["gate.weight"][0] @ phi
                weights += p["gate.weight"][1:] @ phi
            cross_score = weights @ z
            if fusion.units is not None:
                units = p["units.weight"] @ np.concatenate((z, phi)) + p["units.bias"]
                cross_score += float(p["unit_weight"] @ np.maximum(units, 0))
        a = 100 * sigmoid(np.array(raw))
        for h in range(H):
            inner = a * float(dots[n, h]) + cross_score + p["bias"][h]
            out[n, h] = p["slope"][h] * inner + p["shift"][h]
    return out


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("crosses", [X, 0])
def test_logits_are_the_formula(crosses: int, gated: bool, hidden: int) -> None:
    for seed in range(5):
        fusion, given_ = new(seed, crosses, gated, hidden), sample(seed, crosses)
        with torch.no_grad():
            found = fusion.logits(*given_).numpy()
        np.testing.assert_allclose(found, by_hand(fusion, *given_), rtol=2e-4, atol=2e-4)


@given(SEEDS, st.booleans(), st.sampled_from([0, 3]), st.sampled_from([0, X]))
@settings(max_examples=50)
def test_head_weights_fold_into_one_dot_a_candidate(
    seed: int, gated: bool, hidden: int, crosses: int
) -> None:
    fusion = new(seed, crosses, gated, hidden)
    _, x, statistics, request = sample(seed, crosses)
    torch.manual_seed(seed)
    queries, items = torch.randn(B, H, 6), torch.randn(N, 6)
    head_weights = torch.rand(H).softmax(0)
    with torch.no_grad():
        dots = torch.einsum("nhd,nd->nh", queries[request], items)
        expected = fusion.logits(dots, x, statistics, request) @ head_weights
        folded, coefficients = fusion.fold(head_weights), fusion.coefficients(statistics)
        fused = torch.einsum("h,bhd->bd", folded.heads, queries)
        one = (fused[request] * items).sum(1)
        cross_score = folded.cross * fusion.cross_score(x, coefficients, request)
        found = coefficients.scale[request] * one + cross_score + folded.constant
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@given(SEEDS, st.floats(-1e4, 1e4, width=32))
def test_the_scale_is_positive_whatever_the_request(seed: int, value: float) -> None:
    fusion = new(seed)
    with torch.no_grad():
        scale = fusion.coefficients(torch.full((1, R), value)).scale
    assert 0 < float(scale) <= MAX_SCALE


def test_an_unknown_statistic_counts_as_the_mean() -> None:
    fusion = new(0)
    known = torch.tensor([[0.3, -1.0, 2.0]])
    for r in range(R):
        unknown, mean = known.clone(), known.clone()
        unknown[0, r], mean[0, r] = torch.nan, fusion.request_mean[r]
        for name in ("scale", "weights"):
            found, expected = (getattr(fusion.coefficients(s), name) for s in (unknown, mean))
            torch.testing.assert_close(found, expected)
            assert not torch.allclose(found, getattr(fusion.coefficients(known), name))


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_request_unlike_all_others_is_not_extrapolated(side: float) -> None:
    fusion = new(1)

    def at(deviations: float) -> torch.Tensor:
        statistics = fusion.request_mean + side * deviations * fusion.request_std
        found = fusion.coefficients(statistics.unsqueeze(0))
        return torch.cat((found.scale, found.weights[0]))

    assert REACH == 3
    torch.testing.assert_close(at(3.5), at(1e6))
    assert not torch.allclose(at(2.5), at(3.0))


def test_what_never_varied_in_training_has_no_say_when_it_does() -> None:
    fusion = new(2)
    torch.manual_seed(2)
    x, statistics = torch.rand(50, X), torch.randn(50, R)
    x[:, 1], statistics[:, 2] = 0.5, 4.0
    statistics[:25, 2] = torch.nan
    fusion.fit(x, statistics)
    met, moved = torch.rand(1, X), torch.randn(1, R)
    other, elsewhere = met.clone(), moved.clone()
    other[0, 1], elsewhere[0, 2] = 7.0, 90.0
    dots, of = torch.rand(1, H), torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        base = fusion.logits(dots, met, moved, of)
        for x_, s in ((other, moved), (met, elsewhere)):
            torch.testing.assert_close(fusion.logits(dots, x_, s, of), base, rtol=0, atol=5e-3)
        for x_, s in ((met + torch.eye(X)[:1], moved), (met, moved + torch.eye(R)[:1])):
            assert (fusion.logits(dots, x_, s, of) - base).abs().max() > 0.05


def test_a_feature_that_varied_little_is_not_stretched() -> None:
    fusion = new(3)
    x = torch.zeros(1000, X)
    x[0] = 0.1
    fusion.fit(x, torch.randn(10, R))
    torch.testing.assert_close(fusion.x_std, torch.full((X,), MIN_STD))


def test_standardisation_is_that_of_training() -> None:
    fusion = new(4)
    x, statistics = torch.rand(64, X) * 9, torch.randn(64, R) * 5
    statistics[::2, 1] = torch.nan
    fusion.fit(x, statistics)
    np.testing.assert_allclose(fusion.x_mean, x.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(fusion.x_std, x.numpy().std(0), rtol=1e-4)
    np.testing.assert_allclose(fusion.request_mean, np.nanmean(statistics.numpy(), 0), rtol=1e-4)
    np.testing.assert_allclose(fusion.request_std, np.nanstd(statistics.numpy(), 0), rtol=1e-4)


@given(SEEDS, st.sampled_from([0, 3]))
@settings(max_examples=40, deadline=None)
def test_a_score_moves_with_a_feature_as_its_sign_says(seed: int, hidden: int) -> None:
    signs = (1, 0, -1, 0, 0)
    torch.manual_seed(seed)
    fusion = Fusion(X, R, H, True, hidden, signs=signs)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_(0, 0.7)
    fusion.fit(torch.rand(200, X), torch.randn(200, R))
    dots, x, statistics, of = sample(seed)
    for column, sign in enumerate(signs):
        more = x.clone()
        more[:, column] += 2.0
        with torch.no_grad():
            moved = [fusion.logits(dots, each, statistics, of) for each in (x, more)]
        if sign:
            assert ((moved[1] - moved[0]) * sign >= -1e-4).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_weight_that_has_a_sign_can_be_learned_from_the_start(sign: int) -> None:
    fusion = Fusion(X, R, 1, True, 0, signs=(sign, *[0] * (X - 1)))
    dots, x, statistics, of = sample(0)
    fusion.logits(dots[:, :1], x, statistics, of).sum().backward()
    assert fusion.weight.grad is not None
    assert fusion.weight.grad[0] != 0
    assert float(fusion.fixed_weights().detach()[0]) == pytest.approx(0.1 * sign)


VALUE, ABSENT = X - 2, X - 1


def optional(x: torch.Tensor, hidden: int = 3) -> Fusion:
    """A fusion with random parameters, fitted on ``x``, whose last feature may be absent."""
    torch.manual_seed(6)
    fusion = Fusion(X, R, H, True, hidden, optional=1)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_(0, 0.7)
    fusion.fit(x, torch.randn(200, R) * 2 + 1)
    return fusion


@pytest.mark.parametrize("hidden", [0, 3])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_what_is_absent_counts_as_the_median(share: float, hidden: int) -> None:
    x = torch.rand(1000, X) * 3 + 4
    absent = torch.arange(1000) < 1000 * share
    x[:, ABSENT], x[absent, VALUE] = absent.float(), 0.0
    fusion = optional(x, hidden)
    dots, met, statistics, of = sample(3)
    usual = met.clone()
    met[:, VALUE], met[:, ABSENT] = 0.0, 1.0
    usual[:, VALUE], usual[:, ABSENT] = fusion.x_mean[VALUE], 0.0
    assert float(fusion.x_mean[VALUE]) == pytest.approx(float(x[~absent, VALUE].median()), abs=0.01)
    with torch.no_grad():
        one, other = (fusion.logits(dots, each, statistics, of) for each in (met, usual))
        # That it is absent says something by itself, if training met it, and nothing if not.
        assert torch.allclose(one, other, rtol=1e-3, atol=5e-3) == (share == 0.0)
        assert fusion.gate is not None
        fusion.weight[ABSENT] = fusion.gate.weight[1 + ABSENT] = 0.0
        if fusion.units is not None:
            fusion.units.weight[:, ABSENT] = 0.0
        one, other = (fusion.logits(dots, each, statistics, of) for each in (met, usual))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=5e-3)


def test_a_few_wrong_values_move_no_constant_of_a_candidate_feature() -> None:
    x = torch.rand(2000, X)
    x[:, VALUE], x[:, ABSENT] = torch.randn(2000) * 0.4 + 3, 0.0
    good = optional(x)
    assert float(good.x_mean[VALUE]) == pytest.approx(3, abs=0.05)
    assert float(good.x_std[VALUE]) == pytest.approx(0.4, rel=0.1)
    x[:5, VALUE] = 41.0
    worse = optional(x)
    assert float(worse.x_mean[VALUE]) == pytest.approx(float(good.x_mean[VALUE]), abs=0.01)
    assert float(worse.x_std[VALUE]) < 2 * float(good.x_std[VALUE])


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e3])
def test_a_candidate_feature_may_have_any_unit(unit: float) -> None:
    x = torch.rand(500, X)
    x[:, VALUE], x[:, ABSENT] = torch.randn(500) * unit, 0.0
    assert float(optional(x).x_std[VALUE]) == pytest.approx(unit, rel=0.2)
    # Most are alike: the quartiles say nothing, and the few others are not stretched.
    x[:, VALUE] = torch.where(torch.arange(500) < 50, unit, 0.0)
    assert float(optional(x).x_std[VALUE]) == pytest.approx(0.1 * unit, rel=0.01)


@pytest.mark.parametrize("known", [0, 500])
def test_a_candidate_feature_that_never_varied_says_nothing(known: int) -> None:
    x = torch.rand(500, X)
    x[:, ABSENT] = (torch.arange(500) >= known).float()
    x[:, VALUE] = 7.0 * (1 - x[:, ABSENT])
    fusion = optional(x)
    dots, met, statistics, of = sample(1)
    with torch.no_grad():
        met[:, VALUE], met[:, ABSENT] = 0.0, 1.0
        absent = fusion.logits(dots, met, statistics, of)
        met[:, VALUE], met[:, ABSENT] = 1000.0, 0.0
        large = fusion.logits(dots, met, statistics, of)
    torch.testing.assert_close(absent, large, rtol=0, atol=0.05)


def test_an_untrained_fusion_treats_every_request_alike() -> None:
    fusion = Fusion(X, R, H, gated=True, hidden=0)
    with torch.no_grad():
        found = fusion.coefficients(torch.randn(B, R))
    torch.testing.assert_close(found.scale, torch.full((B,), 10.0))
    torch.testing.assert_close(found.weights, torch.full((B, X), 0.1))
    assert (fusion.slope == 1).all()
    assert (fusion.shift == 0).all()
