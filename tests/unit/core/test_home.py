"""A home is its owner's alone; its own id, and the variables that name it."""

from __future__ import annotations

import os
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prerank.core.environment import variables
from prerank.core.errors import ConfigError, StateError
from prerank.core.files import REMOTES
from prerank.core.home import ENV, ID_ENV, Home
from prerank.core.storage import CACHE_ENV


def test_a_home_has_an_id_of_its_own_that_stays(tmp_path: Path) -> None:
    one, other = Home.at(tmp_path / "one"), Home.at(tmp_path / "other")
    assert one.id == Home.at(tmp_path / "one").id
    assert one.id != other.id
    assert len(one.id) == 12


def test_processes_that_come_at_once_agree_on_the_id(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda _: Home.at(tmp_path).id, range(8)))
    assert len(ids) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["home.json"]


@pytest.mark.parametrize("text", ["{}", '{"id": "../x"}', '{"id": 7}'])
def test_an_id_that_is_none_is_refused_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "home.json").write_text(text)
    with pytest.raises(StateError, match=r"home\.json.*prerank materialise"):
        assert Home.at(tmp_path).id


def test_the_environment_names_this_home_even_where_another_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.at(tmp_path)
    monkeypatch.setenv(ID_ENV, "0" * 12)
    assert variables(home)[ID_ENV] == home.id


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o377])
def test_a_new_home_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    home = Home.at(tmp_path / "a" / "home")
    home.root.parent.mkdir()
    before = os.umask(umask)
    try:
        home.create()
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_a_home_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Home.at(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_home_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/home"):
        with pytest.raises(ConfigError, match=f"PRERANK_HOME=.*{place} cannot be made"):
            Home.at(tmp_path / place).create()


def test_a_home_in_a_store_is_named_by_its_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_ENV, str(tmp_path))
    monkeypatch.delenv(ENV, raising=False)
    home = Home.at("s3://bucket/prerank/")
    told = variables(home)
    assert told[ENV] == home.place == "s3://bucket/prerank"
    assert told[ID_ENV] == home.id
    assert home.root.parent == tmp_path
    assert pickle.loads(pickle.dumps(home.store)) is home.store
    REMOTES.clear()
