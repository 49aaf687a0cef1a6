"""`prerank forget` with the home in an object store: nothing is left there, nor on any node."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests import forgetting
from tests.forgetting import GONE, SECRET, STAYS, mentions
from tests.kills import changes_of, killed
from tests.object_stores import Nodes, in_child, nodes, watched
from tests.s3 import s3_server
from tests.without_ray import stages_here

from prerank.core.errors import NotReadyError, StateError
from prerank.core.files import REMOTES, read_json, replaced
from prerank.core.forgotten import Forgotten, remember
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.objects import Objects
from prerank.core.served import events_folder, requests_folder
from prerank.core.storage import CACHE_ENV
from prerank.core.trust import Flags
from prerank.dataset.build import build_training_set
from prerank.features.build import build_features
from prerank.forget import forget
from prerank.online.history import HistoryTable, read_histories
from prerank.online.logs import acknowledged_events
from prerank.online.materialise import materialise
from prerank.online.merging import OnlineHistories
from prerank.online.store import REDIS_ENV, open_store
from prerank.online.writer import HistoryWriter


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REDIS_ENV, raising=False)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket with a log, features, a training set and refused rows. Read only."""
    with nodes(tmp_path_factory.mktemp("world")) as made, made.node("maker") as home:
        forgetting.built(home, forgetting.bad_rows(forgetting.log()), training_set=True)
        return made.bucket


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A local home of people of whom GONE never was one. Read only."""
    log = forgetting.log()
    home = Home.at(tmp_path_factory.mktemp("without") / "home")
    return forgetting.built(home, log[log["visitor"] != GONE])


@pytest.fixture
def store(world: Path, tmp_path: Path) -> Iterator[Nodes]:
    """A copy of the world, of which no node has anything yet."""
    with copied(world, tmp_path) as made:
        yield made


@contextmanager
def copied(world: Path, folder: Path) -> Iterator[Nodes]:
    with nodes(folder) as made:
        shutil.copytree(world, made.bucket)
        yield made


def everything(home: Home) -> None:
    """Have all of a home in the cache folder, as a node that worked on all of it has."""
    home.look(requests_folder(home), events_folder(home), deep=True)
    home.fetch(home.root)


def in_bucket(store: Nodes, text: str) -> list[str]:
    return mentions(Home(store.bucket), text)


def test_nothing_of_a_user_is_left_in_the_store_or_on_any_node(
    store: Nodes, without: Home, new_redis: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_ENV, new_redis())
    with store.node("other") as other:
        forgetting.plant_published(other)
        everything(other)
        materialise(other, progress=False)
        # What a publication that was killed just now left, and what tasks handed to each other.
        for name in ("log/dead-1-9/events/rows", "training_set/dead/rows", "tmp/run/rows"):
            (store.bucket / "home" / name).parent.mkdir(parents=True)
            (store.bucket / "home" / name).write_text(GONE)
        for place in ("log/", "features/", "served/", "check.html", ".ingest/", "users.jsonl"):
            assert any(name.startswith(place) for name in mentions(other, GONE)), place
        before = other.log
        # Published from here, and not looked at since.
        with stages_here():
            build_training_set(other)
    with store.node("one") as home:
        receipt = forget(home, {GONE})
        assert receipt.ended
        assert mentions(home, GONE) == []
        assert in_bucket(store, GONE) == []
        everything(home)
        assert in_bucket(store, SECRET) == [m for m in in_bucket(store, SECRET) if "served/" in m]
        for name, rows in forgetting.tables(home).items():
            assert rows.equals(forgetting.tables(without)[name]), name
        assert LogManifest.load(home).fingerprint == LogManifest.load(without).fingerprint
        assert not home.training_set.exists()
        assert Flags.load(home).users == (STAYS,)
        assert {"caches", "versions", "raw files", "copies", "training set"} == set(receipt.remains)
        counts = receipt.places
        assert counts["log"]["rows"] > 0
        assert counts["quarantine"]["rows"] > 0
        assert counts["online store"]["users"] == 1
        assert (counts["served log"]["answers"], counts["served log"]["events"]) == (2, 2)
        assert counts["object store"]["objects"] >= 3
        for place in ("events/day", "features/", "served/", "quarantine"):
            assert any(place in name for name in mentions(home, STAYS)), place
        log = home.log.name
    # The other node has it all until it looks.
    with store.node("other") as other:
        assert not [*other.training_set.rglob("*.parquet")]
        assert other.log.name == log != before.name
        assert mentions(other, GONE) == []
        assert any(".dead-000001.jsonl" in name for name in mentions(other, STAYS))
        store_of = open_store(other)
        view = LogManifest.load(other).schema.history_view
        found = read_histories(store_of, view, [GONE, STAYS])
        assert [len(found[user]) > 0 for user in (GONE, STAYS)] == [False, True]
        # What is done next is right, and nothing comes back.
        forgetting.ingested(other, forgetting.log(1, forgetting.DAYS))
        with stages_here():
            build_features(other)
        assert mentions(other, GONE) == []
    assert in_bucket(store, GONE) == []


def test_a_node_has_what_it_had_until_it_looks(store: Nodes) -> None:
    with store.node("other") as other:
        everything(other)
        root = other.root
    with store.node("one") as home:
        forget(home, {GONE})
        assert mentions(Home(root), GONE)
    with store.node("other") as other:
        # Entered with a look.
        assert mentions(other, GONE) == []
        swept: list[str] = []
        with watched(lambda what, path: swept.append(path)):
            other.look(other.root)
        assert len(swept) < 10, "it is done once"


@pytest.mark.faults
def test_again_changes_nothing_and_an_id_stays_forgotten(store: Nodes) -> None:
    with store.node("one") as home:
        forget(home, {GONE})
        log = home.log.name
    with store.node("other") as home:
        again = forget(home, {GONE})
        assert home.log.name == log
        counts = [n for p in again.places.values() for n in p.values() if isinstance(n, int)]
        assert sum(counts) == 0
        report = forgetting.ingested(home, forgetting.log(2, forgetting.DAYS))
        assert report.manifest.rows["forgotten"] > 0
        forget(home, {STAYS})
        assert in_bucket(store, GONE) == in_bucket(store, STAYS) == []
        assert len(Forgotten.of(home).hashes) == 2


def kill_and_go_on(world: Path, without: Home, tmp_path: Path, seed: int, kills: int) -> None:
    """Forget a user in runs that are killed at random moments, then in one on another node."""
    rng = np.random.default_rng(seed)

    def run(store: Nodes, node: str) -> None:
        with store.node(node) as home:
            forget(home, {GONE})

    with copied(world, tmp_path / "counted") as counted:
        changes = changes_of(lambda: run(counted, "one"))
    with copied(world, tmp_path / "killed") as store:
        with store.node("one") as home:
            forgetting.plant_published(home)
        for at in rng.integers(1, changes + 1, kills).tolist():
            killed(lambda: run(store, "one"), at)
        run(store, "other")
        assert in_bucket(store, GONE) == []
        for node in ("one", "other"):
            with store.node(node) as home:
                assert mentions(home, GONE) == [], node
        with store.node("other") as home:
            everything(home)
            for name, rows in forgetting.tables(home).items():
                assert rows.equals(forgetting.tables(without)[name]), name
            ended = [read_json(path)["ended"] for path in (home.root / "receipts").glob("*.json")]
            assert all(ended)


def test_a_run_that_is_killed_goes_on_from_another_node(
    world: Path, without: Home, tmp_path: Path
) -> None:
    kill_and_go_on(world, without, tmp_path, seed=0, kills=1)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_run_that_is_killed_goes_on_wherever_it_is(
    world: Path, without: Home, tmp_path: Path, seed: int
) -> None:
    kill_and_go_on(world, without, tmp_path, seed, kills=4)


def test_a_log_that_was_begun_before_is_not_published(store: Nodes, tmp_path: Path) -> None:
    raw = forgetting.log(1, forgetting.DAYS)
    with store.node("other") as other:
        before, done = other.log, False

        def forgotten_meanwhile(what: str, path: str) -> None:
            nonlocal done
            # The first file of the new log.
            if not done and what == "write" and "/log/" in path:
                done = True
                assert in_child(lambda: forget_on(store, "one")) == 0

        with watched(forgotten_meanwhile), pytest.raises(StateError, match="Users were forgotten"):
            forgetting.ingested(other, raw)
        assert done
        other.look()
        assert other.log.name == before.name
        assert forgetting.ingested(other, raw).manifest.rows["forgotten"] > 0


def forget_on(store: Nodes, node: str) -> None:
    with store.node(node) as home:
        remember(home, {GONE})


def test_a_writer_of_another_node_is_waited_for_until_it_knows(
    store: Nodes, new_redis: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would bring the history back: it merges what it acknowledged before it looked."""
    monkeypatch.setenv(REDIS_ENV, new_redis())
    monkeypatch.setattr("prerank.online.writer.POLL_S", 0.05)
    with store.node("one") as home:
        materialise(home, progress=False)
    with store.node("other") as other:
        schema, features = LogManifest.load(other).schema, open_store(other)
        with HistoryWriter(other, features, schema, wait_s=0) as writer:
            writer.replay()
            with store.node("one") as home:
                with pytest.raises(NotReadyError, match="journal still holds events"):
                    forget(home, {GONE}, wait_s=0.1)
                # As a caller's event does that came before the writer looked.
                writer.write([forgetting.event(1, GONE), forgetting.event(1, STAYS)])
                assert len(read_histories(features, schema.history_view, [GONE])[GONE]) > 0
                writer.start()
                receipt = forget(home, {GONE})
            assert receipt.ended
            assert len(read_histories(features, schema.history_view, [GONE])[GONE]) == 0
            writer.write([forgetting.event(2, GONE), forgetting.event(2, STAYS)])
        users = {e.user_id for batch in acknowledged_events(other) for e in batch}
        assert users == {STAYS}
        assert len(read_histories(features, schema.history_view, [GONE])[GONE]) == 0


