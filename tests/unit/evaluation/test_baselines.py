"""Fitted baselines: what they choose by, what they find, and the switches that ablations use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import SCHEMA, arrays, batch, new_model, requests_of

from interactrank.features.batch import RequestArrays
from interactrank.metrics.ranking import mean, request_metrics
from interactrank.model.config import ModelConfig
from interactrank.model.layers import TowerBody
from interactrank.training.losses import LossConfig
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.evaluation.baselines import linear
from prerank.evaluation.baselines.samples import expected_mrr
from prerank.evaluation.baselines.simple import LastTouchedRanker
from prerank.evaluation.baselines.suite import BASELINES, DEFAULT, NEURAL

SMALL = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,))


def ragged(sizes: list[int], **changes: Any) -> RequestArrays:
    n = sum(sizes)
    base = replace(
        arrays(),
        offsets=np.concatenate(([0], np.cumsum(sizes))),
        candidates=np.arange(n),
        time=np.zeros(len(sizes), np.int64),
        labels=np.zeros(n, np.int64),
        log_q=np.zeros(n, np.float32),
        x=np.zeros((n, len(SCHEMA.cross)), np.float32),
    )
    return replace(base, **changes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_a_sampled_negative_counts_as_often_as_it_stands_for(seed: int) -> None:
    """Spelling each negative out 1 / Q times gives the plain metric of the whole catalogue."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, 4).tolist()
    labels = (rng.random(sum(sizes)) < 0.3).astype(np.int64)
    labels[0] = 1
    times = np.where(labels, 1, rng.integers(1, 5, sum(sizes)))
    scores = rng.integers(0, 4, sum(sizes)).astype(np.float64)
    sampled = ragged(sizes, labels=labels, log_q=-np.log(times).astype(np.float32))
    request = np.repeat(np.repeat(np.arange(4), sizes), times)
    offsets = np.concatenate(([0], np.cumsum(np.bincount(request, minlength=4))))
    spelt = request_metrics(np.repeat(scores, times), np.repeat(labels > 0, times), offsets)
    assert expected_mrr(scores, sampled) == pytest.approx(mean(spelt["mrr"]), abs=1e-5)


def test_what_was_touched_last_comes_first_then_the_retrievers_order() -> None:
    """In four requests: of this session, of an earlier one, without a history, not in the list."""
    source = ragged(
        [4, 4, 4, 4],
        time=np.full(4, 10 * SCHEMA.session_gap_us),
        candidates=np.tile([1, 2, 3, 4], 4),
        hist_items=np.array([4, 2, 3, 9]),
        hist_times=np.array([9, 9.5, 8, 10]) * SCHEMA.session_gap_us,
        hist_offsets=np.array([0, 2, 3, 3, 4]),
    )
    for name, values in (
        ("retriever:log_rank", np.log1p([0, 1, 2, 0])),
        ("retriever:inverse_rank", [1, 1 / 2, 1 / 3, 0]),  # the last one has no rank
    ):
        source.x[:, SCHEMA.cross.index(name)] = np.tile(values, 4)
    scores = LastTouchedRanker(SCHEMA).score(source, [""] * 4).reshape(4, 4)
    orders = (np.argsort(-scores, axis=1) + 1).tolist()
    assert orders == [[2, 1, 3, 4], *[[1, 2, 3, 4]] * 3]


def test_nothing_to_measure_is_nan() -> None:
    assert np.isnan(expected_mrr(np.ones(3), ragged([3])))
    assert np.isnan(expected_mrr(np.zeros(0), ragged([])))


