"""One command at a time, on whatever node."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.object_stores import Nodes, in_child, nodes, watched

from prerank.core import leases
from prerank.core.errors import StateError
from prerank.core.home import Home
from prerank.core.leases import alone

RUNS = r"another retraining of disk://.* runs on .*: wait for it, or end it"
LONG_S = 60.0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    monkeypatch.setattr(leases, "DEAD_S", 0.5)
    with nodes(tmp_path) as made:
        yield made


def at_it(home: Home) -> None:
    with alone(home, home.root / "retraining", "retraining"):
        pass


def killed(store: Nodes, name: str) -> None:
    """A command of a node that is killed at its work."""

    def work() -> None:
        with store.node(name) as home, alone(home, home.root / "retraining", "retraining"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WIFSIGNALED(in_child(work))


def owner(store: Nodes) -> str:
    text = (store.bucket / "home" / "retraining" / "lease").read_text()
    return str(json.loads(text).get("id", ""))


def test_another_node_is_refused_while_a_command_lives(
    store: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.node("a") as home, alone(home, home.root / "retraining", "retraining"):
        with pytest.raises(StateError, match=r"another retraining of disk://.* runs: wait"):
            at_it(home)
        with store.node("b") as other, pytest.raises(StateError, match=RUNS):
            at_it(other)
        # Something else of the home may be done.
        with store.node("b") as other, alone(other, other.root / "tuning", "search"):
            pass
    monkeypatch.setattr(leases, "DEAD_S", LONG_S)
    began = time.monotonic()
    with store.node("b") as other:
        at_it(other)
    assert time.monotonic() - began < LONG_S / 2, "what was given back is not watched"


def test_who_was_killed_is_known_by_its_silence_and_on_its_own_node_at_once(
    store: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(store, "a")
    began = time.monotonic()
    with store.node("b") as other:
        at_it(other)
    assert time.monotonic() - began >= leases.DEAD_S
    killed(store, "a")
    monkeypatch.setattr(leases, "DEAD_S", LONG_S)
    began = time.monotonic()
    with store.node("a") as home:
        at_it(home)
    assert time.monotonic() - began < LONG_S / 2


def test_of_two_that_come_at_once_the_one_that_has_it_knows(store: Nodes) -> None:
    first: list[Home] = []

    def between(what: str, path: str) -> None:
        # The other one has looked, and did not write yet.
        if what == "write" and path.endswith("/lease") and not first:
            first.append(home)
            assert in_child(lambda: stay(store)) == 0

    def stay(store: Nodes) -> None:
        with store.node("a") as own:
            leases._Lease(own.store, "retraining/lease").take("retraining")  # type: ignore[arg-type]

    with store.node("b") as home, watched(between):
        lease = leases._Lease(home.store, "retraining/lease")  # type: ignore[arg-type]
        taken = lease.take("retraining") is None
    assert first
    # Without conditional puts the later writer wins, and knows that it does.
    assert taken == (owner(store) == lease._own["id"])


def test_one_that_stood_still_does_not_take_it_back(
    store: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "DEAD_S", 0.1)
    with store.node("b") as other:
        with store.node("a") as home:
            monkeypatch.setattr(leases, "BEAT_S", LONG_S)
            still = alone(home, home.root / "retraining", "retraining")
            still.__enter__()
            first = owner(store)
        with alone(other, other.root / "retraining", "retraining"):
            second = owner(store)
            assert second != first
            still.__exit__(None, None, None)
            assert owner(store) == second
    assert owner(store) == ""


def test_a_store_that_is_away_for_a_while_ends_nothing(store: Nodes) -> None:
    failures = [OSError("503 Slow Down")] * 7

    def fail(what: str, path: str) -> None:
        if failures:
            raise failures.pop()

    with store.node("a") as home, alone(home, home.root / "retraining", "retraining"):
        with watched(fail):
            until = time.monotonic() + LONG_S
            while failures and time.monotonic() < until:
                time.sleep(0.01)
        with store.node("b") as other, pytest.raises(StateError, match=RUNS):
            at_it(other)
