"""What a command needs is asked for before it does any work."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.object_stores import Nodes, nodes

from prerank import cli, preflight
from prerank.core import ray_tasks
from prerank.core.errors import ConfigError
from prerank.core.home import ENV, Home
from prerank.core.processes import free_port
from prerank.online.store import REDIS_ENV
from prerank.registry.tracking import URI_ENV

Fails = Callable[..., str]


@pytest.fixture
def fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Fails:
    """Runs a verb that must end with an exit code before any stage; returns what it says."""
    from prerank import pipeline

    def started(*args: object, **kwargs: object) -> None:
        raise AssertionError("a stage began")

    monkeypatch.setattr(ray_tasks, "connect", started)
    monkeypatch.setattr(pipeline, "connect", started)
    for name in ("events", "items"):
        (tmp_path / f"{name}.parquet").write_bytes(b"x" * 1000)

    def run(code: int, verb: str, **options: object) -> str:
        given = {"workdir": tmp_path / "home"}
        if verb in ("run", "ingest"):
            given |= {n: tmp_path / f"{n}.parquet" for n in ("events", "items")}
        argv = [f"--{n}={value}" for n, value in {**given, **options}.items()]
        with pytest.raises(SystemExit) as stopped:
            cli.main([verb, *argv])
        said = capsys.readouterr().err
        assert stopped.value.code == code, said
        assert said.count("\n") == 1, said
        return said

    return run


@pytest.mark.parametrize("verb", ["run", "materialise", "demo"])
def test_redis_is_asked_first(fails: Fails, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(REDIS_ENV, f"{address},password=s3cret")
    said = fails(5, verb)
    assert REDIS_ENV in said
    assert address in said
    assert "s3cret" not in said


@pytest.mark.parametrize("verb", ["run", "train"])
def test_mlflow_is_asked_first(fails: Fails, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    from prerank.registry import tracking

    monkeypatch.setattr(tracking, "SERVER_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@127.0.0.1:{free_port()}")
    said = fails(5, verb)
    assert "MLFLOW_TRACKING_URI=http://***@127.0.0.1" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("verb", "option"),
    [("run", "events"), ("run", "items"), ("ingest", "events"), ("run", "oracles")],
)
def test_a_file_that_is_not_there_names_its_option(fails: Fails, verb: str, option: str) -> None:
    assert f"--{option} absent" in fails(2, verb, **{option: "absent"})


def test_a_home_that_cannot_be_made_is_said(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = fails(2, "run", workdir=tmp_path / "file" / "home")
    assert f"{ENV}={tmp_path / 'file' / 'home'} cannot be made" in said


@pytest.mark.parametrize("verb", ["run", "ingest", "features", "training-set", "train"])
def test_a_full_disk_is_said(fails: Fails, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    said = fails(4, verb)
    assert "10 MB free; about 210 MB are needed" in said


def test_a_glob_without_a_match_names_its_option(fails: Fails) -> None:
    assert "--events log/*.csv: no file matches" in fails(2, "ingest", events="log/*.csv")


def test_a_store_is_asked_when_it_is_read(
    fails: Fails, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What comes next is Redis, which is away.
    monkeypatch.setenv(REDIS_ENV, f"127.0.0.1:{free_port()}")
    assert REDIS_ENV in fails(5, "run", events="s3://bucket/log/", items=f"{tmp_path}/items.*")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Nodes]:
    """An object store, and this node's cache of it."""
    with nodes(tmp_path) as made, made.node("here"):
        yield made


def test_a_home_in_a_store_is_looked_at_first(fails: Fails, store: Nodes) -> None:
    assert "Run `prerank ingest` first" in fails(4, "features", workdir=store.uri)
    (store.bucket / "home").mkdir(parents=True)
    (store.bucket / "home" / "training_set.files.json").write_text("{")
    said = fails(4, "features", workdir=store.uri)
    assert f"{store.uri}/training_set.files.json is damaged" in said


@pytest.mark.parametrize("several", [True, False])
def test_several_nodes_ask_for_what_they_can_share(
    store: Nodes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    several: bool,
) -> None:
    for name in (REDIS_ENV, URI_ENV):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray_tasks, "several_nodes", lambda: several)
    home = Home.at(store.uri)
    for options, variable in (({"online": True}, REDIS_ENV), ({"registry": True}, URI_ENV)):
        if several:
            with pytest.raises(ConfigError, match=f"{variable} is not set.*other nodes do not see"):
                preflight.check_services(home, **options)
        else:
            preflight.check_services(home, **options)
            assert f"note: {variable} is not set" in capsys.readouterr().out


def test_a_local_home_needs_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preflight.check_services(Home.at(tmp_path), online=True)
    assert capsys.readouterr().out == ""
