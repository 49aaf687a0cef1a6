"""The other calls of a client, and how it is set up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests import samples
from tests.api_bodies import NOW, WALL
from tests.documented import block
from tests.http_calls import api_of
from tests.http_servers import BUSY, RANKED, FaultyServer, Served, answered, served
from tests.plain_requests import NOW as REQUEST_TIME
from tests.small_engine import SAMPLE, GivenScores, SmallEngine, sample_scorer

from prerank import (
    AsyncClient,
    Client,
    Event,
    QueryRequest,
    RankRequest,
    RerankRequest,
)
from prerank.client.answers import Accepted, Health, Readiness
from prerank.client.errors import (
    RefusedError,
)
from prerank.client.requests import event_calls
from prerank.core.environment import URL_ENV
from prerank.core.errors import ConfigError
from prerank.core.tokens import TOKEN_ENV
from prerank.online.history import Event as Taken
from prerank.online.writer import Written
from prerank.serving.api import parse_events
from prerank.serving.config import ServeConfig
from prerank.serving.http import HttpApi
from prerank.serving.lane import MAX_BODY

Ask = Callable[..., Any]
ROOT = Path(__file__).parents[3]
DAY_US = 86_400_000_000
TOKEN = "s3cret-s3cret"
RANK = RankRequest(user_id="ann", query="red shoe", candidates=[3, 1])
HEALTH: dict[str, Any] = {
    "code_version": "0.1.0",
    "model_version": "3",
    "run_id": "ab",
    "alias": "champion",
    "confirmed": True,
    "schema_hash": "12",
    "items": 30,
    "snapshot_cutoff": "2024-03-01T12:00:00Z",
    "clock": "wall",
    "dead_letters": 0,
    "notes": [],
}


class Reporting(SmallEngine):
    """Says of itself what a replica says; is ready or not as it is told."""

    readiness = (True, "")

    def health(self) -> dict[str, Any]:
        return HEALTH

    def ready(self) -> tuple[bool, str]:
        return self.readiness


class Writers:
    """Acknowledge everything, and remember it."""

    def __init__(self) -> None:
        self.calls: list[list[Taken]] = []

    async def __call__(self, events: list[Taken]) -> Written:
        self.calls.append(events)
        return Written(len(events), len(events) // 2, len(self.calls) < 2)


@pytest.fixture
def writers() -> Writers:
    return Writers()


@pytest.fixture
def with_writers(writers: Writers) -> Iterator[Served]:
    engine: Any = Reporting(WALL, GivenScores({}))
    with served(HttpApi(ServeConfig(), engine, writers)) as found:
        yield found


def event(at: int = 0, **changes: Any) -> Event:
    given: dict[str, Any] = {
        "user_id": "ann",
        "item_id": 5,
        "action": "click",
        "event_time": NOW + at,
    }
    return Event(**given | changes)


def test_documents_are_reranked(deployment: Served, ask: Ask) -> None:
    ids = [1003, 5, 1001, 1003]
    found = ask(deployment.url, "rerank", RerankRequest(query="red", documents=ids, top_n=4))
    assert sorted(found.indices.tolist()) == [0, 1, 2, 3]
    assert found.relevances[-1] > 0
    assert (found.indices.dtype, found.relevances.dtype) == (np.int64, np.float32)
    assert np.all(np.diff(found.relevances) <= 0)
    assert (found.unknown.tolist(), found.degraded) == ([5], ())
    texts = RerankRequest(query="red", documents=list(map(str, ids)), top_n=2, user_id="ann")
    found = ask(deployment.url, "rerank", texts)
    assert len(found.indices) == 2
    assert found.unknown.tolist() == ["5"]
    assert found.request_id == texts.request_id


def test_scores_are_rebuilt_from_their_parts(deployment: Served, ask: Ask) -> None:
    search: dict[str, Any] = {"user_id": "ann", "query": "red", "weights": {"save": 1.0}}
    parts = ask(deployment.url, "query", QueryRequest(**search))
    ids = samples.CATALOGUE.ids
    ranking = ask(deployment.url, "rank", RankRequest(**search, candidates=ids))
    created = sample_scorer().created
    # The sample's store reads every request as one of this time.
    age = (REQUEST_TIME - created) / DAY_US
    vectors = sample_scorer().vectors.float().numpy()
    rebuilt = parts.scores(ids, vectors, np.where(created > 0, age, np.nan))
    order = np.argsort(ids)
    expected = ranking.scores[np.argsort(ranking.ids)]
    np.testing.assert_allclose(rebuilt[order], expected, rtol=0, atol=1e-4)


def test_listed_items_have_weights_of_their_own() -> None:
    data = {
        "request_id": "r",
        "model_version": "1",
        "vector": [1.0, 2.0],
        "items": [7, "9007199254740993", 3],
        "weights": [0.5, 0.25, None],
        "others": {
            "age_unknown": -1.0,
            "fresh_days": 2.0,
            "fresh": [[0.0, 1.0], [2.0, 3.0]],
            "old": [[0.0, 10.0], [2.0, 30.0]],
        },
        "constant": 100.0,
        "degraded": ["scores"],
        "snapshot_cutoff": None,
    }
    with FaultyServer(answered(200, orjson.dumps(data))) as server, Client(server.url) as client:
        parts = client.query(QueryRequest(user_id="u", query="q"))
    ids = np.array([7, 2**53 + 1, 8, 9, 10, 11])
    days = np.array([np.nan, 1.0, np.nan, -1.0, np.expm1(1.0), np.expm1(1.5)])
    vectors = np.tile(np.array([1.0, 1.0], np.float32), (6, 1))
    expected = 103 + np.array([0.5, 0.25, -1.0, -1.0, 2.0, 25.0])
    assert parts.scores(ids, vectors, days).tolist() == pytest.approx(expected.tolist())
    assert np.isnan(parts.scores(np.array([3]), vectors[:1], days[:1])[0])
    assert (parts.degraded, parts.snapshot_cutoff) == (("scores",), None)


def test_what_is_known_of_an_item(deployment: Served, ask: Ask) -> None:
    found = ask(deployment.url, "item", 1001)
    assert (found.id, found.indexed, found.trained) == (1001, True, True)
    assert found.model_version == "1"
    assert ask(deployment.url, "item", "1001").id == "1001"
    assert not ask(deployment.url, "item", samples.UNTRAINED).trained
    with pytest.raises(RefusedError) as caught:
        ask(deployment.url, "item", 77)
    assert (caught.value.problem.status, caught.value.problem.field) == (404, "id")
    for odd in ("..", ".", "a/b", "ü ?#%2F", "../health"):
        with pytest.raises(RefusedError, match="is not an integer") as caught:
            ask(deployment.url, "item", odd)
        assert repr(odd) in caught.value.problem.detail


def test_what_runs_there(with_writers: Served, ask: Ask) -> None:
    found: Health = ask(with_writers.url, "health")
    assert (found.model_version, found.items, found.clock, found.notes) == ("3", 30, "wall", ())
    assert found.snapshot_cutoff == datetime(2024, 3, 1, 12, tzinfo=UTC)
    assert found.waiting == {"scoring": 0, "events": 0}


def test_not_to_be_ready_is_an_answer(with_writers: Served, ask: Ask) -> None:
    assert ask(with_writers.url, "ready") == Readiness(True)
    engine: Any = with_writers.api.engine
    engine.readiness = (True, "the store is away")
    assert ask(with_writers.url, "ready") == Readiness(True, "the store is away")
    engine.readiness = (False, "no champion")
    with_writers.seen.clear()
    assert ask(with_writers.url, "ready") == Readiness(False, "no champion")
    assert len(with_writers.seen) == 1


def test_events_are_taken_in_calls_of_as_many_as_are_allowed(
    with_writers: Served, writers: Writers, ask: Ask
) -> None:
    given = [event(at, query="red", request_id="r1") for at in range(10_003)]
    assert ask(with_writers.url, "events", given) == Accepted(10_003, 5_001, False)
    assert [len(call) for call in writers.calls] == [10_000, 3]
    taken = [each for call in writers.calls for each in call]
    assert [each.time - NOW for each in taken] == list(range(10_003))
    assert len({each.event_id for each in taken}) == 10_003
    writers.calls.clear()
    assert ask(with_writers.url, "events", []) == Accepted(0, 0, True)


def test_a_wrong_event_is_named_by_its_place_in_the_callers_list(
    with_writers: Served, writers: Writers, ask: Ask
) -> None:
    given = [event(at) for at in range(10_001)] + [event(action="zap")]
    with pytest.raises(RefusedError, match="zap") as caught:
        ask(with_writers.url, "events", given)
    assert caught.value.problem.field == "events[10001].action"
    # What came before it is in a journal, and would count once if it were sent again.
    assert [len(call) for call in writers.calls] == [10_000]


def test_no_call_of_events_is_larger_than_a_deployment_takes() -> None:
    wide = event(query="𝛂" * 1000, request_id="r" * 512, event_id="e" * 512)
    calls = list(event_calls([wide] * 7_000))
    assert len(calls) == 2
    assert all(len(call.content) < MAX_BODY for _, call in calls)
    sent = [orjson.loads(call.content)["events"] for _, call in calls]
    assert [first for first, _ in calls] == [0, len(sent[0])]
    assert sum(map(len, sent)) == 7_000


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (NOW, NOW),
        ("2023-11-14T22:13:20Z", NOW),
        (datetime(2023, 11, 14, 22, 13, 20), NOW),
        (datetime(2023, 11, 14, 22, 13, 20, 5, tzinfo=UTC) - timedelta(days=1), NOW - DAY_US + 5),
    ],
)
def test_a_time_is_a_datetime_or_text_or_a_number(
    with_writers: Served, writers: Writers, given: Any, read: int
) -> None:
    with Client(with_writers.url) as client:
        client.events([event(event_time=given)])
    assert writers.calls[0][0].time == read


@pytest.mark.parametrize("first", [None, BUSY], ids=["closed", "busy"])
def test_events_that_are_sent_again_are_the_same_events(ask: Ask, first: bytes | None) -> None:
    done = answered(200, b'{"accepted": 2, "passive": 0, "online": true}')
    given = [event(), event(event_id="e1", event_time=datetime.now(UTC))]
    with FaultyServer(first, done) as server:
        assert ask(server.url, "events", given).accepted == 2
    one, two = (body for _, body in server.requests)
    assert one == two
    now = time.time_ns() // 1000
    ids = [[e.event_id for e in parse_events(body, WALL, now)] for body in (one, two)]
    assert ids[0] == ids[1]


def test_a_client_has_its_address_and_token_from_the_environment(
    deployment: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_ENV, deployment.url)
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    deployment.seen.clear()
    with Client() as client:
        client.item(1001)
        assert repr(client) == f"Client('{deployment.url}')"
    with Client(deployment.url, "another") as client:
        client.item(1001)
    assert [token for *_, token in deployment.seen] == [f"Bearer {TOKEN}", "Bearer another"]


def test_the_example_of_the_documentation_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(api_of(SmallEngine(SAMPLE, sample_scorer()))) as found:
        monkeypatch.setenv(URL_ENV, found.url)
        exec(block("client"), {})
    assert [path for _, path, *_ in found.seen] == ["/v1/prerank", "/v1/events"]
    assert capsys.readouterr().out.strip().endswith("()")


def test_without_either_it_asks_the_address_that_the_deployments_file_has() -> None:
    assert repr(Client()) == "Client('http://127.0.0.1:8000')"
    assert repr(AsyncClient()) == "AsyncClient('http://127.0.0.1:8000')"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "http://", "http://localhost:x"]
)
def test_an_address_that_is_none_is_refused_at_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="`url`"):
        Client(url)
    monkeypatch.setenv(URL_ENV, url)
    with pytest.raises(ConfigError, match=URL_ENV):
        AsyncClient()


@pytest.mark.parametrize("options", [{"timeout": 0}, {"retries": -1}, {"token": "two words"}])
def test_a_setting_that_makes_no_sense_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Client(**options)


def test_a_deployment_under_a_path_is_called_there(ask: Ask) -> None:
    with FaultyServer(answered(200, RANKED)) as server:
        ask(f"{server.url}/ranker/", "rank", RANK)
    assert server.requests[0][0].startswith(b"POST /ranker/v1/prerank?")


def test_one_client_serves_many_tasks_at_once() -> None:
    async def main(url: str) -> list[Any]:
        async with AsyncClient(url) as client:
            asked = [
                RankRequest(user_id=at, query="red", candidates=[1000 + at, 1001])
                for at in range(20)
            ]
            return await asyncio.gather(*(client.rank(request) for request in asked))

    with served(api_of(SmallEngine(SAMPLE, sample_scorer()))) as found:
        rankings = asyncio.run(main(found.url))
    assert [len(ranking.ids) for ranking in rankings] == [2, 1, *[2] * 18]


def test_the_client_is_light_to_import() -> None:
    code = (
        "import sys, prerank; prerank.Client; prerank.RankRequest;"
        "print(sorted({m.split('.')[0] for m in sys.modules}"
        " & {'torch', 'numba', 'ray', 'mlflow', 'feast', 'pyarrow', 'pandas', 'pydantic'}))"
    )
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    done = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
