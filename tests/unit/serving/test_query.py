"""``/v1/query``: an engine that holds the vectors of the index rebuilds each score of an answer."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import orjson
import pytest
import torch
from tests import samples
from tests.api_bodies import NOW, WALL
from tests.plain_requests import NOW as REQUEST_TIME
from tests.plain_requests import Request, as_inputs

from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS
from interactrank.model.scorer import Scorer
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.registry.bundle import Version
from prerank.registry.versions import Wanted
from prerank.serving.answer import Loaded, answer
from prerank.serving.api import parse_json
from prerank.serving.fields import RequestError
from prerank.serving.query import parse_query, query_answer

DAY = 86_400_000_000
LEVEL = LEVELS[0]
COLUMNS = samples.SCHEMA.columns(LEVEL)
ROW = pack(np.arange(1000, 1005), np.full((5, len(COLUMNS)), 3.0), COLUMNS, LEVEL)
LIMITS = dataclasses.replace(WALL, schema=samples.SCHEMA, max_candidates=50)
SEARCH = {"user_id": "ann", "query": "red", "weights": {"engagement": 0.7, "save": 0.3}}


class Reads:
    """Has read the features of ``asked``, whatever is searched."""

    def __init__(self, asked: Request) -> None:
        self.asked = asked

    def read(self, *_: Any) -> OnlineRead:
        return OnlineRead(as_inputs([self.asked]), 2, 0, None, ())


def loaded(asked: Request) -> Loaded:
    model = samples.new_model(samples.SHIPPED)
    with torch.no_grad():
        vectors = samples.item_vectors(model, samples.CATALOGUE)[1:].to(torch.bfloat16)
    scorer = Scorer(model, samples.CATALOGUE, samples.CATALOGUE.ids, vectors)
    features = cast(OnlineFeatures, Reads(asked))
    return Loaded(Wanted("champion", Version("1", "run")), scorer, LIMITS, features)


def cross(parts: dict[str, Any], item: int, created: int) -> float:
    """What an engine adds to the dot product, by what the answer says."""
    listed = dict(zip(parts["items"], parts["weights"], strict=True))
    if item in listed:
        return float(listed[item])
    others, days = parts["others"], (REQUEST_TIME - created) / DAY
    if not 0 < created <= REQUEST_TIME:
        return float(others["age_unknown"])
    t, g = np.array(others["fresh" if days < others["fresh_days"] else "old"]).T
    return float(np.interp(np.log1p(days), t, g))


def test_an_engine_rebuilds_the_scores_of_an_answer() -> None:
    asked = Request({"q:red": ROW}, [(1007, 1, REQUEST_TIME - 1, 5)])
    served = loaded(asked)
    parts = query_answer(parse_query(orjson.dumps(SEARCH), LIMITS, NOW).request, served).body
    parts = orjson.loads(orjson.dumps(parts))
    assert {*range(1000, 1005), 1007} <= set(parts["items"])
    ids = samples.CATALOGUE.ids.tolist()
    body = SEARCH | {"candidates": ids, "k": len(ids)}
    ranked = answer(parse_json(orjson.dumps(body), LIMITS, NOW), served).body["items"]
    vectors = served.scorer.vectors.float().numpy()
    created = dict(zip(ids, served.scorer.created.tolist(), strict=True))
    for item in ranked:
        dot = vectors[ids.index(item["id"])] @ np.array(parts["vector"], np.float32)
        rebuilt = dot + cross(parts, item["id"], created[item["id"]]) + parts["constant"]
        assert rebuilt == pytest.approx(item["score"], abs=1e-4), item


def test_what_is_damaged_is_left_out_and_named() -> None:
    request = parse_query(orjson.dumps(SEARCH), LIMITS, NOW).request
    found = query_answer(request, loaded(Request({"q:red": ROW[:-8]}))).body
    assert found["degraded"] == ["engagement"]
    assert found["items"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": "red"}, "user_id"),
        ({"user_id": "u"}, "query"),
        (SEARCH | {"candidates": [1]}, "candidates"),
        (SEARCH | {"k": 3}, "k"),
        (SEARCH | {"timeout_ms": 0}, "timeout_ms"),
        (SEARCH | {"versions": "3"}, "versions"),
        (SEARCH | {"versions": ["3"] * 17}, "versions"),
        (SEARCH | {"versions": ["3", 4]}, "versions[1]"),
        (SEARCH | {"versions": ["champion"]}, "versions[0]"),
    ],
)
def test_a_bad_request_is_told_the_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_query(orjson.dumps(body), LIMITS, NOW)
    assert refused.value.field == field
