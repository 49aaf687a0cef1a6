"""Redis, with the online store and the journal in it: paused, killed, emptied, damaged, full."""

from __future__ import annotations

import resource
import shutil
import signal
import time
from collections.abc import Callable

from tests.faults.deployment import WITHOUT, Deployment, until
from tests.load import Load
from tests.online_log import UNTIL
from tests.serve_status import ready

from prerank.online.materialise import materialise

Record = Callable[..., None]
BEFORE_S, AWAY_S, AFTER_S = 3.0, 10.0, 6.0
NOTICED_S = 6.0
"""Three looks at the online store, at the default `poll_seconds`."""
RARELY = 0.02
"""A read that takes longer than its 0.1 s, on a busy machine, is given up and told of."""


def degraded(load: Load, since: float) -> float:
    """Share of the answers since a moment that lack something."""
    later = [bool(s.degraded) for s in load.seen if s.began > since]
    return sum(later) / len(later)


def test_redis_is_paused(deployment: Deployment, record: Record) -> None:
    process = deployment.redis.process
    assert process is not None
    with deployment.load("paused") as load:
        time.sleep(BEFORE_S)
        process.send_signal(signal.SIGSTOP)
        time.sleep(AWAY_S)
        process.send_signal(signal.SIGCONT)
        back = time.monotonic()
        time.sleep(AFTER_S)
    record("Redis is paused for 10 s", load, degraded_after=degraded(load, back + 2))
    assert set(load.statuses()) == {200}
    assert {s.degraded for s in load.seen} <= {(), WITHOUT}
    assert WITHOUT in {s.degraded for s in load.seen}
    assert degraded(load, back + 2) < RARELY
    assert load.event_statuses.keys() <= {200, 503}
    # A read ends within 0.1 s; the rest is the machine's, on which all of this runs at once.
    assert max(s.wait for s in load.seen) < 3
    assert until(lambda: not deployment.missing(load.acknowledged), 60) < 60


def test_redis_is_killed_and_started_again(deployment: Deployment, record: Record) -> None:
    with deployment.load("killed") as load:
        time.sleep(BEFORE_S)
        deployment.redis.kill()
        time.sleep(AWAY_S)
        deployment.redis.start()
        back = time.monotonic()
        time.sleep(AFTER_S + 30)
    after = degraded(load, back + 3)
    record("Redis is killed, and comes back with its file", load, degraded_after=after)
    assert set(load.statuses()) == {200}
    assert WITHOUT in {s.degraded for s in load.seen}
    assert after < RARELY
    assert load.event_statuses.keys() == {200, 503}
    assert until(lambda: not deployment.missing(load.acknowledged), 60) < 60


def test_redis_comes_back_empty(deployment: Deployment, record: Record) -> None:
    folder = deployment.root / "redis"
    with deployment.load("before", rate=20.0) as before:
        time.sleep(BEFORE_S)
        deployment.redis.kill()
        shutil.rmtree(folder)
        folder.mkdir()
        deployment.redis.start()
        time.sleep(NOTICED_S)
    assert set(before.statuses()) == {200}
    assert before.wrong == []
    assert "prerank materialise" in " ".join(deployment.health()["notes"])
    # What Redis had acknowledged is gone with its file, as is documented; from now on nothing is.
    with deployment.load("empty") as load:
        time.sleep(BEFORE_S)
        materialise(deployment.home, UNTIL, progress=False)
        filled = time.monotonic()
        time.sleep(AFTER_S + 20)
    after = degraded(load, filled + NOTICED_S)
    record("Redis comes back empty; `prerank materialise` runs", load, degraded_after=after)
    assert set(load.statuses()) == {200}
    assert after < RARELY
    assert until(lambda: not deployment.missing(load.acknowledged), 60) < 60


def test_redis_loses_half_of_the_rows(deployment: Deployment, record: Record) -> None:
    client = deployment.redis.client()
    with deployment.load("half") as load:
        time.sleep(BEFORE_S)
        rows = [k for k in client.scan_iter(count=1000) if b":journal:" not in k]
        for key in rows[::2]:
            client.delete(key)
        deployment.oracle.allow_what_is_there()
        deleted = time.monotonic()
        time.sleep(NOTICED_S + 4)
        ends = time.monotonic()
        deployment.oracle.allow_what_is_told()
        materialise(deployment.home, UNTIL, progress=False)
        filled = time.monotonic()
        time.sleep(NOTICED_S + AFTER_S)
    client.close()
    # Until it is noticed, an answer may lack what nobody knows is gone: a known limit, in seconds.
    unnoticed = [s for s in load.wrong if deleted - 2 < s.began < deleted + NOTICED_S]
    load.seen = [s for s in load.seen if s not in unnoticed]
    record("Redis loses half of its rows", load, answers_until_noticed=len(unnoticed))
    told = [s for s in load.seen if deleted + NOTICED_S < s.began < ends]
    assert told
    assert all("online_store" in s.degraded for s in told)
    assert degraded(load, filled + NOTICED_S) < RARELY


def test_the_disk_under_the_journal_is_full(deployment: Deployment, record: Record) -> None:
    process = deployment.redis.process
    assert process is not None
    unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    with deployment.load("full") as load:
        time.sleep(BEFORE_S)
        # No byte more in any file: what the kernel answers is that of a disk that is full.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, unlimited[1]))
        time.sleep(AWAY_S)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        away_s = until(lambda: ready(deployment.url), 60)
        time.sleep(AFTER_S)
    record("the disk under the journal is full", load, longest_event_s=load.longest_event)
    assert set(load.statuses()) == {200}
    assert load.event_statuses.keys() == {200, 503}
    assert away_s < 60
    assert until(lambda: not deployment.missing(load.acknowledged), 60) < 60
