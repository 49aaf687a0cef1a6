"""Rankings through a client are those that a deployment gives to whoever writes HTTP by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api_bodies import STRINGS, WALL
from tests.http_calls import api_of
from tests.http_servers import Served, served
from tests.local_shards import parts_of, shards_of
from tests.small_engine import SAMPLE, GivenScores, SmallEngine, sample_scorer

from prerank import Client, RankRequest
from prerank.client.answers import MissingShard
from prerank.client.batches import batches
from prerank.client.encoding import JSON, RAW
from prerank.client.errors import DegradedError, RefusedError
from prerank.serving.shards import Part, Task

Ask = Callable[..., Any]

SCORES = {1: 2.0, 2: -1.0, 3: 0.5, 2**60: 9.0}
SEARCH: dict[str, Any] = {"user_id": "ann", "query": "red shoe"}


@pytest.fixture(scope="module")
def texts() -> Iterator[Served]:
    """A deployment whose log has text ids, and that knows two items."""
    keys = {STRINGS.ids.to_key(id): score for id, score in (("b/ü", 1.0), ("a", 2.0))}
    with served(api_of(SmallEngine(STRINGS, GivenScores(keys)))) as found:
        yield found


@pytest.fixture(scope="module")
def scores() -> Iterator[Served]:
    """A deployment that knows four items."""
    with served(api_of(SmallEngine(WALL, GivenScores(SCORES)))) as found:
        yield found


def kinds(of: Served) -> list[str]:
    """Content types of what it was sent since last time."""
    found = [kind for _, _, kind, _ in of.seen]
    of.seen.clear()
    return found


def test_integers_go_in_the_binary_form(scores: Served, ask: Ask) -> None:
    kinds(scores)
    request = RankRequest(**SEARCH, candidates=[3, 1, 3, 9, 2], k=2)
    ranking = ask(scores.url, "rank", request)
    assert kinds(scores) == [RAW]
    assert ranking.ids.tolist() == [1, 3]
    assert ranking.scores.tolist() == [2.0, 0.5]
    assert (ranking.ids.dtype, ranking.scores.dtype) == (np.int64, np.float32)
    assert ranking.unknown_ids.tolist() == [9]
    assert (ranking.request_id, ranking.model_version) == (request.request_id, "1")
    assert (ranking.degraded, ranking.non_finite, ranking.explanation) == ((), 0, None)


@pytest.mark.parametrize(
    "candidates",
    [
        np.array([3, 1], np.int32),
        np.array([3, 1], np.uint64),
        (3, 1),
        [np.int64(3), np.int64(1)],
        pd.Series([3, 1]),
        np.array([3, 1], object),
    ],
)
def test_integers_may_stand_in_anything(scores: Served, candidates: Any) -> None:
    with Client(scores.url) as client:
        ranking = client.rank(RankRequest(**SEARCH, candidates=candidates))
    assert ranking.ids.tolist() == [1, 3]


def test_no_candidates_are_no_items(scores: Served, ask: Ask) -> None:
    ranking = ask(scores.url, "rank", RankRequest(**SEARCH, candidates=[]))
    assert (len(ranking.ids), len(ranking.scores)) == (0, 0)


def test_no_digit_of_an_id_is_lost(scores: Served, ask: Ask) -> None:
    ids = [2**60, 2**60 + 1, 1]
    ranking = ask(scores.url, "rank", RankRequest(**SEARCH, candidates=ids))
    assert ranking.ids.tolist() == [2**60, 1, 2**60 + 1]
    assert ranking.unknown_ids.tolist() == [2**60 + 1]


def test_what_no_url_can_hold_goes_as_json(scores: Served, ask: Ask) -> None:
    kinds(scores)
    wide = RankRequest(user_id="ann", query="𝛂" * 1000, candidates=[2**60, 1, 2])
    ranking = ask(scores.url, "rank", wide)
    assert kinds(scores) == [JSON]
    assert ranking.ids.tolist() == [2**60, 1, 2]


def test_texts_go_as_json_and_come_back(texts: Served, ask: Ask) -> None:
    kinds(texts)
    ranking = ask(texts.url, "rank", RankRequest(**SEARCH, candidates=["b/ü", "x", "a"]))
    assert kinds(texts) == [JSON]
    assert (ranking.ids.tolist(), ranking.ids.dtype) == (["a", "b/ü", "x"], object)
    assert ranking.unknown_ids.tolist() == ["x"]


def test_the_whole_index_and_what_is_left_out_of_it(deployment: Served, ask: Ask) -> None:
    listed = ask(deployment.url, "rank", RankRequest(**SEARCH, candidates=range(1000, 1030)))
    whole = ask(deployment.url, "rank", RankRequest(**SEARCH))
    assert whole.ids.tolist() == listed.ids.tolist()
    without = RankRequest(**SEARCH, exclude=whole.ids[:3], exclude_engaged=True, k=2)
    assert ask(deployment.url, "rank", without).ids.tolist() == whole.ids[3:5].tolist()


@pytest.fixture(scope="module")
def client(deployment: Served) -> Iterator[Client]:
    with Client(deployment.url) as found:
        yield found


@pytest.fixture(scope="module")
def by_hand(deployment: Served) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """The answer to JSON that no client of ours wrote."""
    with httpx.Client(base_url=deployment.url) as plain:

        def answer(body: dict[str, Any]) -> dict[str, Any]:
            sent = plain.post("/v1/prerank", json=body)
            found: dict[str, Any] = sent.raise_for_status().json()
            return found

        yield answer


NUMBERS = st.one_of(st.none(), st.floats(-1e9, 1e9, width=32))
RANKS = st.one_of(st.none(), st.integers(0, 5000))


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Requests as JSON has them, with the ids of the sample's items and some that are unknown."""
    ids = draw(st.lists(st.integers(995, 1035), max_size=40))
    n = len(ids)
    optional = {
        "k": st.integers(1, 50),
        "context": st.fixed_dictionaries(
            {},
            optional={
                "country": st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text()),
                "device": st.sampled_from(["tv", "", "a&b=c %2F+ü"]),
            },
        ),
        "weights": st.fixed_dictionaries(
            {"engagement": st.floats(0.01, 5)}, optional={"save": st.floats(0, 5)}
        ),
        "retriever_scores": st.lists(NUMBERS, min_size=n, max_size=n),
        "retriever_ranks": st.lists(RANKS, min_size=n, max_size=n),
        "candidate_features": st.fixed_dictionaries(
            {}, optional={"offer": st.lists(NUMBERS, min_size=n, max_size=n)}
        ),
        "explain": st.booleans(),
        "request_id": st.one_of(st.integers(0, 9), st.text(min_size=1, max_size=9)),
        "timeout_ms": st.floats(1, 1e6),
    }
    found = draw(st.fixed_dictionaries({}, optional=optional))
    user = draw(st.one_of(st.integers(0, 99), st.text(min_size=1, max_size=20)))
    query = draw(st.text(min_size=1, max_size=30).filter(lambda q: q.isalnum()))
    return {"user_id": user, "query": query, "candidates": ids} | found


