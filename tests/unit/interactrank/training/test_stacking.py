"""Stacking recovers what was planted, and no request is measured by what saw it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.samples import SHIPPED, arrays, batch, new_model
from torch import Tensor

from interactrank.model.fusion import Fusion
from interactrank.training import stacking
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import (
    EVIDENCE,
    FOLD_BATCHES,
    FOLD_ITERATIONS,
    HeldOut,
    auxiliary_requests,
    cross_fitted,
    fitted_on,
    fusion_loss,
    hold_out,
    measure,
    refit,
)

X, R, SHOWN = 4, 2, 8
CONFIG = LossConfig(head_weights=(1.0,))
CHANCE = float(np.mean(1 / np.arange(1, SHOWN + 1)))


def held_out(
    seed: int, truth: Callable[[HeldOut], Tensor], crosses: int = X, requests: int = 60
) -> HeldOut:
    """Noise in which the candidate of each request that ``truth`` [N] puts first was engaged."""
    rng = torch.Generator().manual_seed(seed)
    n = requests * SHOWN
    made = HeldOut(
        dots=torch.rand(n, 1, generator=rng) * 2 - 1,
        x=torch.randn(n, crosses, generator=rng),
        statistics=torch.randn(requests, R, generator=rng),
        labels=torch.zeros(n, 1),
        weights=torch.ones(n),
        log_q=torch.zeros(n),
        teacher=torch.full((n,), torch.nan),
        request=torch.arange(requests).repeat_interleave(SHOWN),
        requests=requests,
    )
    best = truth(made).view(requests, SHOWN).argmax(1)
    made.labels[torch.arange(requests) * SHOWN + best] = 1
    return made


def by_cross(held: HeldOut) -> Tensor:
    return held.x[:, 1]


def by_dot(held: HeldOut) -> Tensor:
    return held.dots[:, 0] + 0.1 * held.x[:, 0]


def by_nothing(held: HeldOut) -> Tensor:
    return torch.rand(len(held.x), generator=torch.Generator().manual_seed(int(held.requests)))


def new_fusion(crosses: int = X, gated: bool = True) -> Fusion:
    torch.manual_seed(0)
    return Fusion(crosses, R, 1, gated, 0)


def mrr(fusion: Fusion, held: list[HeldOut]) -> float:
    return float(np.concatenate(measure(fusion, held)).mean())


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- Refit --------------------------------------------------------------------------------------


def test_where_the_dot_is_noise_its_scale_falls_and_the_cross_feature_decides() -> None:
    fusion = new_fusion(gated=False)
    before = float(fusion.coefficients(torch.zeros(1, R)).scale.detach())
    refit(fusion, [held_out(s, by_cross) for s in range(3)], CONFIG)
    fresh = [held_out(s, by_cross) for s in range(10, 13)]
    found = fusion.coefficients(torch.zeros(1, R))
    assert float(found.scale.detach()) < before / 10
    weights = found.weights[0].detach()
    assert weights.argmax() == 1
    assert weights[1] > 10 * weights[[0, 2, 3]].abs().max()
    assert mrr(fusion, fresh) > 0.95


def test_few_requests_do_not_leave_a_dot_of_noise_its_scale() -> None:
    """As training leaves it: large, of requests that the towers knew by heart."""
    fusion = new_fusion()
    refit(fusion, [held_out(1, by_cross, requests=12)], CONFIG, FOLD_ITERATIONS)
    assert float(fusion.coefficients(torch.zeros(1, R)).scale.detach()) < 1.5
    assert mrr(fusion, [held_out(s, by_cross) for s in range(10, 13)]) > 0.9


def test_where_the_dot_decides_it_goes_on_doing_so() -> None:
    fusion = new_fusion()
    refit(fusion, [held_out(s, by_dot) for s in range(3)], CONFIG)
    assert mrr(fusion, [held_out(s, by_dot) for s in range(10, 13)]) > 0.9


def test_a_gated_fusion_finds_what_the_request_decides() -> None:
    def truth(held: HeldOut) -> Tensor:
        first = held.statistics[held.request, 0] > 0
        return torch.where(first, held.x[:, 0], held.x[:, 1])

    fitted = [held_out(s, truth, requests=2_000) for s in range(5)]
    fresh = [held_out(s, truth) for s in range(10, 13)]
    reached = {}
    for gated in (True, False):
        fusion = new_fusion(gated=gated)
        refit(fusion, fitted, CONFIG)
        reached[gated] = mrr(fusion, fresh)
    assert reached[True] > reached[False] + 0.05


def noisily_by_cross(held: HeldOut) -> Tensor:
    """Four of the columns say something, with as much noise."""
    rng = torch.Generator().manual_seed(int(held.x[0, 0].view(torch.int32)) & 0xFFFF)
    return held.x[:, :4].sum(1) + 2 * torch.randn(len(held.x), generator=rng)


def test_few_requests_teach_about_what_weights_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one set of weights is all there is to learn, gates and hidden units do no harm."""
    fresh = [held_out(s, noisily_by_cross, WIDE) for s in range(100, 120)]

    def reached(evidence: int, gated: bool, hidden: int) -> float:
        monkeypatch.setattr(stacking, "EVIDENCE", evidence)
        found = []
        for seed in range(3):
            fusion = Fusion(WIDE, R, 1, gated, hidden)
            refit(fusion, [held_out(seed, noisily_by_cross, WIDE, requests=300)], CONFIG)
            found.append(mrr(fusion, fresh))
        return float(np.mean(found))

    whole = reached(EVIDENCE, True, 16)
    assert whole > reached(0, False, 0) - 0.01
    assert whole > reached(0, True, 16) + 0.02


