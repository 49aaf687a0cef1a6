"""The answer of a request: what `explain` tells is what was scored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest
from tests.api_bodies import NOW, SCHEMA, WALL
from tests.unit.test_imports import imported

import prerank.serving.answer
from interactrank.features.schema import REQUEST_NUMERIC
from interactrank.model.scorer import Scored, Scorer
from prerank.online.reader import OnlineFeatures, OnlineRead
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
        return Scored(IDS, scores, scores, scores, np.zeros(0, np.int64), 1.0, 0.0, X, REQUEST)


class NoFeatures:
    def read(self, *_: Any) -> OnlineRead:
        return OnlineRead(cast(Any, None), 0, 0, None, ())


@pytest.mark.parametrize("k", [2, 3])
def test_explain_tells_the_features_that_were_scored(k: int) -> None:
    features = cast(OnlineFeatures, NoFeatures())
    loaded = Loaded(Wanted("1", "v1"), cast(Scorer, FixedScorer()), WALL, features)
    body = {"user_id": "ann", "query": "red", "candidates": [3, 1, 2], "k": k, "explain": True}
    request = parse_json(orjson.dumps(body), WALL, NOW)
    told = answer(request, loaded).body
    assert [item["id"] for item in told["items"]] == [1, 3, 2][:k]
    for item in told["items"]:
        assert item["features"] == named(SCHEMA.cross, X[IDS.tolist().index(item["id"])])
    assert told["request_features"] == named(REQUEST_NUMERIC, REQUEST)


def test_the_answer_computes_no_feature() -> None:
    source = Path(prerank.serving.answer.__file__)
    assert "interactrank.features.engagement" not in imported(source)
    assert "request_features(" not in source.read_text()
