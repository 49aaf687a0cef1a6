"""A new log is published whole or not at all, whatever file operation is the last."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.object_stores import nodes
from tests.online_log import MANIFEST

from prerank.core.errors import DataError, StateError
from prerank.core.feature_sets import require_features, tables_of_log
from prerank.core.files import linked, write_json
from prerank.core.home import PLAIN, Home
from prerank.core.manifest import LogManifest
from prerank.ingest.publish import new_log

Text = tuple[str, str, str, str] | None


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that was written: the tests need not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def write_log(home: Home, name: str) -> None:
    """A log whose every part says its name; ``home`` says where."""
    for file in (home.events / "day=1" / "part", home.items, home.quarantine / "part"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    replace(MANIFEST, fingerprint=name).save(home)


def publish(home: Home, name: str, starts_over: bool) -> None:
    with new_log(home, starts_over) as new:
        write_log(new, name)


def state(home: Home) -> Text:
    """What every part of the home's log says; None where nothing was ingested."""
    if not home.manifest.exists():
        assert not home.events.exists()
        return None
    (event,), (bad,) = home.events.glob("*/*"), home.quarantine.glob("*")
    fingerprint = LogManifest.load(home).fingerprint
    return (fingerprint, event.read_text(), home.items.read_text(), bad.read_text())


def make_features(home: Home) -> None:
    """Feature tables of the log that is there."""
    fingerprint = LogManifest.load(home).fingerprint
    made = {"fingerprint": fingerprint, "log_id": home.log_id, "last_cutoff_us": 17}
    write_json(tables_of_log(home) / "manifest.json", made)
    (home.features / "part").touch()


def home_of(root: Path, before: str) -> Home:
    home = Home.at(root)
    home.root.mkdir()
    if before == "plain":
        write_log(home, "old")
    elif before == "published":
        # Twice, so that there is something to clean up.
        publish(home, "older", True)
        publish(home, "old", False)
    if before != "empty":
        make_features(home)
    return home


