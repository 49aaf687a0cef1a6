"""What the demo says of an engagement is the engagement's doing. No Ray: the server is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
import pandas as pd
import pytest
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from prerank.core.processes import redis_server
from prerank.core.times import DAY_US
from prerank.demo import LiveRequest, changed, converse, interrupt


class MadeUp:
    """Scores fall by 1 a day, and change by ``worth`` for a saved item."""

    def __init__(self, worth: float) -> None:
        self.worth, self.saved, self.asked = worth, set[int](), list[dict[str, Any]]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content)
        if request.url.path == "/v1/events":
            self.saved |= {e["item_id"] for e in body["events"]}
            return httpx.Response(200, json={})
        self.asked.append(body)
        days = pd.Timestamp(body["time"]).timestamp() * 1e6 / DAY_US
        items = []
        for i in body["candidates"]:
            touched = float(i in self.saved)
            score = -days - i + touched * self.worth
            features = {"item:log_age_days": days} | ({"user:touched": 1.0} if touched else {})
            items.append({"id": i, "score": score, "dot": 0.5, "features": features})
        items.sort(key=lambda item: -item["score"])
        return httpx.Response(200, json={"model_version": "1", "items": items[: body["k"]]})


@pytest.mark.parametrize(("worth", "place"), [(1.5, 2), (-1.0, 3)])
def test_the_effect_of_a_save_is_told_apart_from_times(
    worth: float, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server = MadeUp(worth)
    body = {
        "user_id": "u",
        "query": "q",
        "candidates": [1, 2, 3],
        "k": 2,
        "time": "2024-05-01T00:00:00Z",
    }
    with httpx.Client(transport=httpx.MockTransport(server), base_url="http://made.up") as client:
        converse(client, LiveRequest(body, {3: "a chair"}))
    said = capsys.readouterr().out
    assert server.saved == {3}
    assert server.asked[-1] == server.asked[-2]
    days = pd.Timestamp("2024-05-03T00:01:00Z").timestamp() * 1e6 / DAY_US
    assert f"score {-days - 3:.3f} → {-days - 3 + worth:.3f}" in said
    assert "features that changed: user:touched 0 → 1\n" in said
    assert f"place 3 of 3 without the save, {place} with it" in said
    assert "(a chair)" in said


def test_features_that_appear_vanish_or_stay() -> None:
    old = {"score": 1.0, "dot": 0.1, "features": {"a": 1.0, "b": 0.5, "c": 2.0}}
    new = {"score": 0.0, "dot": 0.2, "features": {"a": 1.0, "c": 2.5, "d": 0.25}}
    assert changed(old, new) == (
        "features that changed: b 0.5 → 0, c 2 → 2.5, d 0 → 0.25\n"
        "   dot product 0.100 → 0.200; score 1.000 → 0.000"
    )
    assert "changed: none" in changed(old, old)


def test_an_answer_without_the_store_and_its_recovery_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with redis_server(tmp_path) as store:
        if store is None:
            pytest.skip("there is no redis-server here")
        process = store.process
        host, port = store.address.split(":")
        redis = Redis(host, int(port), socket_timeout=0.05, retry=Retry(NoBackoff(), 0))

        def served(_: httpx.Request) -> httpx.Response:
            try:
                redis.ping()
            except RedisError:
                return httpx.Response(200, json={"degraded": ["history"]})
            return httpx.Response(200, json={"degraded": []})

        transport = httpx.MockTransport(served)
        with httpx.Client(transport=transport, base_url="http://made.up") as client:
            interrupt(client, LiveRequest({}, {}), store)
        redis.close()
    said = capsys.readouterr().out
    assert "5 requests are answered" in said
    assert "degraded ['history']" in said
    assert "later answers have them all again" in said
    assert process is not None
    assert process.poll() is not None
