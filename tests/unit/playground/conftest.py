"""The shop of ``tests.shop``, made once: four versions, the first champion, the third unindexed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import shop
from tests.shop_server import Shop, opened

from prerank.core.home import Home
from prerank.online.store import REDIS_ENV


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the shop's home and its registry. Read only."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch, shop.registry(folder):
        patch.delenv(REDIS_ENV, raising=False)
        home = shop.build(folder / "home")
        one = shop.add_version(home, 1)
        shop.promote(one)
        shop.fit_baselines(home, one)
        shop.add_version(home, 2, user=2.0, units=0)
        three = shop.add_version(home, 3)
        shutil.rmtree(home.index / three.name)
        shop.add_version(home, 4)
    return folder


@pytest.fixture(scope="module")
def home(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The shop's home of this module, while its registry can be asked."""
    folder = tmp_path_factory.mktemp("open") / "shop"
    shutil.copytree(built, folder)
    with pytest.MonkeyPatch.context() as patch, shop.registry(folder):
        patch.delenv(REDIS_ENV, raising=False)
        yield Home.at(folder / "home")


@pytest.fixture
def own_home(home: Home, tmp_path: Path) -> Home:
    """A copy that a test may damage."""
    shutil.copytree(home.root, tmp_path / "own")
    return Home.at(tmp_path / "own")


@pytest.fixture(scope="module")
def open_shop(home: Home) -> Iterator[Shop]:
    with opened(home, writes=True) as found:
        yield found
