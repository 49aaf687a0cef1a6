"""What of a ranking is refused, degraded or missing is told as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.api_bodies import WALL
from tests.http_calls import api_of
from tests.http_servers import Served, kinds, served
from tests.local_shards import parts_of, shards_of
from tests.small_engine import SAMPLE, GivenScores, SmallEngine, sample_scorer

from prerank import RankRequest
from prerank.client.answers import MissingShard
from prerank.client.errors import DegradedError, RefusedError
from prerank.serving.shard import Part, Task

Ask = Callable[..., Any]
SEARCH: dict[str, Any] = {"user_id": "ann", "query": "red shoe"}


@pytest.fixture(scope="module")
def without_a_shard() -> Iterator[Served]:
    """A deployment of three shards, the second of which is late."""

    def late(task: Task) -> Part:
        raise TimeoutError

    first, _, third = parts_of(sample_scorer(), 3)
    engine = SmallEngine(SAMPLE, sample_scorer())
    engine.loaded = replace(engine.loaded, shards=shards_of([first, late, third]))
    with served(api_of(engine)) as found:
        yield found


def test_the_parts_of_the_index_that_are_missing_are_told(
    without_a_shard: Served, deployment: Served, ask: Ask
) -> None:
    request = RankRequest(**SEARCH, candidates=range(1000, 1030))
    found = ask(without_a_shard.url, "rank", request)
    assert found.degraded == ("shards",)
    assert found.missing_shards == (MissingShard(1, 10 / 30, "late"),)
    assert ask(deployment.url, "rank", request).missing_shards == ()
    (of_many,) = ask(without_a_shard.url, "rank_many", [request])
    assert (of_many.degraded, of_many.missing_shards) == (("shards",), None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"candidates": [1, "2"]}, "candidates"),
        ({"candidates": [1.5]}, "candidates"),
        ({"candidates": [True]}, "candidates"),
        ({"candidates": np.array([[1, 2]])}, "candidates"),
        ({"candidates": np.array([1.0, 2.0])}, "candidates"),
        ({"candidates": "12"}, "candidates"),
        ({"candidates": 12}, "candidates"),
        ({"candidates": [2**64]}, "candidates"),
        ({"retriever_scores": [1.0]}, "retriever_scores"),
        ({"retriever_scores": [1.0, math.inf]}, "retriever_scores"),
        ({"retriever_scores": [1.0, 1e39]}, "retriever_scores"),
        ({"retriever_ranks": ["first", "second"]}, "retriever_ranks"),
        ({"candidate_features": {"offer": [1.0]}}, "candidate_features.offer"),
        ({"candidate_features": {"offer": [1.0, 1e39]}}, "candidate_features.offer"),
        ({"context": {"country": object()}}, "body"),
        ({"query": "\ud800"}, "query"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name_and_not_sent(
    scores: Served, ask: Ask, change: dict[str, Any], field: str
) -> None:
    kinds(scores)
    with pytest.raises(RefusedError) as caught:
        ask(scores.url, "rank", RankRequest(**{**SEARCH, "candidates": [1, 2], **change}))
    assert (caught.value.problem.field, caught.value.problem.status) == (field, None)
    assert kinds(scores) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"k": 0}, "k"),
        ({"query": " "}, "query"),
        ({"user_id": ""}, "user_id"),
        ({"context": {"colour": "red"}}, "context.colour"),
        ({"weights": {"zap": 1.0}}, "weights"),
        ({"retriever_ranks": [0.5, 1]}, "retriever_ranks"),
        ({"candidate_features": {"colour": [0.5, 1]}}, "candidate_features.colour"),
        ({"time": "2024-01-01"}, "time"),
        ({"timeout_ms": -1}, "timeout_ms"),
    ],
)
def test_what_the_deployment_refuses_is_told_in_its_words_and_sent_once(
    deployment: Served, ask: Ask, change: dict[str, Any], field: str
) -> None:
    kinds(deployment)
    request = RankRequest(**{**SEARCH, "candidates": [1, 2], **change})
    with pytest.raises(RefusedError) as caught:
        ask(deployment.url, "rank", request)
    problem = caught.value.problem
    assert (problem.status, problem.title, problem.field) == (400, "Bad Request", field)
    assert problem.detail
    assert problem.request_id == request.request_id
    assert len(kinds(deployment)) == 1


def test_too_many_candidates_of_one_request_are_told(deployment: Served, ask: Ask) -> None:
    with pytest.raises(RefusedError) as caught:
        ask(deployment.url, "rank", RankRequest(**SEARCH, candidates=range(300)))
    assert (caught.value.problem.status, caught.value.problem.field) == (413, "candidates")


def test_a_degraded_answer_says_so_and_is_an_error_where_features_are_required(ask: Ask) -> None:
    # A score that is no finite number degrades an answer, too.
    broken = SmallEngine(WALL, GivenScores({1: math.nan, 2: 1.0}))
    request = RankRequest(**SEARCH, candidates=[1, 2])
    with served(api_of(broken)) as found:
        ranking = ask(found.url, "rank", request)
        assert ranking.degraded == ("scores",)
        assert ranking.non_finite == 1
        assert ranking.ids.tolist() == [2, 1]
        assert np.isnan(ranking.scores[1])
        with pytest.raises(DegradedError, match="without scores") as caught:
            ask(found.url, "rank", request, require_features=True)
        assert caught.value.degraded == ("scores",)
        assert caught.value.answer.ids.tolist() == [2, 1]
        with pytest.raises(DegradedError) as of_many:
            ask(found.url, "rank_many", [request, request], require_features=True)
        assert [len(each.ids) for each in of_many.value.answer] == [2, 2]
