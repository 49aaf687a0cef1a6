"""A home with a log of a user who is forgotten, and the same log without that user."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests import forgetting
from tests.forgetting import GONE

from prerank.core.home import Home
from prerank.online.store import REDIS_ENV


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a log, features and a training set. Read only."""
    home = Home.at(tmp_path_factory.mktemp("world") / "home")
    return forgetting.built(home, forgetting.log(), training_set=True)


@pytest.fixture(scope="session")
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