def test_features_in_a_file_of_another_node_are_refused(store: Nodes) -> None:
    with store.node("one") as home:
        materialise(home, progress=False)
    with store.node("other") as home:
        with pytest.raises(StateError, match="in a file of another node"):
            forget(home, {GONE})
        assert not (home.root / "forgotten.json").exists()
    with store.node("one") as home:
        assert forget(home, {GONE}).places["online store"]["users"] == 1
        assert mentions(home, GONE) == []


def test_what_is_being_written_on_a_node_is_left_alone(store: Nodes) -> None:
    with store.node("other") as other, replaced(other.training_set) as out:
        # After a look: written by a task that knows who was forgotten.
        with store.node("one") as home:
            remember(home, {GONE})
        other.look()
        (out / "rows.parquet").write_text("rows")
        other.look()
        assert (out / "rows.parquet").exists()


@pytest.mark.faults
def test_a_full_store_ends_it_and_it_goes_on(store: Nodes) -> None:
    seen = 0

    def full(what: str, path: str) -> None:
        nonlocal seen
        seen += what == "write"
        if what == "write" and seen > 12:
            raise OSError("AWS Error UNKNOWN: XMinioStorageFull: HTTP status 507")

    with store.node("one") as home:
        with watched(full), pytest.raises(StateError, match="the store is full"):
            forget(home, {GONE})
        receipt = forget(home, {GONE})
        assert receipt.ended
        assert in_bucket(store, GONE) == []
        assert len(list((home.root / "receipts").glob("*.json"))) == 1


