"""Metrics against trec_eval, against brute force over tie orders, and against their invariances."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from interactrank.metrics import ranking as metrics
from interactrank.metrics.ranking import (
    METRICS,
    MetricError,
    bootstrap_ci,
    expected_calibration_error,
    paired_test,
    reachable_ceiling,
    request_metrics,
    summarise,
)

Ragged = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]


def one(
    scores: list[float], labels: list[int], unreachable: int = 0
) -> dict[str, float]:  # a single request
    found = request_metrics(
        np.array(scores, np.float64),
        np.array(labels, np.int8),
        np.array([0, len(scores)]),
        np.array([unreachable]),
    )
    return {name: float(values[0]) for name, values in found.items()}


def ragged(seed: int, requests: int = 200, ties: bool = False) -> Ragged:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 60, requests)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n = int(offsets[-1])
    scores = rng.integers(0, 6, n).astype(float) if ties else rng.permutation(n).astype(float)
    labels = rng.random(n) < rng.choice([0.02, 0.1, 0.6])
    return scores, labels, offsets, rng.integers(0, 3, requests)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_equals_trec_eval_where_nothing_ties(seed: int, dtype: type) -> None:
    scores, labels, offsets, unreachable = ragged(seed)
    ours = request_metrics(scores.astype(dtype), labels, offsets, unreachable)
    run: dict[str, dict[str, float]] = {}
    truth: dict[str, dict[str, int]] = {}
    for r, (low, high) in enumerate(itertools.pairwise(offsets)):
        run[str(r)] = {f"d{i}": float(scores[i]) for i in range(low, high)}
        truth[str(r)] = {f"d{i}": int(labels[i]) for i in range(low, high)}
        truth[str(r)] |= {f"missing{i}": 1 for i in range(unreachable[r])}
    wanted = {"ndcg_cut.10", "recip_rank", "success.1,3,10"}
    theirs = pytrec_eval.RelevanceEvaluator(truth, wanted).evaluate(run)
    names = {
        "hits@1": "success_1",
        "hits@3": "success_3",
        "hits@10": "success_10",
        "mrr": "recip_rank",
        "ndcg@10": "ndcg_cut_10",
    }
    compared = 0
    for r in range(len(offsets) - 1):
        if not any(truth[str(r)].values()):
            assert all(math.isnan(values[r]) for values in ours.values())
            continue
        # trec_eval answers nothing for an empty ranking: everything was missed.
        answer = theirs.get(str(r), dict.fromkeys(names.values(), 0.0))
        for name, theirname in names.items():
            assert ours[name][r] == pytest.approx(answer[theirname], abs=1e-9), (r, name)
        compared += 1
    assert compared > 100


def brute_force(scores: list[float], labels: list[int], unreachable: int) -> dict[str, float]:
    """Expectation over every order of the candidates that respects the scores."""
    n, wanted = len(scores), sum(labels) + unreachable
    cut = math.ceil(n / 10)
    totals = {"ndcg@10": 0.0, "auc": 0.0, "recall@cut": 0.0}
    orders = [
        order
        for order in itertools.permutations(range(n))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    for order in orders:
        ranked = [labels[i] for i in order]
        dcg = sum(y / math.log2(p + 2) for p, y in enumerate(ranked[:10]))
        totals["ndcg@10"] += dcg / sum(1 / math.log2(p + 2) for p in range(min(wanted, 10)))
        totals["recall@cut"] += sum(ranked[:cut]) / wanted
        right = sum(a > b for a, b in itertools.combinations(ranked, 2))
        negatives = n - sum(labels)
        totals["auc"] += right / (wanted * negatives) if negatives else math.nan
    return {name: total / len(orders) for name, total in totals.items()}


@pytest.mark.parametrize("seed", range(40))
def test_ties_are_the_expectation_over_their_orders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    scores = rng.integers(0, 3, n).astype(float).tolist()
    labels = (rng.random(n) < 0.5).astype(int).tolist()
    unreachable = int(rng.integers(0, 3)) or (0 if any(labels) else 1)
    found = one(scores, labels, unreachable)
    for name, expected in brute_force(scores, labels, unreachable).items():
        assert found[name] == pytest.approx(expected, nan_ok=True), name


@pytest.mark.parametrize("seed", range(3))
def test_hits_and_mrr_use_the_mean_rank_of_ties(seed: int) -> None:
    scores, labels, offsets, unreachable = ragged(seed, ties=True)
    found = request_metrics(scores, labels, offsets, unreachable)
    for r, (low, high) in enumerate(itertools.pairwise(offsets)):
        s, y = scores[low:high], labels[low:high]
        ranks = [1 + (s > v).sum() + ((s == v).sum() - 1) / 2 for v in s[y]]
        if not ranks:
            continue
        assert found["mrr"][r] == pytest.approx(1 / min(ranks))
        for k in (1, 3, 10):
            assert found[f"hits@{k}"][r] == (min(ranks) <= k)


def test_a_constant_scorer_earns_chance() -> None:
    found = one([0.5] * 40, [1] * 4 + [0] * 36)
    assert found["auc"] == 0.5
    assert found["recall@cut"] == pytest.approx(0.1)
    assert found["hits@10"] == 0
    assert found["mrr"] == pytest.approx(1 / 20.5)


def test_no_metric_exceeds_one_when_many_positives_tie() -> None:
    found = one([1.0] * 19 + [0.0], [1] * 19 + [0])
    assert found["ndcg@10"] == pytest.approx(1.0)
    assert max(found.values()) <= 1.0 + 1e-12


def test_unreachable_positives_are_misses() -> None:
    reached, half = one([3, 2, 1], [1, 0, 0]), one([3, 2, 1], [1, 0, 0], unreachable=1)
    assert set(reached.values()) == {1.0}
    assert half["hits@1"] == half["mrr"] == 1.0
    assert half["auc"] == half["recall@cut"] == 0.5
    assert half["ndcg@10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert set(one([3, 2, 1], [0, 0, 0], unreachable=2).values()) == {0.0}


def test_ceiling_is_the_perfect_order() -> None:
    _, labels, offsets, unreachable = ragged(5)
    ceiling = reachable_ceiling(labels, offsets, unreachable)
    reached = np.add.reduceat(np.append(labels, 0), offsets[:-1]) * (np.diff(offsets) > 0)
    wanted = reached + unreachable > 0
    for name in ("hits@1", "hits@3", "hits@10", "mrr"):
        np.testing.assert_array_equal(ceiling[name][wanted], reached[wanted] > 0)
    assert np.nanmax(ceiling["ndcg@10"]) <= 1 + 1e-12
    anything = request_metrics(*ragged(5))
    assert all(
        (anything[name][wanted] <= ceiling[name][wanted] + 1e-12).all()
        for name in ("ndcg@10", "recall@cut")
    )


def test_requests_with_nothing_to_find_are_nan() -> None:
    assert all(math.isnan(v) for v in one([3, 2], [0, 0]).values())
    assert all(math.isnan(v) for v in one([], []).values())
    all_positive = one([3, 2], [1, 1])
    assert math.isnan(all_positive.pop("auc"))
    assert not any(math.isnan(v) for v in all_positive.values())
    missed = one([], [], unreachable=1)
    assert math.isnan(missed.pop("auc"))
    assert set(missed.values()) == {0.0}


def test_infinite_scores_have_an_order() -> None:
    assert one([math.inf, 0, -math.inf], [0, 1, 0])["mrr"] == 0.5
    assert one([1, -math.inf, -math.inf], [0, 1, 0])["auc"] == 0.25


NAN_OF = {
    True: r"request 0 has a NaN score \(candidates 0 to 2\)",
    False: r"request 2 has a NaN score \(candidates 2 to 5\)",
}


@pytest.mark.parametrize("broken", [1, 3, 4])
@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1]])
def test_nan_scores_name_their_request(broken: int, labels: list[int]) -> None:
    scores = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    scores[broken] = math.nan
    with pytest.raises(MetricError, match=NAN_OF[broken < 2]):
        request_metrics(scores, np.array(labels, bool), np.array([0, 2, 2, 5]))


@pytest.mark.parametrize(
    ("offsets", "unreachable", "message"),
    [
        ([0, 2], None, "offsets must"),
        ([1, 3], None, "offsets must"),
        ([], None, "offsets must"),
        ([0, 2, 1, 3], None, "offsets fall after request 1"),
        ([0, 2**62, -(2**62), 3], None, "offsets fall after request 1"),
        ([0, 3], [1, 1], "unreachable"),
        ([0, 3], [-1], "unreachable"),
    ],
)
def test_misfits_are_named(offsets: list[int], unreachable: list[int] | None, message: str) -> None:
    missed = None if unreachable is None else np.array(unreachable)
    with pytest.raises(MetricError, match=message):
        request_metrics(np.zeros(3), np.ones(3, bool), np.array(offsets, np.int64), missed)
    with pytest.raises(MetricError, match="labels"):
        request_metrics(np.zeros(3), np.ones(2, bool), np.array([0, 3]))


REQUEST = st.lists(st.tuples(st.integers(-8, 8), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(REQUEST, st.integers(0, 2), st.randoms(use_true_random=False))
def test_only_the_order_of_scores_counts(
    pairs: list[tuple[int, bool]], missed: int, rng: random.Random
) -> None:
    scores, labels = [float(s) for s, _ in pairs], [int(y) for _, y in pairs]
    expected = one(scores, labels, missed)
    shuffled = rng.sample(pairs, len(pairs))
    for got in (
        one([math.exp(s / 3) - 5 for s in scores], labels, missed),
        one([float(s) for s, _ in shuffled], [int(y) for _, y in shuffled], missed),
    ):
        assert got == pytest.approx(expected, nan_ok=True, rel=1e-12)
    assert all(math.isnan(v) or -1e-12 <= v <= 1 + 1e-12 for v in expected.values())


def test_bootstrap_interval_covers_and_ignores_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 4000)
    low, high = bootstrap_ci(values, seed=1)
    standard_error = values.std() / math.sqrt(len(values))
    assert (high - low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.1)
    assert low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.15 * standard_error)
    assert high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.15 * standard_error)
    assert bootstrap_ci(values) == bootstrap_ci(values, n=1000, seed=0, level=0.95)
    holes = np.insert(values, [0, 7, 4000], np.nan)
    assert bootstrap_ci(holes, seed=1) == (low, high)
    narrow = bootstrap_ci(values, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    # The memory bound cuts the resamples into chunks; whole or cut, none is lost.
    monkeypatch.setattr(metrics, "_CHUNK_VALUES", 30_000)
    assert bootstrap_ci(values, seed=1) == pytest.approx((low, high), abs=standard_error / 4)
    assert all(math.isnan(v) for v in bootstrap_ci(np.full(3, np.nan)))
    assert bootstrap_ci(np.array([0.25])) == (0.25, 0.25)


def test_paired_test_sees_a_difference_and_no_difference() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(3000)
    better = paired_test(base + 0.02 + rng.normal(0, 0.05, 3000), base)
    assert better.p_value == pytest.approx(1 / 2001)
    assert 0 < better.ci[0] < better.mean_difference < better.ci[1]
    same = paired_test(base, base)
    assert (same.mean_difference, same.ci, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    empty = paired_test(np.array([math.nan]), np.array([math.nan]))
    assert math.isnan(empty.p_value)
    with pytest.raises(MetricError, match="same requests"):
        paired_test(np.array([math.nan, 1.0]), np.array([1.0, 1.0]))


def test_paired_p_values_are_uniform_without_an_effect() -> None:
    rng = np.random.default_rng(3)
    pairs = rng.random((200, 2, 200))
    p = [paired_test(a, b, n=200, seed=i).p_value for i, (a, b) in enumerate(pairs)]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.1
    assert np.mean(p) == pytest.approx(0.5, abs=0.07)


def test_paired_test_equals_the_exact_permutation_on_few_requests() -> None:
    a, b = np.array([1.0, 1, 1, 0, 1, 1, 0]), np.array([0.0, 0, 0, 1, 0, 0, 0])
    flips = np.array(list(itertools.product([1, -1], repeat=7))) @ (a - b)
    exact = float((abs(flips) >= abs((a - b).sum())).mean())
    assert paired_test(a, b, n=20_000).p_value == pytest.approx(exact, abs=0.01)


def test_summary_has_means_and_intervals_of_every_metric() -> None:
    per_request = request_metrics(*ragged(0))
    summary = summarise(per_request, n=200, seed=4)
    assert set(summary) == {*METRICS, "ci"}
    for name in METRICS:
        low, high = summary["ci"][name]
        assert low <= summary[name] <= high
        assert summary[name] == pytest.approx(np.nanmean(per_request[name]))
    nothing = summarise({"mrr": np.array([math.nan])})
    assert math.isnan(nothing["mrr"])


def test_labels_are_yes_or_no_whatever_their_number() -> None:
    scores, offsets = np.array([3.0, 2.0, 1.0]), np.array([0, 3])
    labels = np.array([0, 1, 1], np.int8)
    others: list[NDArray[Any]] = [2 * labels, -labels, labels.astype(np.int64)]
    for many in others:
        assert request_metrics(scores, many, offsets) == request_metrics(scores, labels, offsets)


def test_errors_of_the_low_and_of_the_high_do_not_cancel() -> None:
    logits = np.repeat([-2.0, 2.0], 1000)
    rate = 1 / (1 + np.exp(-logits))
    labels = np.concatenate((np.arange(1000) < 1000 * rate[0] + 100, np.arange(1000) < 780))
    error = expected_calibration_error(logits, labels)
    assert error == pytest.approx(0.1, abs=2e-3)
    assert expected_calibration_error(logits, labels, bins=1) < 2e-3


def test_calibration_error() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-3, 1.5, 200_000)
    labels = rng.random(200_000) < 1 / (1 + np.exp(-logits))
    assert expected_calibration_error(logits, labels) < 0.003
    assert expected_calibration_error(logits + 2, labels) > 0.1
    constant = np.full(1000, -800.0)
    assert expected_calibration_error(constant, np.arange(1000) < 250) == pytest.approx(0.25)
    assert expected_calibration_error(-constant, np.ones(1000, bool)) == 0.0
    assert math.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))
    with pytest.raises(MetricError, match="logits"):
        expected_calibration_error(np.array([math.nan]), np.array([True]))
