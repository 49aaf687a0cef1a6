"""`prerank forget`: nothing of a user is left, all of everybody else is, and nothing comes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException
from redis import Redis
from tests import forgetting
from tests.documented import run_block
from tests.forgetting import DAY, GONE, SECRET, STAYS, mentions
from tests.kills import changes_of, killed
from tests.without_ray import stages_here

from prerank import cli
from prerank.core.errors import DataError, NotReadyError, StateError
from prerank.core.feature_sets import manifest_of_log
from prerank.core.files import read_json
from prerank.core.forgotten import Forgotten, remember
from prerank.core.home import ENV, Home
from prerank.core.manifest import LogManifest
from prerank.core.served import events_folder, requests_folder
from prerank.features.build import build_features
from prerank.forget import forget
from prerank.ingest.days import known_days
from prerank.ingest.served import ingest_served
from prerank.online.history import Event, HistoryTable, read_histories
from prerank.online.logs import acknowledged_events
from prerank.online.materialise import materialise
from prerank.online.merging import OnlineHistories
from prerank.online.sentinel import read_rows
from prerank.online.store import REDIS_ENV, open_store
from prerank.online.writer import HistoryWriter
from prerank.registry.embedding import EMBEDDING, EMBEDDING_CUTOFF
from prerank.registry.versions import TRAINED_UNTIL


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a log, features and a training set. Read only."""
    home = Home.at(tmp_path_factory.mktemp("world") / "home")
    return forgetting.built(home, forgetting.log(), training_set=True)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same log of people of whom GONE never was one. Read only."""
    log = forgetting.log()
    home = Home.at(tmp_path_factory.mktemp("without") / "home")
    return forgetting.built(home, log[log["visitor"] != GONE])


@pytest.fixture
def home(world: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the world that is online nowhere."""
    monkeypatch.delenv(REDIS_ENV, raising=False)
    shutil.copytree(world.root, tmp_path / "home")
    return Home.at(tmp_path / "home")


