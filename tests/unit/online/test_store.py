"""PRERANK_REDIS: what a store is called, any password, and what is said where none can be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.redis_server import RedisServer
from tests.small_tables import CUTOFF, HOUR, QUERY, SCHEMA, USER, write_tables

from prerank.core.errors import ConfigError, NotReadyError, StateError
from prerank.core.home import ID_ENV, Home
from prerank.core.processes import free_port
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.store import (
    REDIS_ENV,
    apply,
    check_online,
    online_name,
    repo_folder,
    store_config,
)

PASSWORDS = ["plain", "a #b: 'c' \"d\" ${HOME}", "0123", "1e3", "true", "a=b"]


def name(patch: pytest.MonkeyPatch, redis: str) -> str:
    patch.setenv(REDIS_ENV, redis)
    return online_name()


def test_a_store_is_named_by_its_place_and_not_by_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert name(monkeypatch, "") == "sqlite"
    plain = name(monkeypatch, "cache:6379")
    assert plain == "redis-cache-6379-db0"
    for same in (
        "cache:6379,password=old",
        "cache:6379,ssl=true,password=new,username=me,socket_timeout=1",
        "password=a=b,cache:6379,db=0",
    ):
        assert name(monkeypatch, same) == plain
    others = [name(monkeypatch, r) for r in ("cache:6379,db=1", "cache:6380", "other:6379")]
    assert len({plain, *others}) == 4
    nodes = name(monkeypatch, "b:1,a:1,password=x/y")
    assert nodes == name(monkeypatch, "a:1,b:1")
    assert "/" not in nodes


def test_the_project_is_the_homes_own_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ID_ENV, "0" * 12)
    for redis in ("", "cache:6379"):
        monkeypatch.setenv(REDIS_ENV, redis)
        home = Home.at(tmp_path / "home")
        assert store_config(home).project == f"prerank_{home.id}"


def test_without_feature_tables_nothing_is_applied(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="prerank features"):
        apply(Home.at(tmp_path))


@pytest.mark.parametrize("password", PASSWORDS)
def test_the_connection_string_reaches_feast_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    wanted = f"redis:6379,password={password},db=3"
    monkeypatch.setenv(REDIS_ENV, wanted)
    config = store_config(Home.at(tmp_path))
    assert config.online_store.connection_string == wanted
    assert config.registry.path == f"{tmp_path}/feast/registry.db"


def test_feasts_own_command_reads_a_password_with_a_number_sign() -> None:
    text = (repo_folder() / "feature_store.redis.yaml").read_text()
    filled = text.replace("${PRERANK_REDIS}", "redis:6379,password=a #b")
    assert yaml.safe_load(filled)["online_store"]["connection_string"].endswith("a #b")


@pytest.fixture(params=["1234567e3", "s3cret #b"])
def secured(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, "--requirepass", request.param)
    try:
        server.start(request.param)
        monkeypatch.setenv(REDIS_ENV, f"{server.address},password={request.param}")
        yield server
    finally:
        server.kill()


def test_a_server_with_a_password_is_used(tmp_path: Path, secured: RedisServer) -> None:
    home = Home.at(tmp_path / "home")
    check_online(home)
    write_tables(home)
    materialise(home, progress=False)
    read = OnlineFeatures(home, SCHEMA, timeout_s=10.0).read(QUERY, USER, CUTOFF + HOUR)
    assert read.degraded == ()
    secret = os.environ[REDIS_ENV].rpartition("=")[2].encode()
    kept = [f for f in home.root.rglob("*") if f.is_file() and f.suffix != ".parquet"]
    assert [f for f in kept if secret in f.read_bytes()] == []


def test_a_wrong_password_is_said_and_not_shown(
    tmp_path: Path, secured: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_ENV, f"{secured.address},password=gu3ss")
    with pytest.raises(NotReadyError, match=f"{secured.address}.*refuses.*password=") as found:
        check_online(Home.at(tmp_path))
    assert "gu3ss" not in str(found.value)


def test_no_server_is_said_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(REDIS_ENV, f"{address},password=s3cret")
    with pytest.raises(NotReadyError, match=f"{address}.*PRERANK_REDIS.*unset") as found:
        check_online(Home.at(tmp_path))
    assert "s3cret" not in str(found.value)


@pytest.mark.parametrize("value", ["redis", "redis:6379,password=a,b", "redis://redis:6379"])
def test_another_form_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(REDIS_ENV, value)
    with pytest.raises(ConfigError, match="PRERANK_REDIS is not `host:port`"):
        check_online(Home.at(tmp_path))


def test_sqlite_needs_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REDIS_ENV, raising=False)
    check_online(Home.at(tmp_path))
