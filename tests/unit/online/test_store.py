"""What an online store is called in a home's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from prerank.core.errors import StateError
from prerank.core.home import ID_ENV, Home
from prerank.online.store import REDIS_ENV, apply, online_name, store_config


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