def test_a_request_counts_the_same_in_a_small_batch() -> None:
    whole = held_out(1, by_cross, requests=20)
    fusion = new_fusion()
    with torch.no_grad():
        together = fusion_loss(fusion, [whole], CONFIG)
        apart = fusion_loss(fusion, [part_of(whole, 0, 3), part_of(whole, 3, 20)], CONFIG)
    assert float(apart) == pytest.approx(float(together), rel=1e-5)


def part_of(held: HeldOut, low: int, high: int) -> HeldOut:
    """Requests ``low`` to ``high`` - 1 of a batch."""
    rows = slice(low * SHOWN, high * SHOWN)
    parts = {
        name: getattr(held, name)[rows] for name in ("dots", "x", "labels", "weights", "log_q")
    }
    return replace(
        held,
        **parts,
        statistics=held.statistics[low:high],
        request=held.request[rows] - low,
        requests=high - low,
    )


def test_anchors_leave_out_the_dot_and_nothing_else() -> None:
    model, source = new_model(SHIPPED), batch(arrays())
    (held,), (auxiliary,) = (
        hold_out(model, [source]),
        auxiliary_requests([source], torch.device("cpu")),
    )
    assert held.dots.any()
    assert torch.equal(auxiliary.dots, torch.zeros_like(held.dots))
    for f in dataclasses.fields(HeldOut):
        if f.name != "dots":
            np.testing.assert_array_equal(getattr(auxiliary, f.name), getattr(held, f.name), f.name)


def test_requests_beside_teach_the_weights_and_not_the_trust_in_the_dot() -> None:
    """The towers know the training requests' answers by heart; of others they know nothing."""
    few = [held_out(1, by_cross, requests=6)]
    learned = [replace(h, dots=2 * h.labels - 1) for h in (held_out(s, by_cross) for s in (20, 21))]
    auxiliary = [replace(h, dots=torch.zeros_like(h.dots)) for h in learned]
    fresh = [held_out(s, by_cross) for s in range(10, 13)]
    reached = []
    for chosen in (few, [*few, *learned], [*few, *auxiliary]):
        fusion = new_fusion()
        refit(fusion, chosen, CONFIG)
        reached.append(mrr(fusion, fresh))
    assert reached[2] > max(reached[:2]) + 0.02


def test_only_the_fusions_parameters_move() -> None:
    model = new_model(SHIPPED)
    config = LossConfig(head_weights=(1.0, 1.0))
    before = state(model)
    refit(model.fusion, hold_out(model, [batch(arrays(s)) for s in range(3)]), config)
    moved = {k for k, v in state(model).items() if not torch.equal(v, before[k])}
    fitted = {f"fusion.{k}" for k, _ in model.fusion.named_parameters()}
    assert moved == fitted
    assert all(p.grad is None for p in model.query_tower.parameters())


def test_held_out_batches_hold_what_the_fusion_needs() -> None:
    model, source = new_model(SHIPPED).train(), batch(arrays())
    (held,) = hold_out(model, [source])
    assert not model.training
    with torch.no_grad():
        logits = model.fusion.logits(held.dots, held.x, held.statistics, held.request)
        assert torch.equal(logits, model(source).logits)
    assert (held.requests, held.dots.requires_grad) == (5, False)


@pytest.mark.parametrize(("sign", "learned"), [(1, True), (-1, False)])
def test_what_contradicts_a_sign_is_not_learned(sign: int, learned: bool) -> None:
    signs = tuple(sign if column == 1 else 0 for column in range(X))
    fusion = Fusion(X, R, 1, True, 0, signs=signs)
    refit(fusion, [held_out(seed, by_cross) for seed in range(3)], CONFIG)
    weights = fusion.fixed_weights().detach()
    assert (weights[1] > 1) == learned
    assert learned or weights[1] == 0


def test_a_fit_that_diverges_is_undone() -> None:
    fusion = new_fusion()
    before = state(fusion)
    broken = held_out(0, by_cross)
    broken.x[3, 2] = torch.inf
    refit(fusion, [broken], CONFIG)
    assert same(state(fusion), before)