@pytest.mark.faults
def test_the_kills_hit_the_store(store: Nodes) -> None:
    """A run that ends right after the tables were published has their objects of before."""

    def end(what: str, path: str) -> None:
        if what == "remove":
            os.kill(os.getpid(), signal.SIGKILL)

    with store.node("one") as home, watched(end):
        assert os.WIFSIGNALED(in_child(lambda: forget(home, {GONE})))
    with store.node("other") as home:
        forget(home, {GONE})
    assert in_bucket(store, GONE) == []


@pytest.mark.faults
def test_whoever_merges_on_another_node_writes_none_of_theirs(
    store: Nodes, new_redis: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_ENV, new_redis())
    with store.node("one") as home:
        materialise(home, progress=False)
        forget(home, {GONE})
    with store.node("other") as other:
        schema, features = LogManifest.load(other).schema, open_store(other)
        merging = OnlineHistories(other, features, HistoryTable.of(schema))
        merging.merge_events([forgetting.event(1, user) for user in (GONE, STAYS)])
        assert len(read_histories(features, schema.history_view, [GONE])[GONE]) == 0


@pytest.mark.faults
def test_nothing_of_a_user_is_left_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the protocol, with two nodes and conditional puts."""

    def node(name: str) -> Home:
        REMOTES.clear()
        monkeypatch.setenv(CACHE_ENV, str(tmp_path / name))
        home = Home.at("s3://bucket/forgetting")
        home.create()
        home.look()
        return home

    def stored(text: str) -> list[str]:
        objects, copy = Objects("s3://bucket/forgetting"), tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        for each in objects.listed("", deep=True):
            path = copy / each.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(objects.read(each.name) or b"")
        return mentions(Home(copy), text)

    with s3_server(monkeypatch):
        one = node("one")
        forgetting.built(one, forgetting.bad_rows(forgetting.log()), training_set=True)
        forgetting.plant_published(one)
        everything(node("other"))
        assert stored(GONE)
        forget(node("third"), {GONE})
        assert stored(GONE) == []
        assert stored(STAYS)
        for name in ("one", "other", "third"):
            assert mentions(node(name), GONE) == [], name
    REMOTES.clear()
