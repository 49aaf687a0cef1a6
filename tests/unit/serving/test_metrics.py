"""What a replica measures: the value of each metric after calls of its routes, and its export."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pytest
from tests.api_bodies import NOW
from tests.http_calls import LOCAL, api_of, call, endless, whole
from tests.small_engine import SAMPLE, GivenScores, SmallEngine, sample_scorer

from prerank.core.errors import NotReadyError
from prerank.online.history import Event
from prerank.online.writer import Written
from prerank.registry.bundle import Version
from prerank.registry.versions import Wanted
from prerank.serving import metrics
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.http import HttpApi
from prerank.serving.lane import MAX_BODY
from prerank.serving.metrics import METRICS, Metric, Metrics
from prerank.serving.ray_metrics import Export, Instrument, middles_of
from prerank.serving.routes import ARROW, JSON
from prerank.serving.stages import FEATURES, PARSE, ROWS, SCORE, SERIALISE, TOP_K, WAIT

RANKING = {"user_id": "u", "query": "red shoe", "candidates": [1, 2, 7, 8, 9], "k": 2}
RERANK = {"user_id": "u", "query": "red shoe", "documents": ["1", "2", "9"]}
EVENT = {"user_id": "u", "item_id": 1, "action": SAMPLE.schema.actions[0], "event_time": NOW}
SCORED = (WAIT, PARSE, FEATURES, SCORE, TOP_K, SERIALISE)


@pytest.fixture
def engine() -> SmallEngine:
    """Knows the items 1 to 3."""
    return SmallEngine(SAMPLE, GivenScores({1: 0.5, 2: 0.25, 3: 0.125}))


@pytest.fixture
def api(engine: SmallEngine) -> HttpApi:
    return api_of(engine, max_waiting=3, body_seconds=0.05)


def send(
    api: HttpApi, path: str, body: Any, status: int = 200, kind: str = JSON, **headers: str
) -> None:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    given = LOCAL | {"Content-Type": kind} | {k.replace("_", "-"): v for k, v in headers.items()}
    answer = asyncio.run(call(api, path, whole(data), given))
    assert answer.status_code == status, answer.body


def arrow(*candidates: list[int]) -> bytes:
    n = len(candidates)
    table = pa.table({"user_id": ["u"] * n, "query": ["q"] * n, "candidates": candidates})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def test_candidates_and_those_that_are_unknown_are_counted_by_route(api: HttpApi) -> None:
    send(api, "/v1/prerank", RANKING)
    send(api, "/v1/prerank", RANKING)
    send(api, "/v1/rerank", RERANK)
    send(api, "/v1/prerank", arrow([1, 2], [3, 9]), kind=ARROW)
    found = api.metrics
    for route, candidates, unknown in (("prerank", 10, 6), ("rerank", 3, 1), ("batch", 4, 1)):
        assert found.value(metrics.CANDIDATES, route) == candidates
        assert found.value(metrics.UNKNOWN_IDS, route) == unknown


@pytest.mark.parametrize(
    ("path", "body", "route", "stages"),
    [
        ("/v1/prerank", RANKING, "prerank", SCORED),
        ("/v1/rerank", RERANK, "rerank", SCORED),
    ],
)
def test_each_stage_and_the_whole_of_a_request_have_a_time(
    api: HttpApi, path: str, body: Any, route: str, stages: tuple[str, ...]
) -> None:
    for n in (1, 2):
        send(api, path, body)
        assert sum(api.metrics.buckets(metrics.LATENCY, route)) == n
        for stage in stages:
            assert sum(api.metrics.buckets(metrics.STAGE, route, stage)) == n, stage
    told = {labels[1] for name, labels in api.metrics.snapshot()[1] if name == metrics.STAGE.name}
    assert told == set(stages)


def test_the_parts_of_a_request_have_the_stages_without_a_top_k() -> None:
    api = api_of(SmallEngine(SAMPLE, sample_scorer()))
    send(api, "/v1/query", {"user_id": "u", "query": "red shoe"})
    assert sum(api.metrics.buckets(metrics.LATENCY, "query")) == 1
    told = [labels for name, labels in api.metrics.snapshot()[1] if name == metrics.STAGE.name]
    assert set(told) == {("query", stage) for stage in (WAIT, PARSE, FEATURES, SCORE, SERIALISE)}


def test_a_batch_has_a_time_as_a_whole_and_its_rows_have_their_stages(api: HttpApi) -> None:
    send(api, "/v1/prerank", arrow([1], [2], [3]), kind=ARROW)
    found = api.metrics
    assert sum(found.buckets(metrics.LATENCY, "batch")) == 1
    for stage in (WAIT, PARSE, ROWS, SERIALISE):
        assert sum(found.buckets(metrics.STAGE, "batch", stage)) == 1
    for stage in (FEATURES, SCORE, TOP_K):
        assert sum(found.buckets(metrics.STAGE, "batch", stage)) == 3


def test_a_stage_is_as_long_as_it_took(
    engine: SmallEngine, api: HttpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = engine.store.read

    def slow(*given: Any) -> Any:
        time.sleep(0.03)
        return read(*given)

    monkeypatch.setattr(engine.store, "read", slow)
    send(api, "/v1/prerank", RANKING)
    for metric, labels in ((metrics.STAGE, ("prerank", FEATURES)), (metrics.LATENCY, ("prerank",))):
        (at,) = np.flatnonzero(api.metrics.buckets(metric, *labels))
        assert (*metric.edges, np.inf)[at] >= 30.0


def test_what_an_answer_lacks_is_counted_by_cause(engine: SmallEngine, api: HttpApi) -> None:
    send(api, "/v1/prerank", RANKING)
    assert not [s for s in api.metrics.snapshot()[0] if s[0] == metrics.DEGRADED.name]
    engine.store.degraded = ("engagement", "user_history")
    send(api, "/v1/prerank", RANKING)
    engine.store.degraded = ("online_store",)
    send(api, "/v1/rerank", RERANK)
    for cause in ("engagement", "user_history", "online_store"):
        assert api.metrics.value(metrics.DEGRADED, cause) == 1


def test_scores_that_are_no_numbers_are_counted() -> None:
    api = api_of(SmallEngine(SAMPLE, GivenScores({1: np.nan, 2: 0.25, 7: np.inf})))
    send(api, "/v1/prerank", RANKING)
    assert api.metrics.value(metrics.NON_FINITE) == 2
    assert api.metrics.value(metrics.DEGRADED, "scores") == 1


def test_what_was_read_online_is_told(api: HttpApi) -> None:
    send(api, "/v1/prerank", RANKING)
    assert api.metrics.value(metrics.KEYS) == 2
    assert api.metrics.buckets(metrics.BYTES) == (1, *[0] * len(metrics.BYTES.edges))


def test_refusals_are_counted_by_reason(api: HttpApi) -> None:
    send(api, "/v1/prerank", b"{", 400)
    send(api, "/v1/prerank", RANKING | {"k": 0}, 400)
    send(api, "/v1/rerank", RERANK, 413, content_length=str(MAX_BODY + 1))
    send(api, "/v1/query", {}, 415, kind="text/plain")
    send(api, "/v1/events", {}, 421, Host="evil.example")
    send(api, "/v1/events", {}, 403, Origin="http://evil.example")
    send(api, "/v3", {}, 404)
    told = {s[1]: v for s, v in api.metrics.snapshot()[0].items() if s[0] == metrics.REFUSED.name}
    assert told == {
        ("prerank", "bad_request"): 2,
        ("rerank", "too_large"): 1,
        ("query", "content_type"): 1,
        ("events", "host"): 1,
        ("events", "origin"): 1,
        ("other", "not_found"): 1,
    }
    assert not api.metrics.buckets(metrics.LATENCY, "prerank"), "a refusal is no answer"


def test_a_full_queue_a_slow_body_and_a_replica_that_is_not_ready_are_other_reasons(
    engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full() -> HttpApi:
        api = api_of(engine, max_waiting=1, body_seconds=0.05)
        slow = asyncio.create_task(call(api, "/v1/prerank", endless(b"{")))
        await asyncio.sleep(0)
        assert (await call(api, "/v1/prerank", whole(b"{}"))).status_code == 503
        assert (await slow).status_code == 408
        return api

    api = asyncio.run(full())
    assert api.metrics.value(metrics.REFUSED, "prerank", "queue_full") == 1
    assert api.metrics.value(metrics.REFUSED, "prerank", "slow_body") == 1

    def starting() -> Any:
        raise NotReadyError("starting")

    monkeypatch.setattr(engine, "limits", starting)
    send(api, "/v1/prerank", RANKING, 503)
    assert api.metrics.value(metrics.REFUSED, "prerank", "not_ready") == 1
    monkeypatch.setattr(engine, "limits", lambda: 1 / 0)
    send(api, "/v1/prerank", RANKING, 500)
    assert api.metrics.value(metrics.REFUSED, "prerank", "internal") == 1


def test_places_in_use_are_told_and_how_many_there_are(api: HttpApi) -> None:
    async def main() -> None:
        slow = [asyncio.create_task(call(api, "/v1/prerank", endless(b"{"))) for _ in range(2)]
        await asyncio.sleep(0)
        api.sample()
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)

    asyncio.run(main())
    assert api.metrics.value(metrics.WAITING, "scoring") == 2
    assert api.metrics.value(metrics.WAITING, "events") == 0
    assert api.metrics.value(metrics.WAITING_LIMIT) == 3
    api.sample()
    assert api.metrics.value(metrics.WAITING, "scoring") == 0


def test_events_are_counted_and_histories_are_as_fresh_as_the_last_that_entered(
    engine: SmallEngine,
) -> None:
    online = False

    async def acknowledge(events: list[Event]) -> Written:
        return Written(len(events), 0, online)

    api = HttpApi(ServeConfig(), cast(Engine, engine), acknowledge)
    send(api, "/v1/events", {"events": [EVENT, EVENT]})
    api.sample()
    assert api.metrics.value(metrics.EVENTS, "false") == 2
    assert metrics.HISTORY_FRESHNESS.name not in {s[0] for s in api.metrics.snapshot()[0]}
    online = True
    send(api, "/v1/events", {"events": [EVENT]})
    api.sample()
    assert api.metrics.value(metrics.EVENTS, "true") == 1
    assert 0 <= api.metrics.value(metrics.HISTORY_FRESHNESS) < 60
    before = api.metrics.value(metrics.HISTORY_FRESHNESS)
    api.sample()
    assert api.metrics.value(metrics.HISTORY_FRESHNESS) > before


def test_the_store_the_snapshot_and_the_model_are_told(engine: SmallEngine, api: HttpApi) -> None:
    engine.store.cutoff = time.time_ns() // 1000 - 3_600_000_000
    api.sample()
    assert api.metrics.value(metrics.BREAKER) == 0
    assert 3_600 <= api.metrics.value(metrics.FEATURE_FRESHNESS) < 3_660
    schema = SAMPLE.schema.hash()
    assert api.metrics.value(metrics.MODEL, "1", "run", schema) == 1
    engine.store.away = True
    engine.loaded = replace(engine.loaded, wanted=Wanted("champion", Version("2", "another")))
    api.sample()
    assert api.metrics.value(metrics.BREAKER) == 1
    assert api.metrics.value(metrics.MODEL, "2", "another", schema) == 1
    assert api.metrics.value(metrics.MODEL, "1", "run", schema) == 0


def test_a_replica_that_serves_nothing_tells_what_it_can(
    engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starting() -> Any:
        raise NotReadyError("starting")

    monkeypatch.setattr(engine, "current", starting)
    api = api_of(engine)
    api.sample()
    told = {name for name, _ in api.metrics.snapshot()[0]}
    refused = (metrics.MODEL_REFUSED, metrics.EXPERIMENT_REFUSED)
    known = (metrics.WAITING, metrics.WAITING_LIMIT, *refused)
    assert told == {metric.name for metric in known}


class Exported:
    """What an exporter was told, as Prometheus would add it up."""

    def __init__(self) -> None:
        self.values: dict[Any, float] = defaultdict(float)
        self.buckets: dict[Any, list[float]] = defaultdict(list)

    def made(self, metric: Metric) -> Instrument:
        def tell(value: float, tags: dict[str, str]) -> None:
            assert tuple(tags) == metric.labels
            series = metric.name, tuple(tags.values())
            if metric.kind == "histogram":
                self.buckets[series].append(value)
            elif metric.kind == "gauge":
                self.values[series] = value
            else:
                assert value > 0, "Ray takes no counter that does not grow"
                self.values[series] += value

        return tell


def test_what_is_exported_adds_up_to_what_was_measured(api: HttpApi) -> None:
    exported = Exported()
    export = Export(api.metrics, api.sample, exported.made)
    for _ in range(3):
        send(api, "/v1/prerank", RANKING)
        export.flush()
    send(api, "/v1/prerank", b"{", 400)
    export.flush()
    export.flush()
    values, buckets = api.metrics.snapshot()
    assert exported.values == {s: v for s, v in values.items() if v or s in exported.values}
    for (name, labels), counts in buckets.items():
        (edges,) = [m.edges for m in METRICS if m.name == name]
        found = np.searchsorted(edges, exported.buckets[name, labels])
        assert np.bincount(found, minlength=len(edges) + 1).tolist() == list(counts)


def test_a_value_stands_in_the_first_bucket_whose_edge_it_is_not_above() -> None:
    found, metric = Metrics(), Metric("m", "", "histogram", (), (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        found.observe(metric, value)
    assert found.buckets(metric) == (2, 2, 1)
    assert middles_of(metric.edges) == [0.5, 1.5, 4.0]


def test_names_and_labels_are_prometheus_own() -> None:
    assert len({m.name for m in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("prerank_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.edges) == (metric.kind == "histogram")
        assert list(metric.edges) == sorted(set(metric.edges))
