"""The best k of scored candidates, whatever the scores are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.plain_requests import Request, as_inputs
from tests.samples import CATALOGUE, SCHEMA, SHIPPED, item_vectors, new_model

from interactrank.model.scorer import Scored, Scorer

SCORES = st.lists(
    st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf])),
    max_size=12,
)


def no_features(at: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.zeros((len(at), 0), np.float32)


def scored(scores: list[float], ids: list[int]) -> Scored:
    values, none = np.array(scores, np.float32), np.zeros(0, np.int64)
    held = np.array(ids, np.int64)
    return Scored(held, values, values, values, none, 1.0, 0.0, no_features, values[:0])


@given(SCORES, st.integers(0, 15), st.randoms(use_true_random=False))
def test_top_is_a_sort_with_finite_scores_first(scores: list[float], k: int, rng: object) -> None:
    ids = list(range(len(scores)))
    rng.shuffle(ids)  # type: ignore[attr-defined]
    found = scored(scores, ids)
    rounded = found.scores.tolist()
    finite = np.isfinite(found.scores)
    order = sorted(
        range(len(ids)), key=lambda i: (not finite[i], -rounded[i] if finite[i] else 0, ids[i])
    )
    assert found.top(k).tolist() == order[:k]
    assert len(found.top(k)) == min(k, len(ids))
    assert found.non_finite == len(ids) - finite.sum()


def test_one_nan_does_not_empty_the_answer() -> None:
    found = scored([np.nan, 0.5, 0.9], [1, 2, 3])
    assert found.top(1).tolist() == [2]
    assert found.top(3).tolist() == [2, 1, 0]
    assert found.non_finite == 1


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    model = new_model(SHIPPED)
    with torch.no_grad():
        vectors = item_vectors(model, CATALOGUE)[1:].to(torch.bfloat16)
    return Scorer(model, CATALOGUE, CATALOGUE.ids, vectors)


@given(
    st.lists(
        st.one_of(st.floats(allow_nan=False, allow_infinity=False, width=32), st.just(3e38)),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 8),
)
def test_any_finite_numbers_that_are_given_have_an_order(
    scorer: Scorer, told: list[float], k: int
) -> None:
    features = np.zeros((len(told), len(SCHEMA.given)), np.float32)
    features[:, SCHEMA.given.index("score")] = told
    features[:, SCHEMA.given.index("candidate_offer")] = told[::-1]
    ids = CATALOGUE.ids[: len(told)]
    weights = np.array([1, 0], np.float32)
    found = scorer.score("red shoe", as_inputs([Request()]), ids, weights, features)
    assert found.non_finite == 0
    assert len(found.top(k)) == min(k, len(told))
    every = np.arange(len(told))
    assert found.x(every).shape == (len(told), len(SCHEMA.cross))
    assert np.isfinite(found.x(every)).all()
