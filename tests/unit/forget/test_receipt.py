"""`prerank forget` tells what it did, what it found done already, and what remains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from tests import forgetting
from tests.documented import run_block
from tests.forgetting import DAY, GONE, mentions

from prerank import cli
from prerank.core.errors import DataError, StateError
from prerank.core.forgotten import Forgotten
from prerank.core.home import ENV, Home
from prerank.core.manifest import LogManifest
from prerank.forget import forget
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV
from prerank.registry.embedding import EMBEDDING, EMBEDDING_CUTOFF
from prerank.registry.versions import TRAINED_UNTIL


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
