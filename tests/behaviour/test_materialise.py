"""Filling an online store: again, further on, another one, and what is said before."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis
from tests.online_log import (
    DAY,
    MANIFEST,
    START,
    UNTIL,
    as_table,
    beside,
    crosses,
    empty_tables,
)

from prerank.core.errors import DamagedError, NotReadyError, StateError
from prerank.core.feature_sets import tables_of_log
from prerank.core.home import Home
from prerank.features.offline import offline_inputs
from prerank.online.history import Event
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.store import REDIS_ENV, apply, open_store
from prerank.online.writer import HistoryWriter


@pytest.fixture
def another_store(
    request: pytest.FixtureRequest, online_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty store of the same kind: SQLite's is the home's, a Redis server is everybody's."""
    if online_store == "redis":
        monkeypatch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())


def test_materialising_on_brings_what_offline_sees_later(
    tmp_path: Path, built: Home, requests: pd.DataFrame, another_store: None
) -> None:
    later = beside(built, tmp_path)
    steps = (START + 10 * DAY, START + 10 * DAY + 1, START + 33 * DAY)
    for until in steps:
        state = materialise(later, until, progress=False)
        assert state["until_us"] == until
    online = OnlineFeatures(later, MANIFEST.schema)
    for query, user, context in requests.head(20).itertuples(index=False):
        there = offline_inputs(later, as_table(query, user, context, steps[-1]))
        here = online.read(query, user, steps[-1], context)
        np.testing.assert_allclose(crosses(here.inputs), crosses(there), atol=1e-6)
    with pytest.raises(StateError, match="cannot forget"):
        materialise(later, steps[0], progress=False)


def test_another_online_store_is_filled_from_the_start(
    request: pytest.FixtureRequest, tmp_path: Path, built: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_redis = request.getfixturevalue("new_redis")
    home = beside(built, tmp_path)
    monkeypatch.delenv(REDIS_ENV, raising=False)
    materialise(home, UNTIL, progress=False)
    monkeypatch.setenv(REDIS_ENV, new_redis())
    materialise(home, UNTIL - 5 * DAY, progress=False)
    read = OnlineFeatures(home, MANIFEST.schema).read("red shoe", "u1", UNTIL)
    assert (read.inputs.key_block >= 0).any()
    assert len(read.inputs.hist_items)


def test_nothing_applied_is_said_with_the_remedy(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    with pytest.raises(NotReadyError, match="prerank materialise"):
        OnlineFeatures(home, MANIFEST.schema)
    with pytest.raises(StateError, match="prerank ingest"):
        materialise(home)
    MANIFEST.save(home)
    with pytest.raises(StateError, match="prerank features"):
        materialise(home)
    empty_tables(home, MANIFEST.schema)
    apply(home)
    other = replace(MANIFEST.schema, segments=())
    with pytest.raises(NotReadyError, match=f"{other.engagement_view}.*prerank materialise"):
        OnlineFeatures(home, other)
    assert not home.materialised_of(MANIFEST.schema.hash()).exists()


def test_two_homes_on_one_redis_share_no_key(
    request: pytest.FixtureRequest, tmp_path: Path, built: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())
    one, other = (beside(built, tmp_path / name) for name in ("one", "other"))
    address, database = os.environ[REDIS_ENV].split(",db=")
    with Redis.from_url(f"redis://{address}/{database}") as client:

        def keys() -> set[bytes]:
            return set(client.scan_iter(count=1_000))

        materialise(one, START + 10 * DAY, progress=False)
        before = keys()
        materialise(other, START + 10 * DAY, progress=False)
        after = keys() - before
        values = {key: client.hgetall(key) for key in before}
        assert len(after) == len(before) > 100
        assert all(key.endswith(f"prerank_{one.id}".encode()) for key in before)
        assert all(key.endswith(f"prerank_{other.id}".encode()) for key in after)
        with HistoryWriter(other, open_store(other), MANIFEST.schema) as writer:
            assert writer.write([Event("u1", 1, "click", START + 11 * DAY, 1)]).online
        assert {key: client.hgetall(key) for key in before} == values
    lengths = [
        len(OnlineFeatures(home, MANIFEST.schema).read("red", "u1", UNTIL).inputs.hist_items)
        for home in (one, other)
    ]
    assert lengths == [lengths[1] - 1, lengths[0] + 1]


def test_a_damaged_row_of_the_tables_is_named_with_the_remedy(
    built: Home, requests: pd.DataFrame, tmp_path: Path
) -> None:
    own = Home.at(tmp_path / "home")
    shutil.copytree(built.root, own.root, symlinks=True)
    for path in (tables_of_log(own) / "engagement").rglob("*.parquet"):
        table = pq.read_table(path)
        at = table.schema.get_field_index("row")
        cut = pa.array([row[:-8] for row in table["row"].to_pylist()], table.schema.field(at).type)
        pq.write_table(table.set_column(at, table.schema.field(at), cut), path)
    query, user, context = next(requests.itertuples(index=False))
    with pytest.raises(DamagedError, match=r"row of level .* is damaged .*rebuild the features"):
        offline_inputs(own, as_table(query, user, context, UNTIL))
