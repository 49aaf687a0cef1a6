"""A task of a home in an object store runs on another node as it would have on this one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.object_stores import Nodes, nodes, watched, without_mtime

from prerank.core.files import fetch, publish, remove, replaced
from prerank.core.home import Home
from prerank.core.travel import Call, Carried, noted, packed, unpacked


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Nodes]:
    with nodes(tmp_path) as made:
        yield made


@dataclass(frozen=True)
class Task:
    """Joins what is published with what is still being written."""

    home: Home
    text: str
    given: Path
    out: Path

    def reads(self) -> list[Path]:
        return [self.given]

    def writes(self) -> list[Path]:
        return [self.out / "joined.parquet"]


def join(task: Task) -> Path:
    task.home.fetch(task.home.events)
    events = (task.home.events / "day=1" / "part.parquet").read_text()
    given = (task.given / "x.arrow").read_text()
    task.writes()[0].write_text(f"{Path(task.text).name} {events} {given}")
    return task.out


def publish_log(home: Home) -> None:
    for text in ("events", "items"):
        path = home.root / "log" / "l-1" / text / "day=1" / "part.parquet"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    publish(home.root / "log" / "l-1")
    home.pointer.write_text('{"folder": "l-1"}')
    publish(home.pointer)


def test_a_task_reads_and_writes_on_another_node(store: Nodes) -> None:
    with store.node("a") as home:
        publish_log(home)
    with store.node("driver") as home:
        home = home.pin()
        with replaced(home.training_set) as out:
            given = out / "scratch"
            given.mkdir()
            (given / "x.arrow").write_text("given")
            task = Task(home, str(given), given, out)
            run = Carried(join, Task.reads, Task.writes)
            call = packed(Call.of(run, task, True))
            brought: list[str] = []
            with watched(lambda what, path: brought.append(path) if what == "read" else None):
                done = store.run_on("worker", call)
            assert noted(unpacked(done)) == out
            remove(given)
            assert not list(out.rglob("*.parquet")), "the driver did not ask for it"
        fetch(home.training_set)
        written = (home.training_set / "joined.parquet").read_text()
        assert written == "scratch events given"
    brought = [path for path in brought if "items" in path]
    assert not brought, "a task brought what it did not read"
    with store.node("worker") as worker:
        left = without_mtime(worker.root)
        assert left.keys() == {
            "log/current.json",
            "log/l-1/events/day=1/part.parquet",
        }
        assert not list(worker.root.rglob("*.arrow"))
    with store.node("b") as other:
        other.fetch(other.training_set)
        assert (other.training_set / "joined.parquet").read_text() == "scratch events given"
    names = {name for name in store.objects() if name.startswith("training_set")}
    assert len(names) == 2, "what tasks handed to each other was left"


def test_a_task_takes_nothing_along_where_there_is_one_disk(store: Nodes) -> None:
    with store.node("a") as home:
        publish_log(home)
        home = home.pin()
        with replaced(home.training_set) as out:
            (out / "x.arrow").write_text("given")
            call = packed(
                Call.of(Carried(join, Task.reads, Task.writes), Task(home, "x", out, out), False)
            )
            written: list[str] = []
            with watched(lambda what, path: written.append(path) if what == "write" else None):
                assert noted(unpacked(packed(unpacked(call)()))) == out
            assert not written
            assert (out / "joined.parquet").read_text() == "x events given"


def test_what_a_task_reads_is_fetched_for_it_where_there_is_one_disk(store: Nodes) -> None:
    with store.node("a") as home:
        publish_log(home)
    with store.node("b") as home:
        events = home.pin().events
        Call.of(Carried(join, Task.reads), Task(home, "", events, events), False)
        assert (events / "day=1" / "part.parquet").read_text() == "events"


def test_files_that_a_task_removed_are_gone_for_the_driver(store: Nodes) -> None:
    with store.node("driver") as home, replaced(home.features_of("aa")) as out:
        (out / "old.parquet").write_text("old")
        run = Carried(merge, lambda folder: [folder], lambda folder: [*folder.glob("*.parquet")])
        call = packed(Call.of(run, out, True))
        noted(unpacked(store.run_on("worker", call)))
        assert not (out / "old.parquet").exists()
    with store.node("b") as other:
        other.fetch(other.features)
        assert without_mtime(other.features_of("aa")) == {"new.parquet": b"old, and more"}


def merge(folder: Path) -> None:
    old = folder / "old.parquet"
    (folder / "new.parquet").write_text(f"{old.read_text()}, and more")
    old.unlink()


def test_a_later_batch_sees_what_was_published_since(store: Nodes) -> None:
    """One worker process takes tasks of both."""

    def call(home: Home, batch: str) -> Call[Home, bool]:
        return Call.of(Carried(is_there), home, True, batch)

    with store.node("worker") as worker:
        assert worker.store is not None
        with store.node("driver") as home:
            early = packed(call(home, "one"))
        assert not unpacked(early)().result
        with store.node("driver") as home:
            publish_log(home)
            late = packed(call(home, "two"))
        assert unpacked(late)().result


def is_there(home: Home) -> bool:
    return home.pointer.exists()
