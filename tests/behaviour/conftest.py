"""Frames to be ingested, and what came of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from tests import online_log
from tests.experiments import Replica
from tests.following import ONE, TWO, servable
from tests.online_log import UNTIL, beside

from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.ingest.mapping import LogMapping
from prerank.ingest.report import IngestReport
from prerank.ingest.run import ingest
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV
from prerank.registry import versions as registry
from prerank.registry.bundle import Version

START = pd.Timestamp("2024-03-01T23:59:00Z")


class Case:
    """Writes frames, ingests them into one home and reads what came of it."""

    items = pd.DataFrame({"item_id": range(7), "title": [f"Item {i}" for i in range(7)]})

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, Home.at(root / "home")

    def ingest(
        self,
        events: pd.DataFrame | list[pd.DataFrame],
        catalogue: pd.DataFrame | None = None,
        /,
        replace: bool = False,
        **mapping: Any,
    ) -> IngestReport:
        folder = self.root / "log"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for at, part in enumerate(events if isinstance(events, list) else [events]):
            part.to_parquet(folder / f"{at}.parquet")
        (self.items if catalogue is None else catalogue).to_parquet(self.root / "items.parquet")
        chosen = LogMapping.model_validate(mapping)
        return ingest(folder, self.root / "items.parquet", self.home, chosen, replace)

    def events(self) -> pd.DataFrame:
        return pads.dataset(str(self.home.events)).to_table().to_pandas()

    def catalogue(self) -> pd.DataFrame:
        return pq.read_table(self.home.items).to_pandas()

    def quarantine(self) -> pd.DataFrame:
        return pads.dataset(str(self.home.quarantine)).to_table().to_pandas()

    @staticmethod
    def log(rows: int = 40) -> pd.DataFrame:
        """A clean canonical log: two rows a request, one minute apart, over two days."""
        at = pd.Series(range(rows))
        asked = START + pd.to_timedelta(at // 2, unit="min")
        return pd.DataFrame(
            {
                "request_id": "r" + (at // 2).astype(str),
                "request_time": asked,
                "event_time": asked + pd.to_timedelta(at % 2 * 5, unit="s"),
                "user_id": "u" + (at // 2 % 3).astype(str),
                "query": "  Red   SHOES " + (at // 2 % 4).astype(str),
                "item_id": at % 7,
                "action": ["impression" if i % 2 == 0 else "click" for i in at],
                "position": at % 2 + 1,
            }
        )


@pytest.fixture
def case(ray_local: None, tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the features of tests/online_log.py, and nothing online yet. Read only."""
    home = Home.at(tmp_path_factory.mktemp("online") / "home")
    online_log.build(home)
    return home


@pytest.fixture(scope="session")
def requests() -> pd.DataFrame:
    """Searches of that log. Read only."""
    return online_log.searches()


@pytest.fixture(scope="session")
def online_features(tmp_path_factory: pytest.TempPathFactory, built: Home) -> Home:
    """A home with features online and no model. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(REDIS_ENV, raising=False)
        home = beside(built, tmp_path_factory.mktemp("following"))
        materialise(home, UNTIL, progress=False)
    return home


@pytest.fixture
def model_home(online_features: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of it, for model versions."""
    monkeypatch.delenv(REDIS_ENV, raising=False)
    shutil.copytree(online_features.root, tmp_path / "home", symlinks=True)
    return Home.at(tmp_path / "home")


@pytest.fixture
def promote(monkeypatch: pytest.MonkeyPatch) -> Callable[[Version], None]:
    """Moves the alias of a registry."""
    aliases: dict[str, Version] = {}
    monkeypatch.setattr(registry, "alias_version", aliases.get)
    return lambda version: aliases.update({registry.CHAMPION: version})


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Version]:
    """Versions that the registry has, by number; the first is the champion."""
    found = {"1": ONE, "2": TWO}

    def version_of(number: str) -> Version:
        if number not in found:
            raise NotReadyError(f"prerank has no version {number}")
        return found[number]

    monkeypatch.setattr(registry, "alias_version", {registry.CHAMPION: ONE}.get)
    monkeypatch.setattr(registry, "version_of", version_of)
    return found


@pytest.fixture
def replica(model_home: Home, numbers: dict[str, Version]) -> Iterator[Replica]:
    servable(model_home, ONE, 1)
    servable(model_home, TWO, 2)
    found = Replica(model_home)
    yield found
    found.close()
