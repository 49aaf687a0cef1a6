"""What a caller may send, and what is said about everything else. No Ray, no store."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api_bodies import (
    JSON,
    NOW,
    REPLAY,
    RETRIEVED,
    SEGMENTED,
    STRINGS,
    WALL,
    parsed,
    refused,
)

from prerank.core.times import iso
from prerank.evaluation.parity import MAX_CANDIDATES
from prerank.serving.api import RequestError, parse_json, parse_raw
from prerank.serving.problems import refusal_of


def test_a_plain_request_gets_every_default() -> None:
    request = parsed()
    assert (request.query, request.user_id, request.k) == ("red shoes", "ann", 100)
    assert request.keys.tolist() == [3, 1, 2]
    assert request.keys.dtype == np.int64
    assert request.time_us == NOW
    assert request.weights.tolist() == [1.0, 0.0]
    assert not request.explain
    assert request.request_id


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{nope", "body"),
        (b"", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'{"user_id": "u", "query": "\\ud800", "candidates": []}', "body"),
        (b'{"user_id":"u","query":"q","candidates":[1180591620717411303424]}', "candidates"),
        (b"\xff\xfe", "body"),
    ],
)
def test_a_body_that_is_no_request(body: bytes, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_json(body, WALL, NOW)
    assert caught.value.field == field
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("query", None, "string"),
        ("query", "  \n", "empty"),
        ("query", "x" * 1001, "1001 characters"),
        ("query", 7, "string"),
        ("user_id", None, "non-empty"),
        ("user_id", "", "non-empty"),
        ("user_id", "u" * 513, "513"),
        ("user_id", 2**60, "as a string"),
        ("k", 0, "positive"),
        ("k", -1, "positive"),
        ("k", 1.5, "positive"),
        ("k", True, "positive"),
        ("k", "10", "positive"),
        ("candidates", None, "list"),
        ("candidates", "1,2", "list"),
        ("candidates", [1, "2"], "mixed"),
        ("candidates", [1.0], "neither"),
        ("candidates", [True], "neither"),
        ("candidates", [None], "neither"),
        ("candidates", [[1]], "neither"),
        ("candidates", [2**53 + 1], "as strings"),
        ("candidates", [-(2**60)], "as strings"),
        ("candidates", ["one"], "not an integer"),
        ("weights", [1], "object"),
        ("weights", {}, "object"),
        ("weights", {"zzz": 1}, "no head"),
        ("weights", {"save": 0}, "above 0"),
        ("explain", 1, "true or false"),
        ("time", NOW, "replay"),
        ("timeout_ms", 0, "above 0"),
        ("timeout_ms", -5, "above 0"),
        ("timeout_ms", "50", "above 0"),
        ("timeout_ms", True, "above 0"),
        ("colour", "red", "known are"),
    ],
)
def test_a_wrong_field_is_named_with_the_fix(field: str, value: Any, says: str) -> None:
    error = refused(**{field: value})
    assert error.field == field
    assert says in error.message
    assert error.status == 400


def test_a_request_may_ask_for_less_time_than_the_deployment_allows() -> None:
    limits = replace(WALL, timeout_ms=80.0)
    for asked, means in ((None, 80.0), (30, 30.0), (2.5, 2.5), (500, 80.0)):
        fields = {"user_id": "a", "query": "q"} | ({"timeout_ms": str(asked)} if asked else {})
        for request in (
            parsed(limits, timeout_ms=asked),
            parse_raw(b"", fields, limits, NOW),
        ):
            assert request.timeout_ms == means
            assert request.deadline == request.arrived + means / 1e3
    for wrong in ("0", "nan", "inf", "-1", "soon", ""):
        with pytest.raises(RequestError, match="milliseconds") as caught:
            parse_raw(b"", {"user_id": "a", "query": "q", "timeout_ms": wrong}, limits, NOW)
        assert caught.value.field == "timeout_ms"


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (None, {"country": "", "device": ""}),
        ({}, {"country": "", "device": ""}),
        ({"device": "tv", "country": "DE"}, {"country": "DE", "device": "tv"}),
        ({"device": 7, "country": ""}, {"country": "", "device": "7"}),
        ({"device": True, "country": None}, {"country": "", "device": "true"}),
    ],
)
def test_a_context_holds_every_segment_in_the_schemas_order(
    given: Any, means: dict[str, str]
) -> None:
    for request in (
        parsed(SEGMENTED, context=given),
        parse_raw(
            b"",
            {"user_id": "a", "query": "q", "context": orjson.dumps(given).decode()},
            SEGMENTED,
            NOW,
        ),
    ):
        assert list(request.context.items()) == list(means.items())


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("DE", "context"),
        (["DE"], "context"),
        ({"planet": "earth"}, "context.planet"),
        ({"country": 1.5}, "context.country"),
        ({"country": ["DE"]}, "context.country"),
        ({"country": "x" * 513}, "context.country"),
    ],
)
def test_a_wrong_context_is_named(given: Any, field: str) -> None:
    assert refused(SEGMENTED, context=given).field == field
    assert refused(WALL, context={"country": "DE"}).field == "context.country"


@pytest.mark.parametrize("weight", [-1, "1", True, None])
def test_a_wrong_weight_is_named(weight: Any) -> None:
    assert refused(weights={"save": weight}).field == "weights.save"


def test_too_many_candidates_is_413() -> None:
    assert refused(candidates=list(range(11))).status == 413


def test_candidates_are_counted_before_one_is_looked_at() -> None:
    assert refused(candidates=[{"colour": "red"}] * 11).status == 413
    assert refused(candidates=[None] * 11).status == 413
    small = replace(RETRIEVED, max_candidates=10)
    assert refused(small, candidates=[{}] * 11, retriever_scores=["x"] * 11).status == 413
    assert refused(small, candidates=[1], retriever_scores=["x"] * 11).field == "retriever_scores"


@pytest.mark.parametrize(
    ("k", "explain", "says"),
    [
        (10_001, False, "at most 10000 .max_k."),
        (10_001, True, "at most 10000 .max_k."),
        (1_001, True, "with `explain` .* at most 1000 .max_explained."),
    ],
)
def test_k_is_capped_and_more_so_where_it_is_explained(k: int, explain: bool, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        parsed(k=k, explain=explain)
    fields = {"user_id": "ann", "query": "red", "k": str(k), "explain": str(int(explain))}
    with pytest.raises(RequestError, match=says):
        parse_raw(b"", fields, WALL, NOW)


def test_k_may_be_what_the_deployment_allows() -> None:
    assert parsed(k=10_000).k == 10_000
    assert parsed(k=1_000, explain=True).k == 1_000
    wide = replace(WALL, max_k=20_000, max_explained=20_000)
    assert parsed(wide, k=20_000, explain=True).k == 20_000
    assert WALL.max_explained >= MAX_CANDIDATES, "parity has all its candidates explained"


@pytest.mark.parametrize(
    "changes",
    [
        {"x" * 100_000: 1},
        {"candidates": [["x" * 100_000]]},
        {"candidates": [["x"] * 100_000]},
        {"candidates": ["x" * 100_000]},
        {"weights": {"x" * 100_000: 1}},
        {"weights": {"save": ["x"] * 100_000}},
        {"context": {"x" * 100_000: 1}},
        {"k": "9" * 100_000},
    ],
)
def test_an_error_repeats_little_of_what_was_sent(changes: dict[str, Any]) -> None:
    assert len(refusal_of(refused(**changes)).body) < 1_000
    assert len(refusal_of(refused(REPLAY, time="x" * 100_000)).body) < 1_000


def test_weights_are_scaled_to_one_in_the_order_of_heads() -> None:
    np.testing.assert_allclose(parsed(weights={"save": 3, "engagement": 1}).weights, [0.25, 0.75])


def test_no_candidates_is_a_request_like_any_other() -> None:
    assert parsed(candidates=[]).keys.tolist() == []


def test_the_whole_index_is_refused_with_the_reason_where_ids_are_text() -> None:
    with pytest.raises(
        RequestError, match=r"text, of which the index holds hashes.*send a list"
    ) as no:
        parse_json(orjson.dumps({"user_id": "ann", "query": "red"}), STRINGS, NOW)
    assert (no.value.field, no.value.status) == ("candidates", 400)
    assert parsed(STRINGS, candidates=[]).keys.tolist() == []
    assert parse_json(orjson.dumps({"user_id": "ann", "query": "red"}), WALL, NOW).whole


def test_a_repeated_candidate_is_scored_once() -> None:
    assert parsed(candidates=[5, 3, 5, 3, 1]).keys.tolist() == [5, 3, 1]


def test_ids_come_back_as_they_were_sent() -> None:
    as_text = parsed(candidates=["12", str(2**60)])
    assert as_text.keys.tolist() == [12, 2**60]
    assert as_text.shown(as_text.keys[::-1]) == [str(2**60), "12"]
    assert "'007'" in refused(candidates=["12", "007"]).message
    named = parsed(STRINGS, candidates=["b", "a", "b"])
    assert named.shown(named.keys) == ["b", "a"]


def test_an_integer_is_refused_where_ids_are_strings() -> None:
    assert "quoted" in refused(STRINGS, candidates=[12]).message


@pytest.mark.parametrize(
    "time", ["2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00", "2023-11-14 22:13:20", NOW]
)
def test_replay_reads_iso_and_microseconds(time: str | int) -> None:
    assert parsed(REPLAY, time=time).time_us == NOW


@pytest.mark.parametrize(
    "time", [None, "yesterday", -1, 0, 1e15, 10**18, True, [], "9" * 30, "0001-01-01", 20240105]
)
def test_replay_refuses_what_is_no_time(time: Any) -> None:
    assert refused(REPLAY, time=time).field == "time"


def test_the_raw_form_says_the_same() -> None:
    ids = np.array([3, 1, 3, 2**60], "<i8")
    fields = {"user_id": "ann", "query": "Red shoes", "k": "2", "explain": "true"}
    request = parse_raw(ids.tobytes(), fields, WALL, NOW)
    assert (request.query, request.k, request.explain) == ("red shoes", 2, True)
    assert request.keys.tolist() == [3, 1, 2**60]
    assert request.shown(request.keys) == [3, 1, str(2**60)]
    weighted = parse_raw(b"", {**fields, "weights": '{"save": 1}'}, WALL, NOW)
    assert weighted.weights.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"k": "two"}, "k"),
        ({"k": "0"}, "k"),
        ({"weights": "{"}, "weights"),
        ({"query": ""}, "query"),
        ({"time": "1"}, "time"),
        ({"qurey": "x"}, "qurey"),
    ],
)
def test_raw_fields_are_checked_too(change: dict[str, str], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_raw(b"", {"user_id": "ann", "query": "red", **change}, WALL, NOW)
    assert caught.value.field == field


def test_a_raw_body_of_odd_length_is_refused() -> None:
    with pytest.raises(RequestError, match="3 bytes"):
        parse_raw(b"123", {"user_id": "ann", "query": "red"}, WALL, NOW)


FIELDS = ["user_id", "query", "candidates", "k", "time", "weights", "explain", "request_id"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.booleans())
def test_no_json_is_anything_but_read_or_refused(changes: dict[str, Any], replay: bool) -> None:
    # Any other exception would be a 500.
    with contextlib.suppress(RequestError):
        assert parsed(REPLAY if replay else WALL, **changes).query


def test_times_are_answered_in_iso() -> None:
    assert iso(NOW + 1) == "2023-11-14T22:13:20.000001Z"
    assert iso(None) is None
