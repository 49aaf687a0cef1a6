"""Splits are by time, and by request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from tests.online_log import MANIFEST, START

from prerank.core.home import Home
from prerank.core.times import HOUR_US
from prerank.dataset.splits import plan_splits


def hourly(home: Home) -> NDArray[np.int64]:
    """A log of a request an hour; the hours."""
    hours = np.arange(100)
    at = pd.to_datetime(START + hours * HOUR_US, unit="us", utc=True)
    folder = home.events / "day=2020-09-13"
    folder.mkdir(parents=True)
    log = {
        "request_id": [f"r{hour}" for hour in hours],
        "action": ["impression"] * len(hours),
        "request_time": at,
        "event_time": at,
    }
    pq.write_table(pa.table(log), folder / "part-0.parquet")
    return hours


@pytest.mark.parametrize("name", ["home", "it's a home", 'a "home"'])
def test_a_home_is_split_whatever_its_path_is_called(tmp_path: Path, name: str) -> None:
    home = Home.at(tmp_path / name)
    hours = hourly(home)
    splits = plan_splits(home, replace(MANIFEST, label_window_hours=1.0))
    of = [splits.split_of(START + int(hour) * HOUR_US) for hour in hours[:-1]]
    assert [of.count(split) for split in ("train", "validation", "test")] == [69, 10, 20]
    # The label window of the last request is not closed.
    assert splits.closed_before == START + 98 * HOUR_US + 1


@pytest.mark.parametrize(("window", "closed"), [(0.5, 98), (1.0, 98), (1.5, 97), (2.25, 96)])
def test_a_part_of_an_hour_counts(tmp_path: Path, window: float, closed: int) -> None:
    home = Home.at(tmp_path / "home")
    hourly(home)
    splits = plan_splits(home, replace(MANIFEST, label_window_hours=window))
    assert splits.closed_before == START + closed * HOUR_US + 1
