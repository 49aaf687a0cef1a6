"""More rankings than can be scored: the rest is refused at once, and nobody else is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import orjson
import pyarrow as pa
import pytest
from starlette.responses import Response
from tests.api_bodies import WALL
from tests.http_calls import LOCAL, Held, api_of, call, endless, until, whole
from tests.small_engine import GivenScores, SmallEngine

from prerank.serving import metrics
from prerank.serving.http import HttpApi
from prerank.serving.overload import PARDON_S, UNREAD, Overload, OverloadedError
from prerank.serving.routes import ARROW
from prerank.serving.stages import FEATURES, SCORE, WAIT, Stages

BUDGET_MS, SERVICE_MS = 100.0, 5.0
RANKING = orjson.dumps({"user_id": "u", "query": "red", "candidates": [3, 1], "k": 1})
MOMENT = 1e-3
"""A budget, in milliseconds, that is shorter than anything takes."""


class Replica(Overload):
    """Time goes by when ``now``, in seconds, is changed."""

    def __init__(self, threads: int = 1) -> None:
        self.now = 1_000.0
        super().__init__(BUDGET_MS, threads, lambda: self.now)

    def serve(
        self,
        times: int = 1,
        read_ms: float = 1.0,
        score_ms: float = SERVICE_MS - 1,
        degraded: Collection[str] = (),
    ) -> None:
        """Answer requests, each of which waited for half a second."""
        stages = Stages()
        ends = [(WAIT, 500.0), (FEATURES, 500.0 + read_ms), (SCORE, 500.0 + read_ms + score_ms)]
        stages.add([(stage, stages.begun + int(1e6 * ms)) for stage, ms in ends])
        for _ in range(times):
            self.served(stages, degraded)

    def admits(self, ahead: int) -> bool:
        try:
            self.join(ahead)
        except OverloadedError:
            return False
        return True

    def works_on(self, waited_ms: float, ahead: int = 9, **own: float) -> bool:
        try:
            self.turn(self.now - waited_ms / 1e3, ahead, **own)
        except OverloadedError:
            return False
        return True


@pytest.fixture
def replica() -> Replica:
    """One that has scored for a while, each request in SERVICE_MS."""
    found = Replica()
    found.serve(100)
    return found


def test_a_line_is_as_long_as_three_quarters_of_the_budget(replica: Replica) -> None:
    assert replica.admits(14)
    with pytest.raises(OverloadedError, match="17 are ahead of it, for about 82 ms"):
        replica.join(17)


def test_a_line_before_several_threads_moves_faster() -> None:
    four = Replica(threads=4)
    four.serve(100)
    assert four.admits(4 * 14)
    assert not four.admits(4 * 16)


def test_slow_requests_make_the_line_shorter_and_fast_ones_longer(replica: Replica) -> None:
    replica.serve(100, score_ms=33.0)
    assert replica.admits(2)
    assert not replica.admits(3)
    replica.serve(100)
    assert replica.admits(14)


def test_a_request_whose_turn_comes_too_late_is_refused(replica: Replica) -> None:
    assert replica.works_on(BUDGET_MS - SERVICE_MS - 1)
    assert not replica.works_on(BUDGET_MS - SERVICE_MS + 1)
    with pytest.raises(OverloadedError, match=r"within 100 ms \(timeout_ms\)"):
        replica.turn(0.0, 9)


def test_a_request_may_have_less_time_than_the_deployment_and_not_more(replica: Replica) -> None:
    assert replica.works_on(10, budget_ms=20.0)
    assert not replica.works_on(18, budget_ms=20.0)
    assert not replica.works_on(BUDGET_MS, budget_ms=1e6)


def test_before_anything_was_measured_everybody_joins() -> None:
    assert Replica().admits(64)


def test_one_with_nobody_waiting_before_it_is_never_refused(replica: Replica) -> None:
    replica.serve(100, score_ms=10 * BUDGET_MS)
    for ahead in (0, 1):
        assert replica.admits(ahead)
        assert replica.works_on(10 * BUDGET_MS, ahead, budget_ms=MOMENT)
    assert not replica.admits(2)
    assert not replica.works_on(10 * BUDGET_MS, 2)


def test_who_waits_for_the_store_is_not_refused(replica: Replica) -> None:
    replica.serve(read_ms=BUDGET_MS, degraded=UNREAD)
    replica.now += PARDON_S - 0.1
    assert replica.admits(60)
    assert replica.works_on(BUDGET_MS)
    # With what little time the others leave them, further reads do not end either.
    replica.serve(read_ms=6.0, degraded=UNREAD)
    assert replica.admits(60)
    replica.now += 0.2
    assert not replica.admits(60)
    assert replica.works_on(150), "it came in that second"


def test_once_the_store_answers_in_time_the_load_is_refused_again(replica: Replica) -> None:
    replica.serve(read_ms=BUDGET_MS, degraded=UNREAD)
    replica.now += 0.2
    replica.serve()
    assert replica.works_on(BUDGET_MS + 1), "it came before"
    replica.now += 0.2
    assert not replica.admits(60)
    assert not replica.works_on(BUDGET_MS + 1)


def test_a_late_store_is_no_measure_of_the_work(replica: Replica) -> None:
    replica.serve(50, read_ms=BUDGET_MS, degraded=UNREAD)
    replica.serve()
    replica.now += 1e-3
    assert replica.admits(14)
    assert not replica.admits(16)


def test_one_that_took_far_longer_than_the_others_says_little(replica: Replica) -> None:
    replica.serve(score_ms=60_000.0)
    assert replica.admits(13)
    for _ in range(20):
        replica.serve(9)
        replica.serve(score_ms=60_000.0)
    assert replica.admits(12)


@pytest.mark.parametrize(("service_ms", "goodput"), [(7.0, 0.97), (30.0, 0.9)])
def test_at_twice_what_can_be_scored_all_of_it_is_scored_and_in_time(
    service_ms: float, goodput: float
) -> None:
    """Poisson arrivals and one thread, by the clock of the test."""
    draw, replica, n = random.Random(1), Replica(), 4_000
    score_ms = service_ms - 1.0
    line: list[tuple[float, int]] = []
    answered = overdue = 0
    free = due = replica.now
    for _ in range(n):
        due += draw.expovariate(2e3 / service_ms)
        while line and free <= due:
            arrived, ahead = line.pop(0)
            replica.now = max(free, arrived)
            if replica.works_on(1e3 * (replica.now - arrived), ahead):
                free = replica.now + service_ms / 1e3
                replica.now = free
                replica.serve(read_ms=1.0, score_ms=score_ms)
                answered += 1
                overdue += free > arrived + (BUDGET_MS + service_ms) / 1e3
        replica.now = due
        ahead = len(line) + (free > due)
        if replica.admits(ahead):
            line.append((due, ahead))
    assert answered * service_ms / 1e3 > goodput * (due - 1_000.0)
    assert answered < 0.55 * n, "the rest is refused"
    assert overdue == 0


async def statuses(*tasks: asyncio.Task[Response]) -> list[int]:
    return [answer.status_code for answer in await asyncio.gather(*tasks)]


def asked(api: HttpApi, **how: Any) -> asyncio.Task[Response]:
    return asyncio.create_task(call(api, "/v1/prerank", whole(RANKING), **how))


def test_who_waited_too_long_is_refused_before_it_is_worked_on() -> None:
    async def main() -> None:
        engine = Held(WALL)
        api = api_of(engine, timeout_ms=1.0)
        tasks = [asked(api) for _ in range(4)]
        await until(engine.begun.is_set)
        begun = time.monotonic()
        await until(lambda: time.monotonic() > begun + 2e-3)
        engine.let.set()
        assert await statuses(*tasks) == [200, 200, 503, 503]
        assert engine.scored == 2
        refused = tasks[3].result()
        assert refused.headers["Retry-After"] == "1"
        assert "timeout_ms" in orjson.loads(refused.body)["detail"]
        assert api.metrics.value(metrics.REFUSED, "prerank", "overload") == 2

    asyncio.run(main())


def test_an_idle_replica_answers_whatever_the_budget_and_a_busy_one_refuses_at_the_door() -> None:
    async def main() -> None:
        engine = Held(WALL)
        engine.let.set()
        api = api_of(engine, timeout_ms=MOMENT)
        for _ in range(30):
            assert await statuses(asked(api)) == [200]
        engine.let.clear()
        engine.begun.clear()
        tasks = [asked(api), asked(api)]
        await until(engine.begun.is_set)
        # Nobody waits for a body that never comes.
        refused = await call(api, "/v1/prerank", endless(b"{"))
        assert refused.status_code == 503
        assert "2 are ahead of it" in orjson.loads(refused.body)["detail"]
        for path, status in (("/v1/rerank", 503), ("/v1/query", 503)):
            assert (await call(api, path, endless(b"{"))).status_code == status
        for path in ("/ready", "/health"):
            assert (await call(api, path)).status_code == 200
        assert (await call(api, "/v1/events", whole(b'{"events": []}'))).status_code == 200
        engine.let.set()
        assert await statuses(*tasks) == [200, 200]
        assert await statuses(asked(api)) == [200]

    asyncio.run(main())


def test_a_batch_has_no_budget_and_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"user_id": ["u"], "query": ["q"], "candidates": [[1]]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    batch, headers = bytes(sink.getvalue().to_pybytes()), LOCAL | {"Content-Type": ARROW}
    engine = SmallEngine(WALL, GivenScores({1: 0.5}))
    answered = engine.answer
    # Without the time of its read, which is late for any store.
    monkeypatch.setattr(engine, "answer", lambda request: replace(answered(request), ends=()))

    async def main() -> None:
        api = api_of(engine, timeout_ms=MOMENT)
        for _ in range(30):
            assert await statuses(asked(api)) == [200]
        tasks = [
            asyncio.create_task(call(api, "/v1/prerank", whole(batch), headers)) for _ in range(5)
        ]
        await asyncio.sleep(0)
        assert (await call(api, "/v1/prerank", whole(RANKING))).status_code == 503
        assert await statuses(*tasks) == [200] * 5

    asyncio.run(main())


def test_a_caller_in_a_hurry_is_refused_by_a_busy_replica_and_answered_by_an_idle_one() -> None:
    hurried = orjson.dumps(orjson.loads(RANKING) | {"timeout_ms": MOMENT})

    async def main() -> None:
        engine = Held(WALL)
        api = api_of(engine, timeout_ms=60_000.0)
        first, second = asked(api), asked(api)
        await until(engine.begun.is_set)
        third = asyncio.create_task(call(api, "/v1/prerank", whole(hurried)))
        fourth = asked(api)
        await asyncio.sleep(0)
        engine.let.set()
        assert await statuses(first, second, third, fourth) == [200, 200, 503, 200]
        alone = await call(api, "/v1/prerank", whole(hurried))
        assert alone.status_code == 200

    asyncio.run(main())


def test_a_store_that_stalls_costs_features_and_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = SmallEngine(WALL, GivenScores({1: 0.5}))
    held, read = Held(WALL), engine.store.read

    def stalls(*given: Any) -> Any:
        held.begun.set()
        assert held.let.wait(20)
        return read(*given)

    monkeypatch.setattr(engine.store, "read", stalls)

    async def main() -> None:
        api = api_of(engine, timeout_ms=1.0)
        tasks = [asked(api) for _ in range(5)]
        await until(held.begun.is_set)
        begun = time.monotonic()
        await until(lambda: time.monotonic() > begun + 2e-3)
        held.let.set()
        assert await statuses(*tasks) == [200] * 5

    asyncio.run(main())
