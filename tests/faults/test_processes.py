"""Processes of the deployment are killed, replaced and flooded under load."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from tests.faults.deployment import Deployment, until
from tests.load import NOT_REACHED, PROBLEM, Load, at_once
from tests.serve_status import ready

from prerank.serving.writers import ACKNOWLEDGE_S

Record = Callable[..., None]
LOAD_S = 12.0


def test_a_replica_is_killed(deployment: Deployment, record: Record) -> None:
    with deployment.load("replica") as load:
        time.sleep(LOAD_S / 4)
        deployment.serve.replicas()[0].kill()
        time.sleep(LOAD_S)
    record("a ranking replica of two is killed", load)
    assert set(load.statuses()) == {200}
    assert load.event_statuses.keys() == {200}
    assert max(s.wait for s in load.seen) < 5


def test_the_only_replica_is_killed(deployment: Deployment, record: Record) -> None:
    deployment.deploy(replicas=1)
    deployment.steady(replicas=1)
    with deployment.load("only") as load:
        time.sleep(LOAD_S / 4)
        killed = time.monotonic()
        deployment.serve.replicas()[0].kill()
        time.sleep(2)
        away_s = until(lambda: ready(deployment.url), 180)
        time.sleep(LOAD_S / 4)
    record("the only ranking replica is killed", load, away_s=away_s + 2)
    assert set(load.statuses()) == {200, 503}
    assert load.event_statuses.keys() <= {200, 503}
    assert load.statuses(since=killed + 2 + away_s).keys() == {200}
    # The proxy's second, and one for each of its tries at the replica that is gone.
    assert max(s.wait for s in load.seen) < 5


def test_the_history_writer_is_killed(deployment: Deployment, record: Record) -> None:
    with deployment.load("writer") as load:
        time.sleep(LOAD_S / 4)
        (writer,) = deployment.serve.replicas("HistoryWriter-0")
        writer.kill()
        # Its lease lasts for 15 seconds.
        time.sleep(30)
    record("the history writer is killed", load, longest_event_s=load.longest_event)
    assert set(load.statuses()) == {200}
    assert load.event_statuses.keys() <= {200, 503}
    assert load.longest_event < ACKNOWLEDGE_S + 3
    assert until(lambda: not deployment.missing(load.acknowledged), 60) < 60


def test_the_proxy_is_killed(deployment: Deployment, record: Record) -> None:
    with deployment.load("proxy") as load:
        time.sleep(LOAD_S / 4)
        killed = time.monotonic()
        for process in deployment.haproxy():
            process.kill()
        time.sleep(1)
        # Not until the first answer: a proxy that knows of no application yet says 404, and keeps
        # its connections for a moment when another one takes its place.
        whole_s = until(lambda: only_answers(load, LOAD_S / 2), 60)
    away_s = max(s.began + s.wait for s in load.seen if s.status in NOT_REACHED) - killed
    record("the proxy (HAProxy) is killed", load, away_s=away_s)
    assert whole_s < 60, load.refused(killed)
    assert set(load.statuses()) <= {200, *NOT_REACHED}


def only_answers(load: Load, seconds: float) -> bool:
    """Whether nobody was refused or turned away so lately."""
    return load.statuses(since=time.monotonic() - seconds).keys() == {200}


@pytest.mark.parametrize("replicas", [2, 1])
def test_a_new_configuration_is_deployed(
    deployment: Deployment, record: Record, replicas: int
) -> None:
    # A replica that starts takes the cores of the others and of the callers: on two of them, an
    # answer is too late for the usual budget now and then, which is not what is looked at here.
    patient = {"replicas": replicas, "timeout_ms": 1_000}
    deployment.deploy(**patient)
    deployment.steady(replicas=replicas)
    before = {p.pid for p in deployment.serve.replicas()}

    def replaced() -> bool:
        now = {p.pid for p in deployment.serve.replicas()}
        return len(now) == replicas and not now & before

    with deployment.load(f"deploy-{replicas}", rate=30.0) as load:
        time.sleep(LOAD_S / 4)
        deployment.deploy(**patient, max_k=9_000 + replicas)
        seconds = until(replaced, 300)
        # While the last one drains.
        time.sleep(40)
    record(
        f"a new configuration is deployed, replicas: {replicas}",
        load,
        replaced_s=seconds,
        longest_event_s=load.longest_event,
    )
    assert set(load.statuses()) == {200}, load.refused()
    assert load.event_statuses.keys() == {200}


def test_another_replica_is_started_when_one_is_not_enough(
    deployment: Deployment, record: Record
) -> None:
    # Serve goes on with as many replicas as there are, and takes one away after ten minutes.
    deployment.deploy(replicas=1)
    deployment.steady(replicas=1)
    deployment.deploy(replicas=1, max_replicas=2)
    deployment.steady(replicas=1)
    with deployment.load("scale", callers=16) as load:
        joined_s = until(lambda: len(deployment.serve.replicas()) == 2, 180)
        joined = time.monotonic()
        time.sleep(LOAD_S)
    alone = [s.wait for s in load.seen if s.began < joined]
    together = [s.wait for s in load.seen if s.began > joined + LOAD_S / 4]
    record(
        "16 callers at one replica, which may become two",
        load,
        joined_s=joined_s,
        p99_alone_s=round(float(np.quantile(alone, 0.99)), 3),
        p99_together_s=round(float(np.quantile(together, 0.99)), 3),
    )
    assert joined_s < 180
    assert load.statuses().keys() <= {200, 503}
    assert load.event_statuses.keys() == {200}


def test_more_requests_come_than_have_places(deployment: Deployment, record: Record) -> None:
    body = deployment.oracle.bodies[0] | {"candidates": list(range(5_000))}
    found = asyncio.run(at_once(deployment.url, "/v1/prerank", body, 600))
    by_status = Counter(answer.status for answer in found)
    print(by_status, {s: max(a.wait for a in found if a.status == s) for s in by_status})
    assert by_status.keys() == {200, 503}
    for answer in found:
        if answer.status == 503:
            assert answer.headers["content-type"] == PROBLEM
            assert answer.headers["retry-after"]
    assert max(answer.wait for answer in found) < 15
    with deployment.load("flood") as load:
        time.sleep(LOAD_S / 4)
    record("after 600 requests at once", load)
    assert set(load.statuses()) == {200}
