"""State files after kills, power cuts, full disks and concurrent writers."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prerank.core.errors import DamagedError, StateError
from prerank.core.files import (
    locked,
    read_json_or_nothing,
    removed,
    replaced,
    settled,
    write_json,
)
from prerank.core.home import Home


def names(folder: Path) -> set[str]:
    """What a folder holds, but for locks."""
    return {p.name for p in folder.iterdir() if not p.name.endswith(".lock")}


def killed(act: Callable[[], object]) -> None:
    """Run ``act`` in a child process, which it kills with ``kill_self``."""
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def replace_and_die(target: Path) -> None:
    """Killed while the new folder is filled."""
    with replaced(target) as out:
        (out / "new").touch()
        kill_self()


def die_after_a_rename(target: Path) -> None:
    """Killed when the old folder is away and the new one is not in its place."""

    def after_first(event: str, _: tuple[object, ...]) -> None:
        if event == "os.rename" and not target.exists():
            kill_self()

    sys.addaudithook(after_first)
    with replaced(target):
        pass


def test_threads_that_write_one_json_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: write_json(path, {"n": [n] * 500}), range(200)))
    assert len(set(json.loads(path.read_text())["n"])) == 1
    assert names(tmp_path) == {"state.json"}


def test_json_is_synced_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "state.json", []
    write_json(path, {"n": 1})

    def fsync(descriptor: int) -> None:
        what = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((what == tmp_path, json.loads(path.read_text())["n"]))

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(path, {"n": 2})
    assert seen == [(False, 1), (True, 2)]


def test_a_disk_that_refuses_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"n": 1})

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"n": 2})
    assert json.loads(path.read_text()) == {"n": 1}
    assert names(tmp_path) == {"state.json"}


def test_half_written_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    dead, living = (tmp_path / f".state.json.{digit * 32}.tmp" for digit in "ab")
    for partial in (dead, living):
        partial.write_text("{")
    long_ago = time.time() - 100_000
    os.utime(dead, (long_ago, long_ago))
    write_json(path, {"n": 1})
    assert names(tmp_path) == {"state.json", living.name}


@pytest.mark.parametrize("held", [b"", b'{"until_us": 17', b"[1]", b"\xff\x00\x00"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, held: bytes) -> None:
    home = Home.at(tmp_path)
    path = home.root / "materialised.json"
    path.write_bytes(held)
    with pytest.raises(DamagedError, match=r"materialised\.json.*Remove it and run `prerank x`"):
        home.read_json(path, "prerank x")
    assert read_json_or_nothing(path) == {}
    with pytest.raises(StateError, match=r"is missing\. Run `prerank x` first"):
        home.read_json(tmp_path / "other.json", "prerank x")
    assert read_json_or_nothing(tmp_path / "other.json") == {}


def test_writers_of_one_folder_take_turns(tmp_path: Path) -> None:
    target, together = tmp_path / "index" / "3", []
    active = threading.Semaphore(1)

    def build(n: int) -> None:
        with replaced(target) as out:
            together.append(active.acquire(blocking=False))
            for name in ("a", "b"):
                (out / name).write_text(str(n))
                time.sleep(0.001)
            active.release()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(build, range(12)))
    assert all(together)
    assert (target / "a").read_text() == (target / "b").read_text()
    assert names(target.parent) == {"3"}


def test_a_block_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "features"
    with replaced(target) as out:
        (out / "old").touch()
    with pytest.raises(FileNotFoundError), replaced(target) as out:
        (out / "new" / "in no folder").touch()
    assert names(tmp_path) == {"features"}
    assert names(target) == {"old"}


def test_everything_in_a_folder_is_synced_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, seen = tmp_path / "features", []

    def fsync(descriptor: int) -> None:
        what = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((what.name if what.name in ("sub", "deep", "flat") else "", target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with replaced(target) as out:
        (out / "sub").mkdir()
        (out / "sub" / "deep").touch()
        (out / "flat").touch()
    assert {("deep", False), ("sub", False), ("flat", False), ("", False)} == set(seen[:-1])
    assert seen[-1] == ("", True)


def test_a_killed_writer_leaves_the_old_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "index"
    with replaced(target) as out:
        (out / "old").touch()
    killed(lambda: replace_and_die(target))
    assert names(target) == {"old"}
    assert len(names(tmp_path)) == 2
    with replaced(target) as out:
        (out / "new").touch()
    assert names(tmp_path) == {"index"}
    assert names(target) == {"new"}


def test_a_kill_between_two_renames_is_undone_by_the_next_writer(tmp_path: Path) -> None:
    target = tmp_path / "index"
    with replaced(target) as out:
        (out / "old").touch()
    killed(lambda: die_after_a_rename(target))
    assert not target.exists()
    with replaced(target) as out:
        assert names(target) == {"old"}
        (out / "new").touch()
    assert names(target) == {"new"}
    assert names(tmp_path) == {"index"}


def test_what_killed_writers_left_is_settled_without_another_replacement(tmp_path: Path) -> None:
    uuid = "0" * 32
    for name in (f".away.{uuid}.old", f".there.{uuid}.old", "there", f".there.{uuid}.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / f".away.{uuid}.old" / "file").write_text("whole")
    settled(tmp_path)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"away", "there"}
    assert (tmp_path / "away" / "file").read_text() == "whole"
    removed(tmp_path / "away")
    removed(tmp_path / "never")
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["there"]


def test_a_lock_is_free_again_after_a_kill(tmp_path: Path) -> None:
    target = tmp_path / "ingest"
    killed(lambda: replace_and_die(target))
    with locked(target):
        pass
