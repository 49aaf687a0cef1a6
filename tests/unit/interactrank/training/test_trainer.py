"""The training loop finds a planted signal, repeats itself, resumes, and survives odd batches."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.planted import (
    CHANCE,
    FAST,
    NAMED,
    NAMELESS,
    SCHEMA,
    SHOWN,
    SMALL,
    batch,
    parameters,
    same,
)

from interactrank.features.catalogue import Catalogue
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.training.losses import LossConfig
from interactrank.training.trainer import TrainConfig, Trainer, fit_statistics, mark_trained


def trainer(
    config: ModelConfig = SMALL,
    train: TrainConfig = FAST,
    of: Catalogue = NAMED,
    seed: int = 0,
    steps: int = 90,
) -> Trainer:
    torch.manual_seed(seed)
    return Trainer(InteractRank(config, SCHEMA, of), train, steps)


TOWERS = replace(SMALL, cross=False, history=False)
LINEAR = replace(SMALL, history=False, fusion_hidden=0)


@pytest.mark.parametrize(
    ("signal", "config", "of", "at_least"),
    [
        ("cross", LINEAR, NAMED, 0.8),
        ("cross", replace(LINEAR, fusion_hidden=4), NAMED, 0.8),
        ("text", TOWERS, NAMED, 0.8),
        ("item", TOWERS, NAMELESS, 0.8),
    ],
)
def test_a_planted_signal_is_found(
    signal: str, config: ModelConfig, of: Catalogue, at_least: float
) -> None:
    train = [batch(s, signal, of) for s in range(30)]
    held_out = [batch(s, signal, of) for s in range(1000, 1005)]
    one = trainer(config, of=of)
    fit_statistics(one.model, train)
    before = one.validate(held_out)[1]
    reports = [one.epoch(e, train, held_out) for e in range(3)]
    assert before < 0.7
    assert reports[-1].validation_mrr >= at_least
    assert reports[-1].train_loss < reports[0].train_loss
    assert [r.steps for r in reports] == [30, 30, 30]


def test_where_there_is_no_signal_none_is_found() -> None:
    train = [batch(s, "noise") for s in range(15)]
    held_out = [batch(s, "noise") for s in range(1000, 1020)]
    one = trainer()
    fit_statistics(one.model, train)
    mrr = [one.epoch(e, train, held_out).validation_mrr for e in range(2)]
    # 800 held-out requests: standard error about 0.01.
    assert mrr[-1] == pytest.approx(CHANCE, abs=0.05)


def test_the_same_seed_gives_the_same_model() -> None:
    train = [batch(s, "cross") for s in range(5)]

    def trained(seed: int) -> list[torch.Tensor]:
        one = trainer(seed=seed)
        fit_statistics(one.model, train)
        one.epoch(0, train, [])
        return parameters(one)

    assert same(trained(1), trained(1))
    assert not same(trained(1), trained(2))


NOISY = replace(SMALL, dropout=0.2, id_dropout=0.2)


@pytest.mark.parametrize("on_disk", [True, False])
def test_resuming_equals_going_on(on_disk: bool) -> None:
    train = [batch(s, "text") for s in range(8)]
    whole = trainer(NOISY, steps=16)
    fit_statistics(whole.model, train)
    whole.epoch(0, train, [])
    state = copy.deepcopy(whole.state())
    if on_disk:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    whole.epoch(1, train, [])
    resumed = trainer(NOISY, seed=99, steps=16)
    resumed.load_state(state)
    resumed.epoch(1, train, [])
    assert same(parameters(whole), parameters(resumed))
    assert torch.equal(whole.frequency.seen, resumed.frequency.seen)
    assert whole.frequency.batches == resumed.frequency.batches == 16
    assert whole.schedule.get_last_lr() == resumed.schedule.get_last_lr()


def test_validation_changes_nothing() -> None:
    one = trainer()
    one.step(batch(0, "text"))
    before, seen = parameters(one), one.frequency.seen.clone()
    first, second = one.validate([batch(1, "text")]), one.validate([batch(1, "text")])
    assert first == second
    assert same(before, parameters(one))
    assert torch.equal(seen, one.frequency.seen)


def test_validation_ranks_by_the_first_head() -> None:
    one = trainer(LINEAR)
    one.model.fusion.raw_scale.data.fill_(-20.0)
    weight = one.model.fusion.weight
    weight.data.zero_()
    weight.data[4] = 1.0
    assert one.validate([batch(0, "cross")])[1] == 1.0
    weight.data[4] = -1.0
    assert one.validate([batch(0, "cross")])[1] == pytest.approx(1 / SHOWN)


def test_a_batch_without_a_positive_does_not_break_the_next() -> None:
    one = trainer()
    assert math.isfinite(one.step(batch(0, "none")))
    assert not one.model.trained.any()
    assert math.isfinite(one.step(batch(1, "text")))
    assert all(p.isfinite().all() for p in one.model.parameters())


def test_no_batches_are_an_empty_epoch() -> None:
    report = trainer().epoch(0, [], [])
    assert report.steps == 0
    assert math.isnan(report.train_loss)
    assert math.isnan(report.validation_mrr)


def test_validation_without_a_positive_has_no_mrr() -> None:
    loss, mrr = trainer().validate([batch(0, "none")])
    assert math.isfinite(loss)
    assert math.isnan(mrr)


def test_huge_gradients_are_clipped() -> None:
    one = trainer(LINEAR, replace(FAST, loss=LossConfig(pointwise=1e12), clip_norm=0.5))
    outrageous = batch(0, "cross")
    outrageous = outrageous.replace(x=outrageous.x * 1e6)
    for _ in range(3):
        assert math.isfinite(one.step(outrageous))
        norms = [p.grad.norm() for p in one.model.parameters() if p.grad is not None]
        assert float(torch.stack(norms).norm()) <= 0.5 * 1.001
    assert all(p.isfinite().all() for p in one.model.parameters())


def test_only_engaged_items_become_known() -> None:
    one, data = trainer(), batch(0, "text")
    mark_trained(one.model, data)
    engaged = data.items["rows"][data.candidate_item[data.labels[:, 0] > 0]]
    assert one.model.trained.nonzero().flatten().tolist() == sorted(set(engaged.tolist()))
    unseen = data.replace(items={**data.items, "rows": torch.zeros_like(data.items["rows"])})
    mark_trained(one.model, unseen)
    assert not one.model.trained[0]


def test_statistics_come_from_the_batches() -> None:
    train = [batch(s, "cross") for s in range(3)]
    train = [b.replace(x=torch.cat((b.x[:, :1] * 0 + 7, b.x[:, 1:]), 1)) for b in train]
    one = trainer(LINEAR)
    fit_statistics(one.model, train)
    x = torch.cat([b.x for b in train])
    fusion = one.model.fusion
    torch.testing.assert_close(fusion.x_mean[1:], x.mean(0)[1:])
    torch.testing.assert_close(fusion.x_std[1:], x.std(0, unbiased=False)[1:])
    # A column that never varied has no say, whatever it does later.
    surprised = torch.cat((x[:, :1] + 50, x[:, 1:]), 1)
    of = torch.zeros(len(x), dtype=torch.int64)
    coefficients = fusion.coefficients(train[0].request[:1])
    found, expected = (fusion.cross_score(v, coefficients, of) for v in (surprised, x))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_constant_item_statistic_does_not_drown_the_others() -> None:
    rng = np.random.default_rng(0)
    numeric = np.stack((np.full(997, 2011.7), rng.random(997)), 1).astype(np.float32)
    of = Catalogue.build(np.arange(997), [""] * 997, [""] * 997, numeric, np.zeros(997, np.int64))
    wide = InteractRank(SMALL, SCHEMA, of).item_tower.numeric
    assert wide(torch.from_numpy(numeric))[:, 0].abs().max() < 1


def test_the_schedule_warms_up_then_decays() -> None:
    one = trainer(train=replace(FAST, warmup_steps=4), steps=12)
    rates = []
    for s in range(12):
        rates.append(one.schedule.get_last_lr())
        one.step(batch(s, "cross", requests=3))
    towers, fusion = (np.array(r) for r in zip(*rates, strict=True))
    assert (np.diff(towers[:4]) > 0).all()
    assert towers.max() == pytest.approx(FAST.learning_rate)
    assert (np.diff(towers[4:]) < 0).all()
    assert towers.min() > 0
    np.testing.assert_allclose(fusion / towers, FAST.fusion_learning_rate / FAST.learning_rate)