def test_sampled_candidates_are_corrected_as_in_training() -> None:
    """With log Q as a planted shift of the logits, only the corrected loss is at its least."""
    held, fusion, listwise = (
        held_out(0, by_cross),
        new_fusion(gated=False),
        replace(CONFIG, pointwise=0.0),
    )
    with torch.no_grad():
        fusion.weight.zero_()
        scale = fusion.coefficients(torch.zeros(1, R)).scale
        good = 3 * by_cross(held).unsqueeze(1)
        log_q = -torch.rand(len(held.x), generator=torch.Generator().manual_seed(1)) * 5
        shifted = replace(held, dots=(good + log_q.unsqueeze(1)) / scale, log_q=log_q)
        losses = {
            power: float(fusion_loss(fusion, [shifted], replace(listwise, log_q_power=power)))
            for power in (0.0, 0.5, 1.0, 1.5)
        }
        plain = replace(held, dots=good / scale)
        assert losses[1.0] == pytest.approx(float(fusion_loss(fusion, [plain], listwise)), rel=1e-4)
    assert min(losses, key=losses.__getitem__) == 1.0
    assert min(losses[0.5], losses[1.5]) > losses[1.0] + 0.05


def test_a_sampled_negative_stands_for_as_many_as_it_was_drawn_from() -> None:
    """Pointwise, a candidate drawn with probability Q counts 1 / Q times."""
    held, fusion = held_out(0, by_cross), new_fusion()
    copies = torch.randint(1, 5, (len(held.x),), generator=torch.Generator().manual_seed(2))
    pointwise = replace(CONFIG, listwise=0.0, log_q_power=1.0)
    sampled = replace(held, log_q=-copies.float().log())
    every = torch.arange(len(held.x)).repeat_interleave(copies)
    spelt = replace(
        held,
        **{
            n: getattr(held, n)[every]
            for n in ("dots", "x", "labels", "weights", "log_q", "request")
        },
    )
    with torch.no_grad():
        found, expected = (float(fusion_loss(fusion, [h], pointwise)) for h in (sampled, spelt))
    assert found == pytest.approx(expected, rel=1e-5)


# ---- Cross-fitting ------------------------------------------------------------------------------

WIDE = 200
"""Cross features, more than enough to memorise 40 requests."""


def memorisable(batches: int) -> list[HeldOut]:
    return [held_out(s, by_nothing, WIDE, requests=10) for s in range(batches)]


def test_no_request_is_measured_with_a_fusion_that_saw_it() -> None:
    held, fusion = memorisable(4), new_fusion(WIDE)
    before = state(fusion)
    loss, ranks = cross_fitted(fusion, held, CONFIG)
    assert same(state(fusion), before)
    refit(fusion, held, CONFIG)
    assert mrr(fusion, held) > 0.95, "the labels can be memorised"
    assert ranks < CHANCE + 0.15
    with torch.no_grad():
        assert loss > 5 * float(fusion_loss(fusion, held, CONFIG))


def test_cross_fitting_is_fitting_on_one_half_and_measuring_the_other() -> None:
    held = [held_out(s, by_cross, requests=10 + s) for s in range(5)]
    expected: list[np.ndarray] = []
    for fitted, measured in ((held[1::2], held[::2]), (held[::2], held[1::2])):
        fusion = new_fusion()
        refit(fusion, fitted, CONFIG, FOLD_ITERATIONS)
        expected += measure(fusion, measured)
    _, found = cross_fitted(new_fusion(), held, CONFIG)
    assert found == pytest.approx(np.concatenate(expected).mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("held", "auxiliary", "taken"),
    [
        (2, 3, [0, 1, 2, 3, 4]),  # all, where they are few
        (2, 8, [0, 1, 2, 4, 7, 9]),
        (5, 3, [0, 2, 4, 5, 6, 7]),
        (7, 9, [0, 3, 6, 7, 11, 15]),
        (0, 1, [0]),
    ],
)
def test_a_fit_takes_few_batches_from_all_over(
    held: int, auxiliary: int, taken: Sequence[int]
) -> None:
    given = memorisable(held + auxiliary)
    found = fitted_on(given[:held], given[held:], 6)
    assert [id(h) for h in found] == [id(given[i]) for i in taken]


def test_of_many_batches_all_are_measured_though_a_fit_takes_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, fitted = memorisable(2 * FOLD_BATCHES), []
    monkeypatch.setattr(stacking, "refit", lambda _, own, *rest: fitted.append(len(own)))
    _, found = cross_fitted(new_fusion(WIDE), held, CONFIG)
    assert fitted == [FOLD_BATCHES // 2] * 2
    assert found == pytest.approx(mrr(new_fusion(WIDE), held))


def test_without_stacking_the_fusion_is_measured_as_it_is() -> None:
    held, fusion = memorisable(3), new_fusion(WIDE)
    _, found = cross_fitted(fusion, held, CONFIG, stacking=False)
    assert found == pytest.approx(mrr(fusion, held))
    # With one batch there is no other to fit on.
    _, alone = cross_fitted(fusion, held[:1], CONFIG)
    assert alone == pytest.approx(mrr(fusion, held[:1]))
    assert np.isnan(cross_fitted(fusion, [], CONFIG)).all()