def test_the_linear_model_finds_the_column_that_decides() -> None:
    rng = np.random.default_rng(0)
    sizes, n = [6] * 80, 480
    x = rng.random((n, len(SCHEMA.cross))).astype(np.float32)
    best = x[:, 5].reshape(80, 6).argmax(1) + 6 * np.arange(80)
    labels = np.zeros(n, np.int64)
    labels[best] = 1
    train = ragged(sizes, x=x, labels=labels)
    std = x.std(0)
    found = linear.solve(train, std, 0.5, 1e-3)
    assert np.abs(found).argmax() == 5
    assert found[5] > 0
    fresh = rng.random((n, len(SCHEMA.cross))).astype(np.float32)
    at = fresh[:, 5].reshape(80, 6).argmax(1) + 6 * np.arange(80)
    marks = np.zeros(n, np.int64)
    marks[at] = 1
    assert expected_mrr(fresh @ (found / std), ragged(sizes, x=fresh, labels=marks)) > 0.75


def test_log_q_moves_the_linear_model_only_where_candidates_were_sampled() -> None:
    source = arrays()
    std = np.ones(len(SCHEMA.cross), np.float32)
    shown = replace(source, log_q=source.log_q * 0)
    half, whole = (linear.solve(shown, std, p, 1e-2) for p in (0.5, 1.0))
    assert np.array_equal(half, whole)
    sampled = replace(source, log_q=source.log_q * 5)
    half, whole = (linear.solve(sampled, std, p, 1e-2) for p in (0.5, 1.0))
    assert not np.allclose(half, whole, atol=1e-3)


@pytest.mark.parametrize("blocks", [0, 2])
def test_a_tower_body_tells_all_its_layers(blocks: int) -> None:
    torch.manual_seed(0)
    config = ModelConfig(mask_blocks=blocks, mask_width=6, hidden=(7, 5))
    body = TowerBody(10, 4, config).eval()
    v = torch.randn(3, 10)
    layers = body.layers(v)
    assert [layer.shape[1] for layer in layers] == list(body.widths)
    assert body.widths == ((12,) if blocks else ()) + (7, 5, 4)
    assert torch.equal(layers[-1], body(v))
    assert len(body.blocks) == blocks


@pytest.mark.parametrize("part", ["pooling", "attention", "time_encoding"])
def test_a_part_of_the_sequence_that_is_off_does_nothing(part: str) -> None:
    moved = {
        "pooling": lambda s: s.position_weight,
        "attention": lambda s: s.query.weight,
        "time_encoding": lambda s: s.time.weight,
    }[part]
    with torch.no_grad():
        for on in (True, False):
            changes: dict[str, Any] = {part: on}
            model = new_model(replace(SMALL, **changes))
            before = model(batch(arrays())).queries
            moved(model.query_tower.sequence).add_(
                torch.randn(moved(model.query_tower.sequence).shape)
            )
            after = model(batch(arrays())).queries
            assert torch.equal(before, after) != on, part


def test_history_without_a_way_to_read_it_is_refused() -> None:
    with pytest.raises(ValueError, match="history: false"):
        ModelConfig(pooling=False, attention=False)
    ModelConfig(pooling=False, attention=False, history=False)


def test_without_its_correction_the_in_batch_softmax_is_another_loss() -> None:
    losses = []
    for corrected in (True, False):
        config = TrainConfig(loss=LossConfig(softmax_log_q=corrected, pointwise=0, listwise=0))
        trainer = Trainer(new_model(replace(SMALL, dropout=0.0, id_dropout=0.0)), config, 10)
        with torch.no_grad():
            # Items of the second batch alone stand in half of the batches, those of both in all.
            trainer.loss(batch(requests_of(arrays(), [0])))
            losses.append(float(trainer.loss(batch(arrays()))))
    assert losses[0] != losses[1]


def test_every_neural_rival_has_the_jobs_sizes_and_budget() -> None:
    train = TrainConfig(epochs=3, seed=11)
    for name, baseline in NEURAL.items():
        model, own = baseline.configs(SMALL, train)
        assert (model.width, model.hidden, own.epochs, own.seed) == (8, (16,), 3, 11), name
        assert not model.cross
    assert set(DEFAULT) <= set(BASELINES)
