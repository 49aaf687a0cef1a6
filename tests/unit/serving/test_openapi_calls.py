"""Calls of every kind that the OpenAPI document allows or forbids: each is answered as declared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from tests.http_calls import api_of
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.routes import ARROW

schemathesis = pytest.importorskip(
    "schemathesis", reason="schemathesis is not installed: `make install` has it"
)
HOST = "127.0.0.1"
LIMITS = replace(SAMPLE, max_candidates=50, max_k=50, max_explained=20)


class ARealHealth(SmallEngine):
    """Made-up scores; health is that of an engine which has served nothing yet."""

    def health(self) -> dict[str, Any]:
        return Engine(ServeConfig(home=str(Path("/nowhere")))).health()


class App:
    """A replica's routes as an ASGI application."""

    def __init__(self) -> None:
        engine = ARealHealth(LIMITS, sample_scorer())
        self.api = api_of(engine, max_candidates=50, max_k=50, max_explained=20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        response = await self.api.answer(Request(scope, receive))
        await response(scope, receive, send)


OTHERS = (
    # What is allowed of names and times is the log's and the clock's: no schema knows it.
    "positive_data_acceptance",
    # The query string goes with bytes, the header with a body without `user_id`; others ignore it.
    "negative_data_rejection",
)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", App(), headers={"Host": HOST})


@schemathesis.serializer(ARROW)
def bytes_of(_: Any, value: Any) -> bytes:
    """Whatever was drawn: hardly ever a stream of Arrow."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@SCHEMA.parametrize()
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_call_is_answered_as_declared(case: Any) -> None:
    excluded = schemathesis.checks.CHECKS.get_by_names(OTHERS)
    case.call_and_validate(base_url=f"http://{HOST}", excluded_checks=excluded)
