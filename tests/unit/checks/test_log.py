"""Missing days, wrong clocks and users who cannot be people."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.online_log import MANIFEST

from prerank.checks.log import busy_users, clock, missing_days
from prerank.core.home import Home
from prerank.ingest.rows import BACKWARDS

NOW = datetime(2025, 3, 2, tzinfo=UTC)
START = pd.Timestamp("2025-03-01", tz="UTC")
FROM, TO = int(START.value // 1000), int(START.value // 1000) + 2 * 86_400_000_000


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


def write(home: Home, *parts: tuple[str, list[float], float, str]) -> None:
    """Events of (user, request seconds from START, delay in seconds, action)."""
    frames = []
    for user, seconds, delay, action in parts:
        asked = START + pd.to_timedelta(np.array(seconds), unit="s")
        frames.append(
            pd.DataFrame(
                {
                    "user_id": user,
                    "request_time": asked,
                    "event_time": asked + pd.Timedelta(seconds=delay),
                    "action": action,
                }
            )
        )
    folder = home.events / "day=2025-03-01"
    folder.mkdir(parents=True)
    pd.concat(frames).to_parquet(folder / "0.parquet")


def test_days_without_and_with_few_requests_are_named() -> None:
    per_day = {"2025-01-01": 5, "2025-01-02": 900, "2025-01-03": 20, "2025-01-05": 1_000}
    per_day |= {"2025-01-06": 1_100, "2025-01-07": 3}
    assert missing_days(per_day) == (["2025-01-04"], ["2025-01-03"])
    assert missing_days({}) == ([], [])


def test_events_of_the_future_and_delays_are_counted(home: Home) -> None:
    write(
        home,
        ("a", [0.0] * 8, 10, "click"),
        ("a", [3600.0], 40 * 3600, "save"),
        ("a", [7200.0], 5, "impression"),
    )
    found = clock(home, MANIFEST, FROM, TO, NOW)
    assert found.events == 9
    assert found.future == 1
    assert found.delay_median_s == 10
    assert found.after_label_window == pytest.approx(1 / 9)


def test_events_before_their_requests_are_counted_among_the_refused(home: Home) -> None:
    write(home, ("a", [0.0], 10, "click"))
    home.quarantine.mkdir()
    bad = pd.DataFrame(
        {"reason": [BACKWARDS, "query is empty", BACKWARDS], "row": "", "source": ""}
    )
    bad.to_parquet(home.quarantine / "part-00000.parquet")
    found = clock(home, replace(MANIFEST, rows={"in": 4}), FROM, TO, NOW)
    assert (found.backwards, found.read) == (2, 4)


def test_users_with_impossible_rates_are_named(home: Home) -> None:
    fast = np.linspace(0, 50, 100).tolist()
    steady = np.linspace(0, 86_000, 3_000).tolist()
    write(
        home,
        ("fast", fast, 0, "click"),
        ("steady", steady, 0, "click"),
        ("person", [0.0, 900.0, 4_000.0], 0, "click"),
        ("reader", fast, 0, "impression"),
    )
    found = busy_users(home, MANIFEST, FROM, TO, per_minute=60, per_day=2_000)
    assert [b.user_id for b in found] == ["steady", "fast"]
    assert found[1].per_minute == 100
    assert found[0].per_day == 3_000
    assert busy_users(home, MANIFEST, TO, TO + 1, per_minute=60, per_day=2_000) == []


def test_a_window_without_engagements_has_no_delays(home: Home) -> None:
    write(home, ("a", [0.0], 0, "impression"))
    found = clock(home, MANIFEST, FROM, TO, NOW)
    assert (found.events, found.future, found.delay_99_s) == (0, 0, 0)