@pytest.fixture(params=["sqlite", "redis"])
def online(home: Home, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy that is online, in each store, with GONE in every place."""
    if request.param == "redis":
        monkeypatch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())
    materialise(home, progress=False)
    forgetting.plant(home)
    return home


def in_redis(monkey_env: str) -> bytes:
    """All that is in a database, keys and values."""
    address, _, options = monkey_env.partition(",")
    host, port = address.split(":")
    found = []
    with Redis(host, int(port), db=int(options.removeprefix("db="))) as client:
        for key in client.scan_iter():
            found.append(key)
            match client.type(key):
                case b"hash":
                    found.extend(x for pair in client.hgetall(key).items() for x in pair)
                case b"stream":
                    found.append(repr(client.xrange(key)).encode())
                case b"set":
                    found.extend(client.smembers(key))
                case _:
                    found.append(client.get(key) or b"")
    return b"\n".join(found)


def same(home: Home, other: Home) -> None:
    for name, rows in forgetting.tables(home).items():
        assert rows.equals(forgetting.tables(other)[name]), name


def test_nothing_of_a_user_is_left_in_any_place(online: Home, without: Home) -> None:
    for place in ("log/", "features/", "served/", "journal/", "check", ".ingest", "quarantine/"):
        assert any(name.startswith(place) for name in mentions(online, GONE)), place
    receipt = forget(online, {GONE})
    assert mentions(online, GONE) == []
    assert [m for m in mentions(online, SECRET) if not m.startswith(("served/", "journal/"))] == []
    (digest,) = receipt.users
    told = f"receipts/{receipt.path.name}"
    assert mentions(online, digest) == ["forgotten.json", told]
    assert receipt.ended
    # Whoever else was there, still is.
    for place in (
        "events/day",
        "features/",
        "served/",
        "journal/",
        f"{online.log.name}/quarantine",
    ):
        assert any(place in name for name in mentions(online, STAYS)), place
    same(online, without)


def test_nothing_of_a_user_is_left_in_redis(
    home: Home, new_redis: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = new_redis()
    monkeypatch.setenv(REDIS_ENV, address)
    materialise(home, progress=False)
    write(home, [forgetting.event(n, user) for user in (GONE, STAYS) for n in range(3)])
    assert GONE.encode() in in_redis(address)
    before = in_redis(address).count(STAYS.encode())
    receipt = forget(home, {GONE})
    left = in_redis(address)
    assert GONE.encode() not in left
    assert left.count(STAYS.encode()) == before
    assert receipt.places["journal"]["events"] == 3
    assert receipt.places["online store"]["users"] == 1


def write(home: Home, events: list[Event]) -> None:
    """Events that a live writer acknowledges."""
    with HistoryWriter(home, open_store(home), LogManifest.load(home).schema, wait_s=0) as writer:
        writer.replay()
        writer.write(events)


def test_the_log_is_that_of_people_of_whom_the_user_never_was_one(
    home: Home, without: Home, tmp_path: Path
) -> None:
    shutil.copytree(without.root, tmp_path / "without")
    without = Home.at(tmp_path / "without")
    days = known_days(home)
    kept = {f: f.stat().st_ino for f in home.events.glob("*/*")}
    receipt = forget(home, {GONE})
    ours, theirs = LogManifest.load(home), LogManifest.load(without)
    for name in ("events", "requests", "requests_per_day", "users", "queries", "fingerprint"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.first_time, ours.last_time) == (theirs.first_time, theirs.last_time)
    assert {d: c.content for d, c in known_days(home).items()} == {
        d: c.content for d, c in known_days(without).items()
    }
    assert days.keys() == known_days(home).keys()
    assert receipt.places["log"]["rows"] == sum(d.rows for d in days.values()) - ours.events
    assert [f.name for f in home.pointer.parent.glob("*-*")] == [home.log.name]
    assert not kept.keys() & set(home.events.glob("*/*"))
    # What is ingested and built next is the same, too.
    more = forgetting.log(1, forgetting.DAYS)
    for each in (home, without):
        forgetting.ingested(each, more[more["visitor"] != GONE])
        with stages_here():
            build_features(each)
    same(home, without)


def test_features_and_counts_are_restated_and_say_so(home: Home, without: Home) -> None:
    before = manifest_of_log(home)
    forget(home, {GONE})
    after = manifest_of_log(home)
    same(home, without)
    assert before["restated"] == []
    assert len(after["restated"]) == 1
    assert after["tables"] == before["tables"], "materialising goes on from where it was"
    names = ("cadence_hours", "lag_minutes", "last_cutoff_us")
    assert [after[n] for n in names] == [before[n] for n in names]


def test_what_is_online_is_what_the_restated_tables_say(online: Home) -> None:
    schema = LogManifest.load(online).schema
    store = open_store(online)
    lonely, shared = f"q:{SECRET}", "q:blue lamp"
    before = read_rows(store, schema.engagement_view, [lonely, shared])
    assert all(before)
    forget(online, {GONE})
    rows = forgetting.tables(online)["engagement"].to_pandas()
    latest = rows.groupby("engagement_key")["row"].last()
    keys = list(latest.index)
    assert read_rows(store, schema.engagement_view, keys) == list(latest)
    assert read_rows(store, schema.engagement_view, [lonely]) == [b""]
    assert latest[shared] != before[1]
    histories = read_histories(store, schema.history_view, [GONE, STAYS])
    assert [len(histories[user]) > 0 for user in (GONE, STAYS)] == [False, True]
    # A filling that goes on does not miss the user among its probes, nor bring the user back.
    materialise(online, progress=False)
    assert len(read_histories(store, schema.history_view, [GONE])[GONE]) == 0


def test_what_comes_again_is_dropped_with_a_count(home: Home, without: Home) -> None:
    forget(home, {GONE})
    raw = forgetting.log(forgetting.DAYS + 1)
    report = forgetting.ingested(home, raw)
    theirs = int((raw["visitor"] == GONE).sum())
    assert report.manifest.rows["forgotten"] == theirs
    assert f"{theirs:,} of users who were forgotten" in str(report)
    assert mentions(home, GONE) == []
    bad = raw[raw["visitor"].isin([GONE, STAYS])].assign(item_id=None).head(40)
    forgetting.ingested(home, pd.concat([raw.head(5), bad]))
    assert mentions(home, GONE) == []
    assert any(name.split("/")[2:3] == ["quarantine"] for name in mentions(home, STAYS))
    mine = raw[raw["visitor"] == GONE]
    with pytest.raises(DataError, match="are of users who were forgotten"):
        forgetting.ingested(home, mine)


def test_lines_that_are_no_rows_are_dropped_by_their_words(home: Home, tmp_path: Path) -> None:
    remember(home, {GONE})
    rows = forgetting.log(1, forgetting.DAYS)
    text = rows[rows["visitor"] == STAYS].to_json(orient="records", lines=True, date_format="iso")
    broken = [f'{{"visitor": "{user}", "query' for user in (GONE, "searcher-2")]
    (tmp_path / "new.jsonl").write_text("\n".join([text.strip(), *broken]) + "\n")
    forgetting.ingested(home, rows[rows["visitor"] == STAYS], tmp_path / "new.jsonl")
    kept = pa.concat_tables(pq.read_table(f) for f in home.quarantine.glob("events-*.parquet"))
    assert kept["row"].to_pylist() == [broken[1]]


def test_whoever_merges_histories_writes_none_of_theirs(home: Home) -> None:
    materialise(home, progress=False)
    store, schema = open_store(home), LogManifest.load(home).schema
    before = read_histories(store, schema.history_view, [GONE, STAYS])
    remember(home, {GONE})
    merging = OnlineHistories(home, store, HistoryTable.of(schema))
    merging.merge_events([forgetting.event(1, user) for user in (GONE, STAYS)])
    after = read_histories(store, schema.history_view, [GONE, STAYS])
    assert after[GONE] == before[GONE]
    assert len(after[STAYS]) == len(before[STAYS]) + 1


def test_a_live_writer_makes_its_journal_anew_and_takes_no_more_events(
    online: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prerank.online.writer.POLL_S", 0.05)
    schema, store = LogManifest.load(online).schema, open_store(online)
    with HistoryWriter(online, store, schema, wait_s=0) as writer:
        writer.replay()
        writer.start()
        writer.write([forgetting.event(n, user) for user in (GONE, STAYS) for n in range(3, 6)])
        assert len(read_histories(store, schema.history_view, [GONE])[GONE]) > 0
        receipt = forget(online, {GONE})
        assert receipt.places["journal"]["events"] >= 3
        again = writer.write([forgetting.event(9, GONE), forgetting.event(9, STAYS)])
        assert again.accepted == 2
    users = {e.user_id for batch in acknowledged_events(online) for e in batch}
    assert users == {STAYS}
    assert len(read_histories(store, schema.history_view, [GONE])[GONE]) == 0
    assert mentions(online, GONE) == []


def test_a_writer_that_does_not_answer_is_named_and_the_run_is_done_again(home: Home) -> None:
    materialise(home, progress=False)
    forgetting.plant(home)
    schema = LogManifest.load(home).schema
    with HistoryWriter(home, open_store(home), schema, wait_s=0):
        with pytest.raises(NotReadyError, match="the journal still holds events"):
            forget(home, {GONE}, wait_s=0.1)
        (path,) = (home.root / "receipts").glob("*.json")
        assert not read_json(path)["ended"]
        assert all(name.startswith("journal/") for name in mentions(home, GONE))
    receipt = forget(home, {GONE})
    assert receipt.path == path, "the same receipt goes on"
    assert receipt.ended
    assert "journal" not in receipt.remains
    assert receipt.places["log"]["rows"] > 0
    assert mentions(home, GONE) == []


def test_what_was_served_is_not_read_again(home: Home) -> None:
    forgetting.plant(home)
    file = next(events_folder(home).glob("*/*.jsonl"))
    length = file.stat().st_size
    # A deployment appends all the while, by the file's name.
    with file.open("ab", buffering=0) as live:
        receipt = forget(home, {GONE})
        live.write(b'{"user_id": "late"}\n')
    assert receipt.places["served log"] == {
        "looked_at": "answers and reported events",
        "answers": 2,
        "events": 2,
    }
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    assert [line["user_id"] for line in lines] == [STAYS, STAYS, "late"]
    assert file.stat().st_size == length + 20
    (answers,) = requests_folder(home).glob("*/*.parquet")
    assert pq.read_table(answers, partitioning=None)["user_id"].to_pylist() == [STAYS]
    with stages_here():
        found = ingest_served(home, pd.Timestamp.now("UTC").date())
    assert found is not None
    # The blanks are no lines; what has no id is one that cannot be read.
    assert (found.answers, found.events, found.unread) == (1, 2, 1)


def test_again_changes_nothing_and_says_so(home: Home) -> None:
    forgetting.plant(home)
    first = forget(home, {GONE})
    log, tables = home.log, forgetting.tables(home)
    again = forget(home, {GONE})
    assert again.path != first.path
    assert home.log == log
    assert all(rows.equals(tables[name]) for name, rows in forgetting.tables(home).items())
    counts = [n for place in again.places.values() for n in place.values() if isinstance(n, int)]
    assert sum(counts) == 0


def test_several_users_in_one_run(home: Home) -> None:
    forgetting.plant(home)
    receipt = forget(home, {GONE, "searcher-3", "nobody"})
    assert mentions(home, GONE) == mentions(home, "searcher-3") == []
    assert len(receipt.users) == len(Forgotten.of(home).hashes) == 3
    assert LogManifest.load(home).users == 6


def test_versions_that_learned_from_the_user_are_named(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        tracking_uri = "nowhere"

        def search_model_versions(self, filter_string: str) -> list[SimpleNamespace]:
            of_vectors = filter_string == f"name='{EMBEDDING}'"
            assert of_vectors or filter_string == "name='prerank'"
            tag = EMBEDDING_CUTOFF if of_vectors else TRAINED_UNTIL
            days = {"5": 1, "4": 0} if of_vectors else {"3": 1, "10": 1, "2": 0, "1": None}
            return [
                SimpleNamespace(
                    version=number,
                    tags={} if day is None else {tag: str(forgetting.START + day * DAY)},
                )
                for number, day in days.items()
            ]

    home.mlflow.mkdir()
    (home.mlflow / "mlflow.db").touch()
    # It would outlive the test, in the environment.
    monkeypatch.setattr("mlflow.set_tracking_uri", lambda uri: None)
    monkeypatch.setattr("mlflow.MlflowClient", Client)
    # The user's first request is on the first day.
    remains = forget(home, {GONE}).remains
    assert "versions 1, 3, 10 of the model" in remains["models"]
    assert f"versions 5 of {EMBEDDING}" in remains["embeddings"]


def test_a_registry_that_is_away_leaves_every_version(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        tracking_uri = "nowhere"

        def search_model_versions(self, filter_string: str) -> None:
            raise MlflowException("connection refused")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    # It would outlive the test, in the environment.
    monkeypatch.setattr("mlflow.set_tracking_uri", lambda uri: None)
    monkeypatch.setattr("mlflow.MlflowClient", Away)
    receipt = forget(home, {GONE})
    assert "every version registered before" in receipt.remains["models"]
    assert "connection refused" in receipt.remains["models"]
    assert receipt.ended


def test_what_cannot_be_changed_is_named(home: Home) -> None:
    forgetting.plant(home)
    (home.root / "baselines").mkdir()
    receipt = forget(home, {GONE})
    assert {"raw files", "copies", "training set", "baselines", "counts of other schemas"} == set(
        receipt.remains
    )
    assert not home.training_set.exists()
    assert "remains: raw files" in receipt.text()
    with pytest.raises(StateError, match="training-set"):
        home.read_json(home.training_set / "manifest.json", "prerank training-set")


def test_the_only_user_of_a_log_and_nobody_are_refused_before_anything_is_done(
    home: Home, tmp_path: Path
) -> None:
    log = forgetting.log()
    alone = forgetting.built(Home.at(tmp_path / "alone"), log[log["visitor"] == GONE])
    with pytest.raises(StateError, match="holds nobody else"):
        forget(alone, {GONE})
    with pytest.raises(DataError, match="No user is named"):
        forget(home, set())
    assert not (alone.root / "forgotten.json").exists()
    assert mentions(home, GONE)


def test_another_online_store_than_the_environment_names_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialise(home, progress=False)
    monkeypatch.setenv(REDIS_ENV, "127.0.0.1:1")
    with pytest.raises(StateError, match="PRERANK_REDIS"):
        forget(home, {GONE})
    assert not (home.root / "forgotten.json").exists()


def test_the_command_prints_and_keeps_a_receipt(
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "ids.txt").write_text("searcher-2\n\nsearcher-3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENV, str(home.root))
    run_block("forget", u42=GONE)
    told = capsys.readouterr().out
    for path in (home.root / "receipts").glob("*.json"):
        assert str(path) in told
    assert "receipt of 1 forgotten" in told
    assert "receipt of 2 forgotten" in told
    assert GONE not in told
    with pytest.raises(SystemExit) as stopped:
        cli.main(["forget", "--workdir", str(home.root)])
    assert stopped.value.code == 2


def test_a_run_that_is_killed_goes_on_and_leaves_nothing(
    world: Home, without: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REDIS_ENV, raising=False)
    kill_and_go_on(world, without, tmp_path, seed=0, kills=2)


def test_counts_that_a_killed_run_put_aside_are_written_again(home: Home, without: Home) -> None:
    tables = home.features_of(LogManifest.load(home).schema.hash())
    tables.rename(tables.with_name(f".{tables.name}.{'0' * 32}.old"))
    forget(home, {GONE})
    assert mentions(home, GONE) == []
    same(home, without)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_run_that_is_killed_goes_on_wherever_it_is(
    world: Home, without: Home, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REDIS_ENV, raising=False)
    kill_and_go_on(world, without, tmp_path, seed, kills=5)


def kill_and_go_on(world: Home, without: Home, tmp_path: Path, seed: int, kills: int) -> None:
    """Forget a user in runs that are killed at random moments, then in one that is not."""
    rng, homes = np.random.default_rng(seed), []
    for name in ("counted", "killed"):
        shutil.copytree(world.root, tmp_path / name)
        homes.append(Home.at(tmp_path / name))
        forgetting.plant(homes[-1])
    counted, home = homes
    changes = changes_of(lambda: forget(counted, {GONE}))
    for at in rng.integers(1, changes + 1, kills).tolist():
        killed(lambda: forget(home, {GONE}), at)
    receipt = forget(home, {GONE})
    assert mentions(home, GONE) == []
    same(home, without)
    assert LogManifest.load(home).fingerprint == LogManifest.load(without).fingerprint
    (whole,) = (counted.root / "receipts").glob("*.json")
    ended = [read_json(path) for path in receipt.path.parent.glob("*.json")]
    assert [told["ended"] for told in ended].count("") == 0
    rows = [told["places"].get("log", {}).get("rows", 0) for told in ended]
    assert max(rows) == read_json(whole)["places"]["log"]["rows"]