@settings(max_examples=60)
@given(bodies())
def test_every_form_gives_the_answer_of_json_by_hand(
    deployment: Served, client: Client, by_hand: Any, body: dict[str, Any]
) -> None:
    body.setdefault("request_id", "r1")
    expected = by_hand(body)
    kinds(deployment)
    raw = client.rank(RankRequest(**body))
    as_text = RankRequest(**body | {"candidates": list(map(str, body["candidates"]))})
    texts = client.rank(as_text)
    assert kinds(deployment) == [RAW, JSON if body["candidates"] else RAW]
    for found in (raw, texts):
        assert list(map(int, found.ids)) == [item["id"] for item in expected["items"]]
        scores = [item["score"] for item in expected["items"]]
        np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-6)
        assert list(map(int, found.unknown_ids)) == expected["unknown_ids"]
        assert found.request_id == expected["request_id"]
        assert (found.explanation is not None) == body.get("explain", False)


def test_the_parts_of_a_score_are_told(deployment: Served, by_hand: Any, ask: Ask) -> None:
    body = SEARCH | {"candidates": [1000, 1003, 1007], "explain": True}
    found = ask(deployment.url, "rank", RankRequest(**body)).explanation
    expected = by_hand(body)
    assert found.dots.tolist() == pytest.approx([item["dot"] for item in expected["items"]])
    assert found.cross_scores.tolist() == pytest.approx(
        [item["cross_score"] for item in expected["items"]]
    )
    assert [dict(f) for f in found.features] == [item["features"] for item in expected["items"]]
    assert found.request_features.keys() == expected["request_features"].keys()
    assert found.time.tzinfo is not None


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


