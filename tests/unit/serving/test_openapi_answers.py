"""The OpenAPI document says what the routes answer: each answer is what is declared of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from pydantic import BaseModel
from tests import samples
from tests.api_bodies import NOW
from tests.http_calls import LOCAL, api_of, call, whole
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from prerank.serving import answer_models as models
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.routes import ARROW, JSON, ROUTES


def answered(path: str, body: Any = None, **headers: str) -> bytes:
    api = api_of(SmallEngine(replace(SAMPLE, replay=False), sample_scorer()))
    sent = None if body is None else whole(orjson.dumps(body))
    answer = asyncio.run(call(api, path, sent, LOCAL | headers))
    assert answer.status_code == 200, answer.body
    return bytes(answer.body)


RANKING = {"user_id": "u", "query": "red shoe", "candidates": [1000, 1001, 5], "k": 2}
EVENT = {"user_id": "u", "item_id": 1000, "action": "click", "event_time": NOW}


@pytest.mark.parametrize(
    ("model", "path", "body"),
    [
        (models.PrerankAnswer, "/v1/prerank", RANKING),
        (models.PrerankAnswer, "/v1/prerank", RANKING | {"explain": True}),
        (
            models.RerankAnswer,
            "/v1/rerank",
            {"query": "red", "documents": ["1000", "5"], "return_documents": True},
        ),
        (models.Item, f"/v1/items/{samples.UNTRAINED}", None),
        (models.EventsAnswer, "/v1/events", {"events": [EVENT]}),
        (models.Ready, "/ready", None),
    ],
)
def test_an_answer_is_what_is_declared(model: type[BaseModel], path: str, body: Any) -> None:
    found = orjson.loads(answered(path, body))
    model.model_validate(found, strict=True)
    (declared,) = [route.answers[JSON] for route in ROUTES if route.match(path) is not None]
    assert declared is model


def test_the_health_of_a_replica_is_what_is_declared(tmp_path: Path) -> None:
    engine = Engine(ServeConfig(home=str(tmp_path)))
    answer = asyncio.run(call(api_of(engine), "/health"))
    models.Health.model_validate_json(bytes(answer.body), strict=True)


def test_the_answer_in_arrow_has_the_columns_that_are_named() -> None:
    table = pa.table({"user_id": ["u"], "query": ["q"], "candidates": [[1000]]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    api = api_of(SmallEngine(replace(SAMPLE, replay=False), sample_scorer()))
    headers = LOCAL | {"Content-Type": ARROW}
    answer = asyncio.run(call(api, "/v1/prerank", whole(sink.getvalue().to_pybytes()), headers))
    columns = pa.ipc.open_stream(bytes(answer.body)).schema.names
    words = ROUTES[0].answers[ARROW]
    assert isinstance(words, str)
    assert np.all([f"`{name}`" in words for name in columns])
