"""Reranking in the shape of Cohere and Jina: documents are items, every one has a place."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api_bodies import JSON, NOW, REPLAY, SEGMENTED, STRINGS, WALL
from tests.http_calls import LOCAL, api_of, call, whole
from tests.small_engine import GivenScores, SmallEngine
from tests.small_tables import SCHEMA, write_tables

from prerank.core.home import Home
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.store import REDIS_ENV
from prerank.serving.api import Limits, RequestError
from prerank.serving.rerank import ANONYMOUS, IGNORED, Rerank, parse_rerank, relevance

GOOD: dict[str, Any] = {"query": " Red  SHOES ", "documents": ["3", "1", "2"]}
SCORES = {1: 2.0, 2: -1.0, 3: 0.5}


def parsed(limits: Limits = WALL, user: str | None = None, **changes: Any) -> Rerank:
    return parse_rerank(orjson.dumps({**GOOD, **changes}), user, limits, NOW)


def refused(limits: Limits = WALL, **changes: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parsed(limits, **changes)
    return caught.value


def told(
    scores: dict[int, float] = SCORES, limits: Limits = WALL, headers: Any = (), **body: Any
) -> dict[str, Any]:
    api = api_of(SmallEngine(limits, GivenScores(scores)))
    sent = orjson.dumps({**GOOD, **body})
    answer = asyncio.run(call(api, "/v1/rerank", whole(sent), LOCAL | dict(headers)))
    assert answer.status_code == 200, answer.body
    found: dict[str, Any] = orjson.loads(answer.body)
    return found


def order(answer: dict[str, Any]) -> list[int]:
    return [result["index"] for result in answer["results"]]


def relevances(answer: dict[str, Any]) -> list[float]:
    return [result["relevance_score"] for result in answer["results"]]


def test_a_request_of_cohere_is_answered_in_its_shape() -> None:
    answer = told(model="rerank-v3.5", top_n=2, max_chunks_per_doc=10, return_documents=False)
    assert order(answer) == [1, 0]
    assert relevances(answer) == pytest.approx([1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-0.5))])
    assert all(result.keys() == {"index", "relevance_score"} for result in answer["results"])
    assert answer["meta"]["model_version"] == "1"
    assert answer["meta"]["unknown"] == []
    assert len(answer["id"]) == 32
    assert told(request_id="r1")["id"] == "r1"


def test_documents_are_returned_as_cohere_and_jina_return_them() -> None:
    answer = told(documents=["3", {"id": "1", "title": "Red shoe"}, "2"], return_documents=True)
    assert [result["document"] for result in answer["results"]] == [
        {"id": "1", "title": "Red shoe"},
        {"text": "3"},
        {"text": "2"},
    ]


@pytest.mark.parametrize(
    "documents", [["3", "1", "2"], [3, 1, 2], [{"id": 3}, {"id": 1}, {"id": 2}]]
)
def test_an_item_is_text_or_integer_or_object(documents: list[Any]) -> None:
    assert order(told(documents=documents)) == [1, 0, 2]


def test_every_document_has_a_place_known_or_not_and_each_time_it_is_sent() -> None:
    answer = told(documents=["9", "2", "1", "2", "8", "9"])
    assert order(answer) == [2, 1, 3, 4, 0, 5]
    scores = relevances(answer)
    assert scores[0] > scores[1] == scores[2] > 0
    assert scores[2] > scores[3] == scores[4] == scores[5] > 0
    assert answer["meta"]["unknown"] == [9, 8] or answer["meta"]["unknown"] == ["9", "8"]
    assert order(told(documents=["9", "2", "1", "2"], top_n=3)) == [2, 1, 3]


def test_a_score_is_always_a_json_number_with_a_point() -> None:
    # Some callers cast it to a double, which an integer is not.
    engine = SmallEngine(WALL, GivenScores({1: 1e9, 9: np.nan}))
    body = orjson.dumps({"query": "q", "documents": ["1", "9"]})
    answer = asyncio.run(call(api_of(engine), "/v1/rerank", whole(body)))
    assert b'"relevance_score":1.0}' in answer.body
    assert b'"relevance_score":0.0}' in answer.body


def test_no_documents_are_no_results() -> None:
    answer = told(documents=[])
    assert answer["results"] == []


def test_top_n_beyond_the_list_is_the_list() -> None:
    assert order(told(top_n=50)) == [1, 0, 2]
    assert order(told(top_n=None)) == [1, 0, 2]


def test_more_results_than_a_request_gets_are_refused_also_unasked() -> None:
    tight = replace(WALL, max_k=2)
    assert refused(tight).field == "top_n"
    assert refused(tight, top_n=3).field == "top_n"
    assert parsed(tight, top_n=2).top_n == 2
    assert parsed(tight, documents=["1"], top_n=3).top_n == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"query": None}, "query"),
        ({"query": " "}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": "3"}, "documents"),
        ({"documents": [None]}, "documents"),
        ({"documents": ["3", 1]}, "documents"),
        ({"documents": ["A red shoe"]}, "documents"),
        ({"documents": ["3", {"title": "Red shoe"}]}, "documents[1].id"),
        ({"documents": [{"text": "3"}]}, "documents[0].id"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": "u" * 513}, "user_id"),
        ({"time": NOW}, "time"),
        ({"context": {"country": "DE"}}, "context.country"),
        ({"texts": ["3"]}, "texts"),
        ({"explain": True}, "explain"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    error = refused(**changes)
    assert (error.status, error.field) == (400, field)


def test_too_many_documents_is_413_before_one_is_looked_at() -> None:
    error = refused(documents=[{}] * 11)
    assert (error.status, error.field) == (413, "documents")


@pytest.mark.parametrize("name", sorted(IGNORED))
@pytest.mark.parametrize("value", ["x", 7, True, None, ["title"]])
def test_what_clients_send_to_rerankers_of_text_is_ignored(name: str, value: Any) -> None:
    assert parsed(**{name: value}).top_n == 3


def test_segments_and_a_replayed_time_are_read_as_of_any_ranking() -> None:
    request = parsed(SEGMENTED, context={"country": "DE"}).request
    assert request.context == {"country": "DE", "device": ""}
    assert parsed(REPLAY, time=NOW - 1).request.time_us == NOW - 1


def test_text_ids_are_items_as_they_stand() -> None:
    wanted = parsed(STRINGS, documents=["b", "a", "b"])
    assert wanted.request.shown(wanted.request.keys) == ["b", "a"]
    assert list(wanted.places.values()) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("field", "header", "user"),
    [
        ("u7", None, "u7"),
        (None, "u8", "u8"),
        ("u7", "u8", "u7"),
        ("", "u8", "u8"),
        (7, None, "7"),
        (None, "", ANONYMOUS),
        (None, None, ANONYMOUS),
        (None, "zo\u00eb".encode().decode("latin-1"), "zo\u00eb"),
    ],
)
def test_the_user_is_in_the_body_or_the_header_or_nobody(
    field: Any, header: str | None, user: str
) -> None:
    assert parsed(user=header, user_id=field).request.user_id == user


def test_the_header_is_read_by_the_route() -> None:
    engine = SmallEngine(WALL, GivenScores(SCORES))
    headers = LOCAL | {"X-User-Id": "u8"}
    asyncio.run(call(api_of(engine), "/v1/rerank", whole(orjson.dumps(GOOD)), headers))
    assert engine.store.users == ["u8"]


@pytest.mark.parametrize("header", ["\xff", "u" * 513])
def test_a_wrong_header_is_named(header: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(user=header)
    assert caught.value.field == "X-User-Id"


def test_nobody_has_no_history_and_a_whole_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REDIS_ENV, raising=False)
    home = Home.at(tmp_path / "home")
    write_tables(home)
    materialise(home, progress=False)
    features = OnlineFeatures(home, SCHEMA, timeout_s=10.0)
    read = features.read("red", ANONYMOUS, NOW)
    features.close()
    assert read.degraded == ()
    assert read.inputs.hist_offsets.tolist() == [0, 0]


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FLOATS | st.floats(15, 20, width=32), max_size=50))
def test_relevance_orders_as_scores_do_to_the_last_float(found: list[float]) -> None:
    scores = np.sort(np.array(found, np.float32))[::-1]
    told = relevance(scores)
    assert told.dtype == np.float32
    assert ((told > 0) & (told <= 1)).all()
    assert (np.sign(np.diff(told)) == np.sign(np.sign(np.diff(scores.astype(np.float64))))).all()
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-scores.astype(np.float64)))
    np.testing.assert_allclose(told, exact, rtol=0, atol=1e-5)


def test_scores_that_saturate_stay_apart_for_a_caller_that_keeps_float32() -> None:
    scores = np.array([3e38, 40, 30.000002, 30, 17, -100, -3e38], np.float32)
    told = relevance(scores)
    assert (np.diff(told) < 0).all()
    assert told[0] == 1
    assert told[-1] > 0


def test_a_score_that_is_no_number_is_worth_nothing() -> None:
    assert relevance(np.array([1.0, np.nan, np.inf], np.float32))[1:].tolist() == [0, 0]
    answer = told({1: float("nan"), 2: -1.0, 3: float("-inf")})
    assert order(answer)[0] == 2
    assert relevances(answer)[1:] == [0.0, 0.0]
    assert answer["meta"]["degraded"] == ["scores"]


FIELDS = [
    "query",
    "documents",
    "top_n",
    "return_documents",
    "user_id",
    "time",
    "weights",
    "context",
]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.booleans())
def test_no_json_is_anything_but_read_or_refused(changes: dict[str, Any], replay: bool) -> None:
    with contextlib.suppress(RequestError):
        assert parsed(REPLAY if replay else WALL, **changes).request.query
