"""Spans of requests, in memory: one per request, one per stage below it, in the caller's trace."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from typing import Any, cast

import orjson
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from tests.http_calls import LOCAL, call, no_writers, whole
from tests.small_engine import SAMPLE, GivenScores, SmallEngine

from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.http import HttpApi
from prerank.serving.stages import FEATURES, PARSE, SCORE, SERIALISE, TOP_K, WAIT
from prerank.serving.tracing import ENDPOINT_ENV, Tracing, tracing_of_environment

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
RANKING = {"user_id": "the-user", "query": "the-query", "candidates": [1, 2], "request_id": "r7"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def engine() -> SmallEngine:
    return SmallEngine(SAMPLE, GivenScores({1: 0.5, 2: 0.25}))


@pytest.fixture
def api(exporter: InMemorySpanExporter, engine: SmallEngine) -> HttpApi:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return HttpApi(ServeConfig(), cast(Engine, engine), no_writers, Tracing(provider))


def send(api: HttpApi, path: str, body: Any = None, **headers: str) -> int:
    chunks = None if body is None else whole(orjson.dumps(body))
    return asyncio.run(call(api, path, chunks, LOCAL | headers)).status_code


def spans_of(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The span of the one request, and those below it."""
    spans = exporter.get_finished_spans()
    (whole_request,) = [s for s in spans if "prerank.route" in (s.attributes or {})]
    return whole_request, [s for s in spans if s is not whole_request]


def test_a_request_is_a_span_of_the_callers_trace_and_its_stages_lie_in_it(
    api: HttpApi, exporter: InMemorySpanExporter
) -> None:
    before = time.time_ns()
    assert send(api, "/v1/prerank", RANKING, traceparent=f"00-{TRACE}-{PARENT}-01") == 200
    after = time.time_ns()
    request, stages = spans_of(exporter)
    assert request.context is not None
    assert f"{request.context.trace_id:032x}" == TRACE
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert [s.name for s in stages] == [WAIT, PARSE, FEATURES, SCORE, TOP_K, SERIALISE]
    times = [before]
    assert request.start_time is not None
    times.append(request.start_time)
    for stage in stages:
        assert stage.parent is not None
        assert stage.parent.span_id == request.context.span_id
        assert stage.start_time is not None
        assert stage.end_time is not None
        times += [stage.start_time, stage.end_time]
    assert request.end_time is not None
    times += [request.end_time, after]
    # The wall clock is read in microseconds on some machines.
    assert all(b >= a - 1_000_000 for a, b in itertools.pairwise(times))


def test_a_request_without_a_trace_begins_one_and_no_span_holds_the_query_or_the_user(
    api: HttpApi, exporter: InMemorySpanExporter
) -> None:
    assert send(api, "/v1/prerank", RANKING) == 200
    request, stages = spans_of(exporter)
    assert request.parent is None
    assert dict(request.attributes or {}) == {
        "prerank.route": "prerank",
        "prerank.request_id": "r7",
        "http.response.status_code": 200,
    }
    assert len(stages) == 6
    text = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "the-user" not in text
    assert "the-query" not in text


def test_what_the_caller_does_not_sample_is_not_written(
    api: HttpApi, exporter: InMemorySpanExporter
) -> None:
    assert send(api, "/v1/prerank", RANKING, traceparent=f"00-{TRACE}-{PARENT}-00") == 200
    assert not exporter.get_finished_spans()


def test_refusals_are_spans_and_only_our_failures_are_errors(
    api: HttpApi,
    exporter: InMemorySpanExporter,
    engine: SmallEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert send(api, "/v1/prerank", RANKING | {"k": 0}) == 400
    request, stages = spans_of(exporter)
    assert (request.attributes or {})["http.response.status_code"] == 400
    assert request.status.status_code is StatusCode.UNSET
    assert [s.name for s in stages] == [WAIT]
    exporter.clear()
    monkeypatch.setattr(engine, "answer", lambda request: 1 / 0)
    assert send(api, "/v1/prerank", RANKING) == 500
    request, _ = spans_of(exporter)
    assert request.status.status_code is StatusCode.ERROR


def test_spans_are_written_where_a_collector_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(ENDPOINT_ENV, raising=False)
    assert tracing_of_environment() is None
    assert not caplog.records
    monkeypatch.setenv(ENDPOINT_ENV, "http://127.0.0.1:1")
    # An exporter that is not installed cannot be taken away where it is: it is hidden.
    exporter = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, exporter, None)
    assert tracing_of_environment() is None
    assert "interactrank-platform[otel]" in caplog.text
