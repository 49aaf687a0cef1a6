"""Filling an online store: again, further on, another one, and what is said before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.online_log import (
    DAY,
    START,
    UNTIL,
    as_table,
    beside,
    crosses,
)

from prerank.core.errors import NotReadyError, StateError
from prerank.core.home import Home
from prerank.features.offline import offline_inputs
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.store import REDIS_ENV


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
    online = OnlineFeatures(later)
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
    read = OnlineFeatures(home).read("red shoe", "u1", UNTIL)
    assert (read.inputs.key_block >= 0).any()
    assert len(read.inputs.hist_items)


def test_nothing_applied_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="prerank materialise"):
        OnlineFeatures(Home.at(tmp_path))
    with pytest.raises(StateError, match="prerank features"):
        materialise(Home.at(tmp_path))
    assert not Home.at(tmp_path).materialised.exists()
