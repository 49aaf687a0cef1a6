"""A home in an object store: nodes see what others published, whole, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from tests.object_stores import Nodes, in_child, nodes, watched, without_mtime

from prerank.core.errors import ConfigError, NotReadyError, StateError
from prerank.core.files import REMOTES, linked, remove, replaced, write_json
from prerank.core.home import Home
from prerank.core.objects import Objects
from prerank.core.storage import CACHE_ENV


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Nodes]:
    with nodes(tmp_path) as made:
        yield made


def write_set(home: Home, text: str, names: tuple[str, ...] = ("a", "b")) -> None:
    """A training set whose every file says ``text``."""
    with replaced(home.training_set) as out:
        for name in names:
            (out / "train").mkdir(exist_ok=True)
            (out / "train" / f"{name}.parquet").write_text(f"{name}: {text}")
        write_json(out / "manifest.json", {"text": text})


def read_set(home: Home) -> dict[str, bytes]:
    home.fetch(home.training_set)
    return without_mtime(home.training_set)


def test_a_uri_names_a_home_whose_root_is_a_cache_folder(store: Nodes) -> None:
    with store.node("a") as home:
        assert home.place == store.uri
        assert home.root.is_relative_to(os.environ[CACHE_ENV])
        first = home.id
    with store.node("b") as other:
        assert other.id == first, "nodes would write other rows of the online store"
        assert other.root != home.root
        assert Home.at(f"{store.uri}2").id != first


def test_a_local_home_has_no_store(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    home.create()
    write_set(home, "one")
    assert home.store is None
    assert not REMOTES
    assert home.place == str(tmp_path / "home")
    home.look()
    assert len(read_set(home)) == 3


def test_what_one_node_publishes_another_one_has(store: Nodes) -> None:
    with store.node("a") as home:
        write_set(home, "one")
        write_json(home.root / "job.json", {"n": 1})
        written = read_set(home)
    with store.node("b") as other:
        assert other.read_json(other.root / "job.json", "") == {"n": 1}
        # Small files come with a look; the others when somebody asks for them.
        assert without_mtime(other.training_set).keys() == {"manifest.json"}
        assert read_set(other) == written


def test_a_node_sees_what_was_replaced_and_what_was_removed(store: Nodes) -> None:
    with store.node("a") as home:
        write_set(home, "one", ("a", "b"))
        write_json(home.materialised_of("aa"), {"n": 1})
    with store.node("b") as other:
        read_set(other)
        assert other.materialised_of("aa").exists()
    with store.node("a") as home:
        write_set(home, "two", ("b", "c"))
        remove(home.materialised_of("aa"))
        expected = read_set(home)
    with store.node("b") as other:
        assert read_set(other) == expected
        assert not other.materialised_of("aa").exists()


def test_nothing_is_brought_twice(store: Nodes) -> None:
    with store.node("a") as home:
        write_set(home, "one")
    with store.node("b") as other:
        read_set(other)
    with store.node("b") as other:
        done: list[str] = []
        with watched(lambda what, path: done.append(path)):
            read_set(other)
        assert done == []


def test_files_that_stay_are_not_sent_again(store: Nodes) -> None:
    with store.node("a") as home:
        write_set(home, "one", ("a", "b"))
    with store.node("a") as home:
        home.fetch(home.training_set)
        sent: list[str] = []
        with (
            watched(lambda what, path: sent.append(Path(path).name) if what == "write" else None),
            replaced(home.training_set) as out,
        ):
            linked(home.training_set / "train" / "a.parquet", out / "train" / "a.parquet")
            (out / "train" / "c.parquet").write_text("c: two")
        assert sorted(sent) == ["c.parquet", "training_set.files.json"]
        expected = read_set(home)
        assert expected.keys() == {"train/a.parquet", "train/c.parquet"}
    with store.node("b") as other:
        assert read_set(other) == expected


def test_what_is_replaced_leaves_nothing_in_the_store(store: Nodes) -> None:
    with store.node("a") as home:
        write_set(home, "one")
        write_set(home, "two")
        names = store.objects()
        assert len(names) == 4
        assert "training_set.files.json" in names
        remove(home.training_set)
        assert store.objects() == set()


def test_what_a_killed_publication_left_goes_after_a_day(store: Nodes) -> None:
    left = store.bucket / "home" / "training_set" / "dead" / "train" / "a.parquet"
    fresh = left.with_name("b.parquet")
    left.parent.mkdir(parents=True)
    left.touch()
    fresh.touch()
    os.utime(left, (time.time() - 90_000,) * 2)
    with store.node("a") as home:
        write_set(home, "one")
    assert not left.exists()
    assert fresh.exists(), "somebody may be publishing it"


@pytest.mark.parametrize("how", ["killed", "full"])
def test_a_publication_is_whole_or_not_there(store: Nodes, how: str) -> None:
    """Interrupted at each operation of the store in turn."""
    with store.node("a") as home:
        write_set(home, "one")
    at, done = 0, False
    while not done:
        seen = 0

        def interrupt(what: str, path: str, at: int = at) -> None:
            nonlocal seen
            seen += what != "read"
            if what != "read" and seen > at:
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError("AWS Error UNKNOWN: XMinioStorageFull: HTTP status 507")

        def publish(text: str = f"try {at}") -> None:
            with store.node("a") as home, watched(interrupt):
                write_set(home, text)

        if how == "killed":
            done = not os.WIFSIGNALED(in_child(publish))
        else:
            said = ""
            try:
                publish()
            except StateError as error:
                said = str(error)
            done = not said
            assert done or "the store is full" in said
        texts = []
        for name in ("a", "b"):
            with store.node(name) as other:
                found = read_set(other)
                texts.append({data.split(b": ")[-1] for n, data in found.items() if "train" in n})
                assert len(found) == 3
        assert texts[0] == texts[1]
        assert len(texts[0]) == 1
        at += 1
    assert at > 3, "a publication has more operations than were interrupted"
    with store.node("b") as other:
        assert read_set(other)["train/a.parquet"] == f"a: try {at - 1}".encode()


def test_who_lost_a_race_is_told_and_changes_nothing(store: Nodes, tmp_path: Path) -> None:
    with store.node("a") as home:
        write_set(home, "one")
    with store.node("b") as late:
        # As a command of another node does meanwhile.
        status = in_child(lambda: _publish(store, "two"))
        assert status == 0
        with pytest.raises(StateError, match=r"training_set\.files\.json was changed by another"):
            write_set(late, "three")
        late.look()
        assert read_set(late)["train/a.parquet"] == b"a: two"
        write_set(late, "four")
    with store.node("a") as home:
        assert read_set(home)["train/a.parquet"] == b"a: four"


def _publish(store: Nodes, text: str) -> None:
    with store.node("c") as home:
        write_set(home, text)


def test_a_store_that_fails_for_a_while_is_asked_again(store: Nodes) -> None:
    failures = [OSError("503 Slow Down"), TimeoutError("no answer")] * 2

    def fail(what: str, path: str) -> None:
        if failures:
            raise failures.pop()

    with store.node("a") as home:
        with watched(fail):
            write_set(home, "one")
        assert not failures
    with store.node("b") as other:
        assert len(read_set(other)) == 3


def test_a_store_that_goes_on_failing_is_named(store: Nodes) -> None:
    def fail(what: str, path: str) -> None:
        raise OSError("503 Slow Down")

    with store.node("a") as home:
        write_set(home, "one")
        with watched(fail), pytest.raises(NotReadyError, match=r"failed 5 times.*503 Slow Down"):
            write_set(home, "two")
        # A full disk of this machine is no fault of the store.
        with (
            watched(lambda what, path: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))),
            pytest.raises(OSError, match="full"),
        ):
            write_set(home, "two")
    with store.node("b") as other:
        assert read_set(other)["train/a.parquet"] == b"a: one"


def test_a_reader_of_what_is_replaced_meanwhile_gets_the_new(store: Nodes) -> None:
    with store.node("a") as home:
        write_set(home, "one")
    with store.node("b") as other:
        assert in_child(lambda: _publish(store, "two")) == 0
        assert read_set(other)["train/a.parquet"] == b"a: two"


def test_a_file_in_a_published_folder_is_published_with_it(store: Nodes) -> None:
    with store.node("a") as home:
        folder = home.index / "1-run"
        with replaced(folder) as out:
            (out / "vectors.bf16").write_text("vectors")
            write_json(out / "index.json", {"n": 1})
        write_json(folder / "added.json", {"items": 3})
    with store.node("b") as other:
        folder = other.index / "1-run"
        assert other.read_json(folder / "added.json", "") == {"items": 3}
        other.fetch(folder)
        assert (folder / "vectors.bf16").read_text() == "vectors"
    with store.node("a") as home, replaced(home.index / "1-run") as out:
        write_json(out / "index.json", {"n": 2})
    with store.node("b") as other:
        assert without_mtime(other.index / "1-run").keys() == {"index.json"}


def test_what_is_a_nodes_own_is_not_published(store: Nodes) -> None:
    with store.node("a") as home:
        with replaced(home.models / "1-run") as out:
            (out / "weights").touch()
        write_json(home.journal / "segment.json", {})
        write_json(home.feast / "replayed-x-sqlite-0-of-1.json", {})
        write_json(home.root / ".ingest" / "x.json", {})
        assert store.objects() == set()


def test_a_damaged_manifest_is_named(store: Nodes) -> None:
    with store.node("a") as home:
        write_set(home, "one")
    (store.bucket / "home" / "training_set.files.json").write_text("{")
    with pytest.raises(StateError, match=r"training_set\.files\.json is damaged"), store.node("b"):
        pass


def test_refused_access_names_the_variables(store: Nodes) -> None:
    def refuse(what: str, path: str) -> None:
        raise PermissionError("403")

    with (
        store.node("a") as home,
        watched(refuse),
        pytest.raises(ConfigError, match=r"job\.json may not be written.*Set the variables"),
    ):
        write_json(home.root / "job.json", {})


class Azure(MemoryFileSystem):
    """A store that has a name of its own for the time of a change."""

    protocol = "dated"
    store: ClassVar[dict[str, MemoryFile]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def find(self, path: str, *args: Any, **options: Any) -> Any:
        found = super().find(path, *args, **options)
        at = datetime(2026, 3, 1, tzinfo=UTC)
        return {name: told | {"last_modified": at} for name, told in found.items()}


def test_a_time_of_change_is_known_by_whatever_name(store: Nodes) -> None:
    fsspec.register_implementation("dated", Azure, clobber=True)
    objects = Objects("dated://bucket/home")
    objects.write("log/a", b"a")
    for deep, folder in ((False, "log"), (True, "")):
        (found,) = objects.listed(folder, deep)
        assert (found.name, found.size) == ("log/a", 1)
        assert found.mtime_s == datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    Azure.store.clear()
