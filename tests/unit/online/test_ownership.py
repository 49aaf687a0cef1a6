"""A user has one writer: a second one is refused, and takes over when the first is gone."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from feast import FeatureStore
from tests.online_events import NewWriter, backfill, event, ids

from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.online.history import History
from prerank.online.ownership import Ownership

HOLD = """
import sys, time
from pathlib import Path
from prerank.online.ownership import Ownership
owned = Ownership(Path(sys.argv[1]), 0, 1, 0)
print("owned", flush=True)
sys.stdin.read()
"""


def test_a_second_writer_is_refused_with_the_name_of_the_first(
    embedded: FeatureStore, new_writer: NewWriter
) -> None:
    with new_writer(embedded) as first:
        first.write([event(1)])
        with pytest.raises(NotReadyError) as refused:
            new_writer(embedded)
        for part in (f"(pid) {os.getpid()} ", socket.gethostname(), "this host", "20", "Stop"):
            assert part in str(refused.value)
        assert first.write([event(2)]).online
    assert new_writer(embedded).write([event(3)]).online
    assert ids(embedded) == [1, 2, 3]


def test_writers_of_other_users_live_together_and_those_of_another_number_do_not(
    tmp_path: Path,
) -> None:
    owned = [Ownership(tmp_path, shard, 3, 0) for shard in range(3)]
    for shard, shards in ((0, 1), (1, 2), (3, 4)):
        with pytest.raises(NotReadyError, match=r"owner-000-of-003"):
            Ownership(tmp_path, shard, shards, 0)
    for one in owned:
        one.release()
    Ownership(tmp_path, 0, 1, 0).release()


def test_another_process_takes_over_when_the_owner_was_killed(tmp_path: Path) -> None:
    path = os.pathsep.join(p for p in sys.path if p)
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"owned\n"
        with pytest.raises(NotReadyError, match=rf"\(pid\) {owner.pid} on"):
            Ownership(tmp_path, 0, 1, 0)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    Ownership(tmp_path, 0, 1, 10).release()


def test_a_new_writer_waits_for_one_that_ends(tmp_path: Path) -> None:
    old = Ownership(tmp_path, 0, 1, 0)
    found: list[Ownership] = []
    waiting = threading.Thread(target=lambda: found.append(Ownership(tmp_path, 0, 1, 60)))
    waiting.start()
    time.sleep(0.3)
    assert found == []
    old.release()
    waiting.join(60)
    assert len(found) == 1
    found[0].release()


def test_a_name_of_another_host_that_was_never_taken_out_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Ownership(tmp_path, 0, 1, 0).release()
    (lock,) = tmp_path.glob("owner-*.lock")
    with caplog.at_level(logging.WARNING):
        assert lock.read_text() == ""
        Ownership(tmp_path, 0, 1, 0).release()
        assert caplog.text == ""
        lock.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "2026-01-02"}))
        owned = Ownership(tmp_path, 0, 1, 0)
    for part in ("(pid) 7 on host elsewhere (another host)", "2026-01-02", "flock"):
        assert part in caplog.text
    with pytest.raises(NotReadyError, match=socket.gethostname()):
        Ownership(tmp_path, 0, 1, 0)
    owned.release()


def test_a_backfill_works_beside_a_live_writer(
    home: Home, store: FeatureStore, new_writer: NewWriter
) -> None:
    writer = new_writer(store)
    filler = backfill(home, store)

    def fill() -> None:
        for n in range(0, 40, 2):
            filler.merge_histories({"ann": History.of([event(n)], {"click": 1})})

    filling = threading.Thread(target=fill)
    filling.start()
    for n in range(1, 41, 2):
        writer.write([event(n)])
    filling.join(120)
    assert ids(store) == list(range(40))
