"""The answer of a request: what `explain` tells is what was scored."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest
import torch
from tests import plain_requests, samples
from tests.api_bodies import NOW, SCHEMA, WALL
from tests.plain_requests import Request, as_inputs
from tests.unit.test_imports import imported

import prerank.serving.answer
from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS, REQUEST_NUMERIC
from interactrank.model.scorer import Scored, Scorer
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.registry.bundle import Version
from prerank.registry.versions import Wanted
from prerank.serving.answer import Loaded, answer
from prerank.serving.api import named, parse_json

RNG = np.random.default_rng(0)
IDS = np.array([3, 1, 2])
X = (RNG.random((3, len(SCHEMA.cross))) * RNG.integers(0, 2, len(SCHEMA.cross))).astype(np.float32)
REQUEST = RNG.random(len(REQUEST_NUMERIC)).astype(np.float32)


class FixedScorer:
    """Has scored already; there are no feature inputs to compute anything from."""

    model = SimpleNamespace(schema=SCHEMA)

    def score(self, *_: Any) -> Scored:
        scores = np.array([0.5, 0.9, 0.1], np.float32)
        none = np.zeros(0, np.int64)
        return Scored(IDS, scores, scores, scores, none, 1.0, 0.0, X.__getitem__, REQUEST)


class NoFeatures:
    def read(self, *_: Any) -> OnlineRead:
        return OnlineRead(cast(Any, None), 0, 0, None, ())


@pytest.mark.parametrize("k", [2, 3])
def test_explain_tells_the_features_that_were_scored(k: int) -> None:
    features = cast(OnlineFeatures, NoFeatures())
    loaded = Loaded(
        Wanted("champion", Version("1", "run")), cast(Scorer, FixedScorer()), WALL, features
    )
    body = {"user_id": "ann", "query": "red", "candidates": [3, 1, 2], "k": k, "explain": True}
    request = parse_json(orjson.dumps(body), WALL, NOW)
    told = answer(request, loaded).body
    assert [item["id"] for item in told["items"]] == [1, 3, 2][:k]
    for item in told["items"]:
        assert item["features"] == named(SCHEMA.cross, X[IDS.tolist().index(item["id"])])
    assert told["request_features"] == named(REQUEST_NUMERIC, REQUEST)


def test_features_are_read_by_the_requests_deadline() -> None:
    asked: list[tuple[Any, ...]] = []

    class Asked(NoFeatures):
        def read(self, *given: Any) -> OnlineRead:
            asked.append(given)
            return super().read()

    champion, scorer = Wanted("champion", Version("1", "run")), cast(Scorer, FixedScorer())
    body = {"user_id": "ann", "query": "red", "candidates": [3, 1, 2], "timeout_ms": 40}
    request = parse_json(orjson.dumps(body), WALL, NOW)
    answer(request, Loaded(champion, scorer, WALL, cast(OnlineFeatures, Asked())))
    assert asked == [("red", "ann", NOW, {}, request.arrived + 0.04)]


LEVEL = LEVELS[0]
COLUMNS = samples.SCHEMA.columns(LEVEL)
ROW = pack(np.arange(1000, 1005), np.full((5, len(COLUMNS)), 3.0), COLUMNS, LEVEL)
LIMITS = dataclasses.replace(WALL, schema=samples.SCHEMA)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    model = samples.new_model(samples.SHIPPED)
    with torch.no_grad():
        vectors = samples.item_vectors(model, samples.CATALOGUE)[1:].to(torch.bfloat16)
    scorer = Scorer(model, samples.CATALOGUE, samples.CATALOGUE.ids, vectors)
    nothing = cast(OnlineFeatures, NoFeatures())
    return Loaded(Wanted("champion", Version("1", "run")), scorer, LIMITS, nothing)


def told(loaded: Loaded, asked: Request, score: float | None = None) -> dict[str, Any]:
    """The answer to a request for three items, of whose features ``asked`` was read."""

    class Read:
        def read(self, *_: Any) -> OnlineRead:
            return OnlineRead(as_inputs([asked]), 2, 0, None, ())

    candidates = [{"id": i, "score": score if i == 1001 else 1.0} for i in (1000, 1001, 1002)]
    body = {"user_id": "ann", "query": "red", "candidates": candidates, "k": 1, "explain": True}
    request = parse_json(orjson.dumps(body), LIMITS, NOW)
    read = dataclasses.replace(loaded, features=cast(OnlineFeatures, Read()))
    return answer(request, read).body


SOUND = Request({"q:red": ROW}, [(1000, 1, plain_requests.NOW - 1, 5)])
BAD_ROW: dict[str, bytes | None] = {"q:red": ROW[:-8]}
BAD_PAST = [(1000, 2**40, plain_requests.NOW - 1, 5)]


@pytest.mark.parametrize(
    ("damaged", "left", "degraded"),
    [
        (SOUND, SOUND, []),
        (Request(BAD_ROW, SOUND.history), Request({}, SOUND.history), ["engagement"]),
        (Request(SOUND.rows, BAD_PAST), Request(SOUND.rows), ["user_history"]),
        (Request(BAD_ROW, BAD_PAST), Request(), ["engagement", "user_history"]),
    ],
    ids=["nothing", "row", "history", "both"],
)
def test_what_is_damaged_is_left_out_and_named(
    loaded: Loaded, damaged: Request, left: Request, degraded: list[str]
) -> None:
    found, clean = told(loaded, damaged), told(loaded, left)
    assert found["degraded"] == degraded
    # As JSON, in which a statistic that is not known is null.
    for part in ("items", "request_features"):
        assert orjson.dumps(found[part]) == orjson.dumps(clean[part])
    assert clean["degraded"] == []


def test_a_score_that_is_huge_orders_like_any_other(loaded: Loaded) -> None:
    found = told(loaded, Request(), 3e38)
    assert len(found["items"]) == 1
    assert found["degraded"] == []
    assert "non_finite" not in found


def test_scores_that_are_no_numbers_come_last_and_are_counted(loaded: Loaded) -> None:
    model = copy.deepcopy(loaded.scorer.model)
    at = samples.SCHEMA.cross.index("retriever:absent")
    with torch.no_grad():
        model.fusion.weight[at] = torch.inf
    scorer = Scorer(model, samples.CATALOGUE, loaded.scorer.table.ids, loaded.scorer.vectors)
    broken = dataclasses.replace(loaded, scorer=scorer)
    found = told(broken, Request(), 1.0)
    assert found["non_finite"] == 3
    assert found["degraded"] == ["scores"]
    assert len(found["items"]) == 1
    assert orjson.loads(orjson.dumps(found))["items"][0]["score"] is None


def test_the_answer_computes_no_feature() -> None:
    source = Path(prerank.serving.answer.__file__)
    assert "interactrank.features.engagement" not in imported(source)
    assert "request_features(" not in source.read_text()