def test_many_requests_are_answered_as_each_alone(
    deployment: Served, client: Client, ask: Ask
) -> None:
    rng = np.random.default_rng(0)
    requests = [
        RankRequest(
            user_id=f"u{at}",
            query=["red shoe", "blue bag"][at % 2],
            candidates=rng.permutation(np.arange(996, 1030))[: at * 3],
            k=at + 1,
            context={"country": "de", "device": None} if at % 3 else None,
            retriever_scores=rng.normal(size=at * 3) if at % 2 else None,
            retriever_ranks=[None, *range(at * 3 - 1)] if at > 3 else None,
            candidate_features={"offer": [None, *range(at * 3 - 1)]} if at % 5 == 4 else None,
        )
        for at in range(12)
    ]
    kinds(deployment)
    found = ask(deployment.url, "rank_many", requests)
    # 198 candidates: as many as the deployment takes.
    assert len(kinds(deployment)) == 1
    for request, ranking in zip(requests, found, strict=True):
        alone = client.rank(request)
        assert ranking.request_id == request.request_id
        assert ranking.ids.tolist() == alone.ids.tolist()
        np.testing.assert_allclose(ranking.scores, alone.scores, rtol=0, atol=1e-6)
        assert ranking.unknown_ids.tolist() == alone.unknown_ids.tolist()
        assert (ranking.ids.dtype, ranking.scores.dtype) == (np.int64, np.float32)


def test_a_batch_that_is_too_large_is_halved_until_it_is_taken(
    deployment: Served, ask: Ask
) -> None:
    requests = [
        RankRequest(user_id="u", query="red", candidates=range(1000, 1030), request_id=f"r{at}")
        for at in range(9)
    ]
    found = ask(deployment.url, "rank_many", requests)
    assert [ranking.request_id for ranking in found] == [f"r{at}" for at in range(9)]
    assert all(len(ranking.ids) == 30 for ranking in found)
    bad = RankRequest(user_id="u", query=" ", candidates=[1000])
    with pytest.raises(RefusedError) as caught:
        ask(deployment.url, "rank_many", [*requests, bad])
    assert caught.value.problem.field == "rows[9].query"
    huge = RankRequest(user_id="u", query="red", candidates=range(300))
    with pytest.raises(RefusedError) as caught:
        ask(deployment.url, "rank_many", [*requests, huge])
    assert caught.value.problem.status == 413


def test_batches_are_as_large_as_a_deployment_takes() -> None:
    def sizes(n: int, candidates: Any) -> list[tuple[int, int]]:
        request = RankRequest(**SEARCH, candidates=candidates)
        return [(batch.first, len(batch.requests)) for batch in batches([request] * n)]

    assert sizes(2001, []) == [(0, 1000), (1000, 1000), (2000, 1)]
    assert sizes(5, np.arange(100_000)) == [(0, 2), (2, 2), (4, 1)]
    assert sizes(2, np.arange(250_000)) == [(0, 1), (1, 1)]
    assert sizes(0, []) == []
    assert sizes(3, ["ü" * 150] * 30_000) == [(0, 2), (2, 1)]


def test_a_batch_of_texts(texts: Served, ask: Ask) -> None:
    requests = [RankRequest(**SEARCH, candidates=ids) for ids in (["b/ü", "a", "x"], [])]
    one, none = ask(texts.url, "rank_many", requests)
    (empty,) = ask(texts.url, "rank_many", requests[1:])
    assert one.ids.tolist() == ["a", "b/ü", "x"]
    assert one.unknown_ids.tolist() == ["x"]
    assert len(none.ids) == len(empty.ids) == 0
    assert ask(texts.url, "rank_many", []) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weights": {"engagement": 1.0}}, "rows[1].weights"),
        ({"explain": True}, "rows[1].explain"),
        ({"timeout_ms": 5.0}, "rows[1].timeout_ms"),
        ({"exclude": [1, 2]}, "rows[1].exclude"),
        ({"exclude_engaged": True}, "rows[1].exclude_engaged"),
        ({"candidates": None}, "rows[1].candidates"),
        ({"candidates": [1, "a"]}, "rows[1].candidates"),
        ({"candidates": ["a"]}, "candidates"),
        ({"retriever_scores": [1.0, 2.0]}, "rows[1].retriever_scores"),
        ({"candidate_features": {"a": [1.0, 2.0]}}, "rows[1].candidate_features.a"),
        ({"query": "\ud800"}, "rows"),
        ({"k": "many"}, "rows"),
    ],
)
def test_what_a_batch_cannot_hold_is_refused_by_its_place(
    scores: Served, change: dict[str, Any], field: str
) -> None:
    good = SEARCH | {"candidates": [1]}
    kinds(scores)
    with Client(scores.url) as client, pytest.raises(RefusedError) as caught:
        client.rank_many([RankRequest(**good), RankRequest(**good | change)])
    assert caught.value.problem.field == field
    assert kinds(scores) == []