def interrupted(home: Home, starts_over: bool, at: int, how: str) -> bool:
    """Publish in a child that is interrupted at its change of files number ``at``; False: none was.

    Python tells an audit hook of every change before it is made.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    interrupt, changes = INTERRUPTIONS[how]
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        opened = event == "open" and str(arguments[1]) not in ("None", "r", "rb")
        if opened or event in changes:
            seen += 1
            if seen == at:
                interrupt()

    sys.addaudithook(hook)
    with contextlib.suppress(OSError):
        publish(home, "new", starts_over)
    os._exit(int(seen >= at))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk() -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


# Whatever opens a file to write is a change too.
INTERRUPTIONS: dict[str, tuple[Callable[[], None], set[str]]] = {
    "killed": (die, {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}),
    "full disk": (fill_the_disk, {"os.rename", "os.mkdir"}),
}


@pytest.mark.parametrize(
    ("how", "before", "starts_over"),
    [
        ("killed", "empty", True),
        ("killed", "plain", False),
        ("killed", "published", True),
        ("killed", "published", False),
        ("full disk", "published", True),
    ],
)
def test_an_interrupted_publication_leaves_the_old_log_or_the_new_one(
    tmp_path: Path, how: str, before: str, starts_over: bool
) -> None:
    old, new = ("old",) * 4 if before != "empty" else None, ("new",) * 4
    found = []
    for at in range(1, 100):
        home = home_of(tmp_path / str(at), before)
        if not interrupted(home, starts_over, at, how):
            break
        found.append(state(home))
        assert found[-1] in (old, new), at
        if found[-1] is not None:
            features_fit(home, grown=not starts_over or found[-1] == old)
        publish(home, "next", starts_over=False)
        assert state(home) == ("next",) * 4
    assert state(home) == new
    switched = found.count(old)
    assert switched > 5
    if how == "killed":
        assert new in found, "killed after the switch too"
        assert found == [old] * switched + [new] * (len(found) - switched)
    assert home.features.exists() == (before != "empty"), "a live model may need them"


def features_fit(home: Home, grown: bool) -> None:
    """Feature tables are of this log, or of it before it grew, or readers refuse them."""
    path = tables_of_log(home) / "manifest.json"
    if not path.exists():
        return
    assert home.has_made(home.read_json(path, "prerank features")) == grown
    if state(home) == ("new",) * 4:
        with pytest.raises(DataError if grown else StateError, match="prerank features"):
            require_features(home, LogManifest.load(home))


def test_the_new_log_is_on_disk_before_the_pointer_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_of(tmp_path / "home", "published")
    before, synced = home.log, set()

    def fsync(descriptor: int) -> None:
        if home.log == before:
            synced.add(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    publish(home, "new", False)
    assert {home.root, home.log.parent, home.log, *home.log.rglob("*")} <= synced


def test_a_reader_that_began_on_the_old_log_can_finish(tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", "published")
    reader = home.pin()
    publish(home, "new", True)
    assert state(reader) == ("old",) * 4
    assert state(home) == ("new",) * 4
    assert reader.log_id != home.log_id


@pytest.mark.parametrize("before", ["plain", "published"])
def test_a_log_that_grows_keeps_its_id_and_its_features(tmp_path: Path, before: str) -> None:
    home = home_of(tmp_path / "home", before)
    log_id = home.log_id
    assert (log_id == PLAIN) == (before == "plain")
    publish(home, "new", False)
    assert home.log_id == log_id
    assert home.has_made(home.read_json(tables_of_log(home) / "manifest.json", ""))


def test_what_earlier_ingests_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", "plain")
    publish(home, "new", False)
    (home.root / "world").mkdir()
    publish(home, "newer", False)
    assert {p.name for p in home.root.iterdir()} == {"log", "features", "world"}
    left = {p.name for p in (home.root / "log").iterdir()}
    assert left == {"current.json", "plain-1", "plain-2"}
    # Not ours: a folder that is called events, in a home that has its log elsewhere.
    (home.root / "events").mkdir()
    publish(home, "newest", False)
    assert (home.root / "events").exists()


@pytest.mark.parametrize("held", ["", "{}", '{"folder": "a'])
def test_a_damaged_pointer_is_named_and_started_over(tmp_path: Path, held: str) -> None:
    home = home_of(tmp_path / "home", "published")
    home.pointer.write_text(held)
    with pytest.raises(StateError, match=r"current\.json is damaged.*--replace"):
        _ = home.events
    with pytest.raises(StateError, match="--replace"):
        publish(home, "new", False)
    publish(home, "new", True)
    assert state(home) == ("new",) * 4


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", "published")
    with pytest.raises(FileNotFoundError), new_log(home, False) as new:
        (new.log / "no folder" / "file").touch()
    assert state(home) == ("old",) * 4
    assert len(list((home.root / "log").iterdir())) == 2


def test_logs_that_nodes_grow_in_turn_keep_what_they_took_over(tmp_path: Path) -> None:
    """A day that stays keeps its objects, which bear the name of the log that brought it."""
    with nodes(tmp_path) as store:
        for n, node in enumerate(("a", "b", "a", "b", "a")):
            with store.node(node) as home:
                home.fetch(home.log)
                before = sorted(home.events.rglob("*.parquet"))
                with new_log(home, starts_over=not n) as new:
                    for file in before:
                        linked(file, new.events / file.name)
                    new.events.mkdir(exist_ok=True)
                    (new.events / f"{n}.parquet").write_text(str(n))
        with store.node("c") as home:
            home.fetch(home.log)
            assert [f.read_text() for f in sorted(home.events.glob("*"))] == list("01234")
            logs = [f.name for f in home.pointer.parent.glob("*-*") if f.is_dir()]
            assert logs == [home.log.name]
