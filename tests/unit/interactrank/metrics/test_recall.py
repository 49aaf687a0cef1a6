"""Set metrics of a cut against trec_eval, and against brute force over the orders of ties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from interactrank.metrics.ranking import MetricError, request_metrics
from interactrank.metrics.recall import recall_at, tenth, top


def ragged(seed: int, limit: int, ties: bool = False):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, limit, 60)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n = int(offsets[-1])
    scores = rng.integers(0, 5, n).astype(float) if ties else rng.permutation(n).astype(float)
    return scores, rng.random(n) < 0.1, offsets, rng.integers(0, 3, len(sizes))


@pytest.mark.parametrize("k", [5, 100, 1000])
def test_equals_trec_eval_where_nothing_ties(k: int) -> None:
    scores, labels, offsets, unreachable = ragged(k, 1500)
    ours = recall_at(scores, labels, offsets, np.full(60, k), unreachable)
    run, truth = {}, {}
    for r, (low, high) in enumerate(itertools.pairwise(offsets)):
        run[str(r)] = {f"d{i}": float(scores[i]) for i in range(low, high)}
        truth[str(r)] = {f"d{i}": int(labels[i]) for i in range(low, high)}
        truth[str(r)] |= {f"missing{i}": 1 for i in range(unreachable[r])}
    theirs = pytrec_eval.RelevanceEvaluator(truth, {f"recall.{k}"}).evaluate(run)
    compared = 0
    for name, answer in theirs.items():
        if any(truth[name].values()):
            assert ours[int(name)] == pytest.approx(answer[f"recall_{k}"], abs=1e-12)
            compared += 1
    assert compared > 40


def test_a_tenth_is_the_recall_at_the_cut_that_rankings_report() -> None:
    scores, labels, offsets, unreachable = ragged(1, 60, ties=True)
    measured = request_metrics(scores, labels, offsets, unreachable)["recall@cut"]
    ours = recall_at(scores, labels, offsets, tenth(offsets), unreachable)
    np.testing.assert_allclose(ours, measured)
    assert np.isnan(ours).any()


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(0, 7)
)
def test_ties_survive_by_the_share_of_their_places(pairs: list[tuple[int, bool]], k: int) -> None:
    scores, labels = [s for s, _ in pairs], [y for _, y in pairs]
    orders = [
        o
        for o in itertools.permutations(range(len(pairs)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(o))
    ]
    found = recall_at(
        np.array(scores, float), np.array(labels), np.array([0, len(pairs)]), np.array([k])
    )[0]
    if not sum(labels):
        assert math.isnan(found)
        return
    kept = [sum(labels[i] for i in order[:k]) / sum(labels) for order in orders]
    assert found == pytest.approx(sum(kept) / len(kept))


@given(st.lists(st.integers(0, 4), max_size=8), st.integers(0, 9))
def test_top_takes_whole_ties_or_none_of_them(scores: list[int], n: int) -> None:
    chosen = top(np.array(scores, float), np.array([0, len(scores)]), np.array([n]))
    for s, taken in zip(scores, chosen, strict=True):
        at_least = sum(t >= s for t in scores)
        assert taken == (at_least <= n)


def test_requests_do_not_mix() -> None:
    scores = np.array([1.0, 2.0, 3.0, 9.0, 8.0])
    chosen = top(scores, np.array([0, 3, 3, 5]), np.array([1, 1, 1]))
    assert chosen.tolist() == [False, False, True, True, False]
    labels = np.array([False, False, True, False, True])
    recall = recall_at(scores, labels, np.array([0, 3, 3, 5]), np.array([1, 1, 1]))
    np.testing.assert_array_equal(recall, [1.0, math.nan, 0.0])


@pytest.mark.parametrize(
    ("offsets", "labels", "keep", "complaint"),
    [
        ([0, 3], 2, [1], "labels"),
        ([0, 2], 3, [1], "offsets must"),
        ([0, 2**40], 3, [1], "offsets must"),
        ([-(2**63), 3], 3, [1], "offsets must"),
        ([], 3, [], "offsets must"),
        ([0, 2**40, 3], 3, [1, 1], "offsets fall after request 1"),
        ([0, -(2**63), 3], 3, [1, 1], "offsets fall after request 0"),
        ([0, 3], 3, [], "keep must be 1 sizes"),
        ([0, 1, 3], 3, [1], "keep must be 2 sizes"),
    ],
)
def test_misfits_are_named(offsets, labels, keep, complaint: str) -> None:
    with pytest.raises(MetricError, match=complaint):
        recall_at(
            np.zeros(3),
            np.ones(labels, bool),
            np.array(offsets, np.int64),
            np.array(keep, np.int64),
        )


@given(st.lists(st.integers(-3, 9), max_size=5), st.lists(st.integers(-3, 9), max_size=4))
def test_any_offsets_are_refused_or_measured(offsets: list[int], keep: list[int]) -> None:
    scores, labels = np.arange(6.0), np.arange(6) % 2 == 0
    bounds, sizes = np.array(offsets, np.int64), np.array(keep, np.int64)
    sound = offsets[:1] == [0] and offsets[-1] == 6 and sorted(offsets) == offsets
    if not sound or len(keep) != len(offsets) - 1:
        with pytest.raises(MetricError):
            recall_at(scores, labels, bounds, sizes)
        return
    found = recall_at(scores, labels, bounds, sizes)
    assert ((found >= 0) & (found <= 1) | np.isnan(found)).all()
    for values in request_metrics(scores, labels, bounds).values():
        assert ((values >= 0) & (values <= 1) | np.isnan(values)).all()


def test_nan_has_no_order() -> None:
    with pytest.raises(MetricError, match="request 0"):
        recall_at(np.array([math.nan]), np.array([True]), np.array([0, 1]), np.array([1]))
