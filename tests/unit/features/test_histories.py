"""A user's histories are the same however many of their events are looked at together."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.growing_log import Log, same

from interactrank.features.schema import HISTORY_LENGTH
from prerank.features import shard
from prerank.features.histories import user_histories

EVENT = st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 9), st.integers(0, 3))
"""User, when it became known, how much earlier it happened, and item."""


def _events(rows: list[tuple[int, int, int, int]]) -> pa.Table:
    users, known, late, items = np.array(rows, np.int64).reshape(-1, 4).T
    return pa.table(
        {
            "user_id": pa.array([f"u{user}" for user in users]),
            "item_id": items,
            "action": pa.array(np.zeros(len(rows), np.int8)),
            "time": known - late,
            "known": known,
            "event_id": np.arange(len(rows)),
            "query": items,
        }
    )


@given(st.lists(EVENT, max_size=40), st.integers(1, 5))
def test_users_that_go_on_in_the_next_table(
    rows: list[tuple[int, int, int, int]], chunk: int
) -> None:
    whole = [*user_histories(_events(rows))]
    parts = [*user_histories(_events(rows), chunk)]
    assert bool(parts) == bool(whole)
    if parts:
        assert pa.concat_tables(parts).combine_chunks() == pa.concat_tables(whole).combine_chunks()


def test_a_table_is_bounded_however_active_a_user_is() -> None:
    rows = [(0, at, 0, 1) for at in range(10 * HISTORY_LENGTH)]
    tables = [*user_histories(_events(rows), HISTORY_LENGTH)]
    assert max(map(len, tables)) <= 2 * HISTORY_LENGTH
    assert sum(map(len, tables)) == len(rows)
    assert len(tables[-1]["item_ids"][-1]) == HISTORY_LENGTH


def test_builds_go_on_from_users_of_several_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / "log", 4, 1)
    with monkeypatch.context() as few:
        few.setattr(shard, "user_histories", partial(user_histories, chunk=2))
        for _ in range(3):
            log.grow(4, 9.0, 1.0)
    same(log.home, log.anew(tmp_path / "whole"))
