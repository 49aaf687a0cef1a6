"""Each step of a day may be killed at any moment: the next run ends with what one that was not has.

Building features has such a test of its own (``tests/unit/features/test_build.py``), and so have
forgetting at changes of files (``tests/unit/forget/test_forget.py``) and publishing
(``tests/unit/ingest/test_publish.py``).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import forgetting
from tests.kills import changes_of, killed, killed_after
from tests.without_ray import stages_here

from prerank import update as daily
from prerank.config import JobConfig
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.build import build_training_set
from prerank.dataset.examples import read_split
from prerank.features.config import FeatureConfig
from prerank.forget import forget
from prerank.online.history import read_histories
from prerank.online.materialise import materialise
from prerank.online.sentinel import read_rows, read_sentinel
from prerank.online.store import REDIS_ENV, open_store

NEW_DAY = forgetting.DAYS
OWN_KEYS = [f"q:{forgetting.SECRET}"]
"""Keys that one user alone has."""
CONFIG = JobConfig(features=FeatureConfig(cadence_hours=6, lag_minutes=10))
Work = Callable[[Home], object]


@pytest.fixture(autouse=True)
def _in_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(REDIS_ENV, raising=False)
    monkeypatch.setattr(daily, "connect", lambda: None)
    with stages_here():
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Five days of a log, with features. Read only."""
    home = Home.at(tmp_path_factory.mktemp("world") / "home")
    return forgetting.built(home, forgetting.log())


def copied(home: Home, root: Path) -> Home:
    shutil.copytree(home.root, root)
    return Home.at(root)


def add_day(home: Home) -> object:
    return forgetting.ingested(home, forgetting.log(1, NEW_DAY))


def log_of(home: Home) -> tuple[pa.Table, dict[str, Any]]:
    rows = pq.read_table(home.events, partitioning=None).sort_by("event_id")
    manifest = vars(LogManifest.load(home))
    # What an ingest that is done again adds is nothing: everything is there already.
    return rows, {k: v for k, v in manifest.items() if k not in ("rows", "late")}


def training_set_of(home: Home) -> list[str]:
    """As text, in which a value that is missing (NaN) equals itself."""
    tables = [t for split in ("train", "validation") for t in read_split(home, split)]
    return [str(t.sort_by("request_id").to_pydict()) for t in tables]


def train_set(home: Home) -> object:
    return build_training_set(home)


def bring_online(home: Home) -> object:
    return materialise(home, progress=False)


def update(home: Home) -> object:
    return daily.update(home, CONFIG, lambda: forgetting.ingested(home, day_and_late()))


def day_and_late() -> pd.DataFrame:
    """A new day, and some of the days before again."""
    return pd.concat([forgetting.log(1, NEW_DAY), forgetting.log().tail(30)])


def online_of(home: Home) -> tuple[Any, ...]:
    """All that is online: rows of every key, histories of every user, and that it is whole."""
    schema, store, tables = (
        LogManifest.load(home).schema,
        open_store(home),
        forgetting.tables(home),
    )
    keys = tables["engagement"]["engagement_key"].unique().to_pylist()
    users = tables["user_history"]["user_id"].unique().to_pylist()
    sentinel = read_sentinel(store, schema.engagement_view)
    assert sentinel is not None
    return (
        sentinel.filled,
        sentinel.until_us,
        read_rows(store, schema.engagement_view, keys),
        read_histories(store, schema.history_view, users),
    )


def day_of(home: Home) -> tuple[Any, ...]:
    return *log_of(home), forgetting.tables(home), online_of(home)


def forget_one(home: Home) -> object:
    return forget(home, {forgetting.GONE})


def without_one(home: Home) -> tuple[Any, ...]:
    """The day of everybody else, in which the user is nowhere."""
    assert forgetting.mentions(home, forgetting.GONE) == []
    own = read_rows(open_store(home), LogManifest.load(home).schema.engagement_view, OWN_KEYS)
    assert own == [b""]
    return day_of(home)


STEPS: dict[str, tuple[Work, Callable[[Home], object]]] = {
    "ingest": (add_day, log_of),
    "training set": (train_set, training_set_of),
}
ONLINE: dict[str, tuple[Work, Callable[[Home], object]]] = {
    "materialise": (bring_online, online_of),
    "update": (update, day_of),
    "forget": (forget_one, without_one),
}
FEW, MANY = range(1), range(1, 11)


def dies_at_changes(world: Home, root: Path, step: str, seed: int, kills: int) -> None:
    work, result = STEPS[step]
    rng, whole, home = (
        np.random.default_rng(seed),
        copied(world, root / "a"),
        copied(world, root / "b"),
    )
    changes = changes_of(lambda: work(whole))
    assert changes > kills
    died = [killed(lambda: work(home), at) for at in rng.integers(1, changes, kills).tolist()]
    assert any(died)
    work(home)
    assert result(home) == result(whole)


def dies_in_time(world: Home, root: Path, step: str, seed: int, kills: int) -> None:
    work, result = ONLINE[step]
    rng, whole, home = (
        np.random.default_rng(seed),
        copied(world, root / "a"),
        copied(world, root / "b"),
    )
    if step == "forget":
        for each in (whole, home):
            bring_online(each)
            forgetting.plant(each)
    began = time.monotonic()
    work(whole)
    took = time.monotonic() - began
    for share in rng.uniform(0.05, 0.95, kills).tolist():
        killed_after(lambda: work(home), share * took)
    work(home)
    assert result(home) == result(whole)


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_was_killed_is_done_again(
    world: Home, tmp_path: Path, step: str, seed: int
) -> None:
    dies_at_changes(world, tmp_path, step, seed, kills=2)


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("step", ["materialise", "update"])
def test_a_step_that_was_killed_leaves_no_half_online(
    world: Home, tmp_path: Path, step: str, seed: int
) -> None:
    dies_in_time(world, tmp_path, step, seed, kills=1)


@pytest.mark.faults
@pytest.mark.parametrize("seed", MANY)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_may_be_killed_anywhere(world: Home, tmp_path: Path, step: str, seed: int) -> None:
    dies_at_changes(world, tmp_path, step, seed, kills=4)


@pytest.mark.faults
@pytest.mark.parametrize("seed", MANY)
@pytest.mark.parametrize("step", ONLINE)
def test_a_step_may_be_killed_at_any_time(
    world: Home, tmp_path: Path, step: str, seed: int
) -> None:
    dies_in_time(world, tmp_path, step, seed, kills=3)
