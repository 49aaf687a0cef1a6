"""Rankings through a client are those that a deployment gives to whoever writes HTTP by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http_servers import Served, kinds

from prerank import Client, RankRequest
from prerank.client.encoding import JSON, RAW

Ask = Callable[..., Any]
SEARCH: dict[str, Any] = {"user_id": "ann", "query": "red shoe"}
NUMBERS = st.one_of(st.none(), st.floats(-1e9, 1e9, width=32))
RANKS = st.one_of(st.none(), st.integers(0, 5000))


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
def by_hand(deployment: Served) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """The answer to JSON that no client of ours wrote."""
    with httpx.Client(base_url=deployment.url) as plain:

        def answer(body: dict[str, Any]) -> dict[str, Any]:
            sent = plain.post("/v1/prerank", json=body)
            found: dict[str, Any] = sent.raise_for_status().json()
            return found

        yield answer


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
