"""The fields that every route takes mean the same on each, and are refused in the same words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from tests.api_bodies import NOW, REPLAY, SEGMENTED, WALL

from prerank.serving.api import parse_json, parse_raw
from prerank.serving.fields import Limits, RequestError
from prerank.serving.query import parse_query
from prerank.serving.request import COMMON_FIELDS, PrerankRequest
from prerank.serving.rerank import parse_rerank

Body = dict[str, Any]
GOOD: Body = {"user_id": "ann", "query": "red shoe"}


def raw(body: Body, limits: Limits) -> PrerankRequest:
    as_json = {"weights", "context"} & body.keys()
    fields = {name: str(value) for name, value in body.items()}
    return parse_raw(
        b"", fields | {name: orjson.dumps(body[name]).decode() for name in as_json}, limits, NOW
    )


READERS: Mapping[str, Callable[[Body, Limits], PrerankRequest]] = {
    "prerank": lambda body, limits: parse_json(
        orjson.dumps(body | {"candidates": []}), limits, NOW
    ),
    "raw": raw,
    "rerank": lambda body, limits: (
        parse_rerank(orjson.dumps(body | {"documents": []}), None, limits, NOW).request
    ),
    "query": lambda body, limits: parse_query(orjson.dumps(body), limits, NOW).request,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_left_out_has_one_default_on_every_route(reader: str) -> None:
    limits = replace(SEGMENTED, timeout_ms=80.0)
    request = READERS[reader](GOOD, limits)
    assert (request.user_id, request.query, request.time_us) == ("ann", "red shoe", NOW)
    assert request.timeout_ms == 80.0
    assert request.context == {"country": "", "device": ""}
    assert request.weights.tolist() == [1.0, 0.0]
    assert len(request.request_id) == 32


@pytest.mark.parametrize("reader", READERS)
def test_what_is_given_means_the_same_on_every_route(reader: str) -> None:
    given = {
        "request_id": "r1",
        "user_id": "ann",
        "query": " Red  SHOES ",
        "time": NOW - 5,
        "timeout_ms": 30,
        "weights": {"save": 3, "engagement": 1},
        "context": {"device": "tv"},
    }
    assert given.keys() == COMMON_FIELDS
    request = READERS[reader](given, replace(SEGMENTED, replay=True))
    assert (request.request_id, request.user_id, request.query) == ("r1", "ann", "red shoes")
    assert (request.time_us, request.timeout_ms) == (NOW - 5, 30.0)
    np.testing.assert_allclose(request.weights, [0.25, 0.75])
    assert request.context == {"country": "", "device": "tv"}


@pytest.mark.parametrize(
    ("limits", "field", "value", "named"),
    [
        (WALL, "request_id", "x" * 513, "request_id"),
        (WALL, "user_id", "x" * 513, "user_id"),
        (WALL, "query", "  ", "query"),
        (WALL, "time", NOW, "time"),
        (REPLAY, "time", "yesterday", "time"),
        (WALL, "timeout_ms", 0.0, "timeout_ms"),
        (WALL, "weights", {"zzz": 1}, "weights"),
        (WALL, "weights", {"save": -1}, "weights.save"),
        (WALL, "context", {"planet": "earth"}, "context.planet"),
    ],
)
def test_what_is_wrong_is_refused_in_the_same_words_on_every_route(
    limits: Limits, field: str, value: Any, named: str
) -> None:
    refusals = set()
    for read in READERS.values():
        with pytest.raises(RequestError) as caught:
            read(GOOD | {field: value}, limits)
        refusals.add((caught.value.field, caught.value.message, caught.value.status))
    assert len(refusals) == 1, refusals
    assert refusals.pop()[0] == named
