"""Numbers of candidates that a caller gives: the retriever's, and those of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.api_bodies import (
    NOW,
    PRICED,
    RETRIEVED,
    SCHEMA,
    WALL,
    parsed,
    refused,
)

from prerank.core.ids import ItemIds
from prerank.serving.api import Limits, RequestError, parse_raw


def nan_as_none(values: Any) -> list[list[float | None]]:
    return [[None if np.isnan(v) else float(v) for v in row] for row in values]


def test_what_the_retriever_said_follows_its_candidate() -> None:
    ids, scores, ranks = [3, 1, 3, 2], [0.5, None, 9, -1], [4, 0, 9, None]
    expected = [[0.5, 4], [None, 0], [-1, None]]
    objects = [
        {"id": 3, "score": 0.5, "rank": 4},
        {"id": 1, "rank": 0},
        {"id": 3, "score": 9, "rank": 9},
        {"id": 2, "score": -1},
    ]
    columns = np.array([scores, ranks], np.float32).tobytes()
    fields = {"user_id": "a", "query": "q", "retriever": "score,rank"}
    for request in (
        parsed(RETRIEVED, candidates=ids, retriever_scores=scores, retriever_ranks=ranks),
        parsed(RETRIEVED, candidates=objects),
        parse_raw(np.array(ids, "<i8").tobytes() + columns, fields, RETRIEVED, NOW),
    ):
        assert request.keys.tolist() == [3, 1, 2]
        assert request.retriever_features is not None
        assert nan_as_none(request.retriever_features) == expected
    one = parsed(RETRIEVED, candidates=ids, retriever_ranks=ranks).retriever_features
    assert one is not None
    assert nan_as_none(one) == [[None, 4], [None, 0], [None, None]]
    assert parsed(RETRIEVED, candidates=ids).retriever_features is None
    assert parsed(RETRIEVED, candidates=[{"id": 3}]).retriever_features is None
    assert parsed(WALL, candidates=[{"id": 3}, {"id": 4}]).keys.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"retriever_scores": [1, 2]}, "retriever_scores"),
        ({"retriever_scores": 1}, "retriever_scores"),
        ({"retriever_scores": [1, 2, "3"]}, "retriever_scores"),
        ({"retriever_scores": [1, 2, True]}, "retriever_scores"),
        ({"retriever_scores": [1, 2, 1e300]}, "retriever_scores"),
        ({"retriever_ranks": [1, 2, -1]}, "retriever_ranks"),
        ({"retriever_ranks": [1, 2, 1.5]}, "retriever_ranks"),
        ({"candidates": [{"id": 1}, 2]}, "candidates"),
        ({"candidates": [{"score": 1}]}, "candidates"),
        ({"candidates": [{"id": 1, "colour": 2}]}, "candidates[0].colour"),
        ({"candidates": 7, "retriever_ranks": []}, "candidates"),
        ({"candidates": [{"id": 1, "score": 2}], "retriever_scores": {}}, "retriever_scores"),
        ({"candidates": [{"id": 1, "rank": 2}], "retriever_ranks": [3]}, "retriever_ranks"),
    ],
)
def test_wrong_words_of_the_retriever_are_named(changes: dict[str, Any], field: str) -> None:
    assert refused(RETRIEVED, **changes).field == field


def test_a_model_that_knows_no_retriever_says_so() -> None:
    assert refused(retriever_scores=[1, 2, 3]).field == "retriever_scores"
    ranked = Limits(ItemIds("integer"), replace(SCHEMA, retriever=("rank",)))
    error = refused(ranked, candidates=[{"id": 1, "score": 1}])
    assert error.field == "retriever_scores"
    assert "['rank']" in error.message


@pytest.mark.parametrize(
    ("body", "told", "field"),
    [
        (b"\0" * 13, "score", "candidates"),
        (b"\0" * 12, "colour", "retriever"),
        (b"\0" * 8 + b"\0\0\x80\x7f", "score", "retriever_scores"),
    ],
)
def test_a_wrong_raw_body_of_the_retriever_is_named(body: bytes, told: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_raw(body, {"user_id": "a", "query": "q", "retriever": told}, RETRIEVED, NOW)
    assert caught.value.field == field


def test_candidate_features_follow_their_candidate() -> None:
    ids, prices, far = [3, 1, 3, 2], [12.5, None, 9, -1], [None, 0.5, 7, None]
    expected = [[None, 12.5, None], [2, None, 0.5], [None, -1, None]]
    objects = [
        {"id": 3, "features": {"price": 12.5}},
        {"id": 1, "score": 2, "features": {"d.km": 0.5, "price": None}},
        {"id": 3, "features": {"price": 9, "d.km": 7}},
        {"id": 2, "features": {"price": -1}},
    ]
    columns = np.array([[np.nan, 2, np.nan, np.nan], prices, far], np.float32).tobytes()
    fields = {"user_id": "a", "query": "q", "retriever": "score"}
    listed = {"price": prices, "d.km": far}
    for request in (
        parsed(PRICED, candidates=objects),
        parsed(
            PRICED,
            candidates=ids,
            candidate_features=listed,
            retriever_scores=[None, 2, None, None],
        ),
        parse_raw(
            np.array(ids, "<i8").tobytes() + columns,
            fields | {"candidate_features": "price,d.km"},
            PRICED,
            NOW,
        ),
    ):
        assert request.keys.tolist() == [3, 1, 2]
        assert request.retriever_features is not None
        assert nan_as_none(request.retriever_features) == expected


def test_of_candidate_features_some_may_be_left_out() -> None:
    far = np.array([7, np.nan], np.float32)
    fields = {"user_id": "a", "query": "q", "candidate_features": "d.km"}
    for request in (
        parsed(PRICED, candidates=[{"id": 3, "features": {"d.km": 7}}, {"id": 1}]),
        parsed(PRICED, candidates=[3, 1], candidate_features={"d.km": [7, None], "price": None}),
        parse_raw(np.array([3, 1], "<i8").tobytes() + far.tobytes(), fields, PRICED, NOW),
    ):
        assert request.retriever_features is not None
        assert nan_as_none(request.retriever_features) == [[None, None, 7], [None, None, None]]
    nothing: dict[str, Any] | None
    for nothing in ({}, None):
        assert parsed(PRICED, candidate_features=nothing).retriever_features is None
        assert parsed(WALL, candidate_features=nothing).retriever_features is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"candidate_features": [1, 2, 3]}, "candidate_features"),
        ({"candidate_features": {"colour": [1, 2, 3]}}, "candidate_features.colour"),
        ({"candidate_features": {"price": [1, 2]}}, "candidate_features.price"),
        ({"candidate_features": {"price": 1}}, "candidate_features.price"),
        ({"candidate_features": {"price": [1, 2, "3"]}}, "candidate_features.price"),
        ({"candidate_features": {"price": [1, 2, True]}}, "candidate_features.price"),
        ({"candidate_features": {"price": [1, 2, 1e300]}}, "candidate_features.price"),
        ({"candidates": [{"id": 1, "features": 7}]}, "candidates[0].features"),
        (
            {"candidates": [{"id": 1}, {"id": 2, "features": {"colour": 7}}]},
            "candidates[1].features.colour",
        ),
        (
            {"candidates": [{"id": 1, "features": {"price": "7"}}]},
            "candidate_features.price",
        ),
        (
            {"candidates": [{"id": 1, "features": {}}], "candidate_features": {"price": [1]}},
            "candidate_features",
        ),
        ({"candidates": [{"id": 1, "price": 7}]}, "candidates[0].price"),
    ],
)
def test_wrong_candidate_features_are_named(changes: dict[str, Any], field: str) -> None:
    error = refused(PRICED, **changes)
    assert (error.field, error.status) == (field, 400)
    if "colour" in field:
        assert "['price', 'd.km']" in error.message


def test_a_model_without_candidate_features_takes_none() -> None:
    for changes, field in (
        ({"candidate_features": {"price": [1, 2, 3]}}, "candidate_features.price"),
        ({"candidates": [{"id": 1, "features": {"price": 7}}]}, "candidates[0].features.price"),
    ):
        error = refused(RETRIEVED, **changes)
        assert (error.field, error.status) == (field, 400)
        assert "the model has none" in error.message
    with pytest.raises(RequestError, match="the model has none"):
        parse_raw(b"", {"user_id": "a", "query": "q", "candidate_features": "price"}, WALL, NOW)


@pytest.mark.parametrize(
    ("body", "names", "field"),
    [
        (b"\0" * 13, "price", "candidates"),
        (b"\0" * 12, "price,d.km", "candidates"),
        (b"\0" * 12, "colour", "candidate_features.colour"),
        (b"\0" * 16, "price,price", "candidate_features"),
        (b"\0" * 12, "price,", "candidate_features."),
        (b"\0" * 8 + b"\0\0\x80\x7f", "price", "candidate_features.price"),
    ],
)
def test_a_wrong_raw_body_of_candidate_features_is_named(
    body: bytes, names: str, field: str
) -> None:
    fields = {"user_id": "a", "query": "q", "candidate_features": names}
    with pytest.raises(RequestError) as caught:
        parse_raw(body, fields, PRICED, NOW)
    assert caught.value.field == field
