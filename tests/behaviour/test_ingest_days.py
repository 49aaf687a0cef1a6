"""Days that are added to a log one by one: the same log, and only what changed is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.behaviour.conftest import Case

from prerank import cli
from prerank.core.feature_sets import online_state
from prerank.core.home import Home
from prerank.core.manifest import LogManifest

FIRST = pd.Timestamp("2024-03-01T00:00:00Z")


def day(number: int, rows: int = 30, seed: int = 0) -> pd.DataFrame:
    """A day's log: requests of three rows."""
    rng = np.random.default_rng((number, seed))
    at = np.repeat(np.sort(rng.integers(0, 86_000, -(-rows // 3))), 3)[:rows]
    asked = FIRST + pd.Timedelta(days=number) + pd.to_timedelta(at, unit="s")
    return pd.DataFrame(
        {
            "request_id": [f"d{number}-{seed}-{n // 3}" for n in range(rows)],
            "request_time": asked,
            "event_time": asked + pd.to_timedelta(rng.integers(0, 300, rows), unit="s"),
            "user_id": np.repeat([f"u{u}" for u in rng.integers(0, 5, -(-rows // 3))], 3)[:rows],
            "query": np.repeat([f"q {q}" for q in rng.integers(0, 4, -(-rows // 3))], 3)[:rows],
            "item_id": rng.integers(0, 7, rows),
            "action": rng.choice(["impression", "click", "save"], rows),
            "position": np.arange(rows) % 3 + 1,
        }
    )


def files(home: Home) -> dict[str, dict[str, int]]:
    """Inode of each file of events, by day."""
    return {
        folder.name: {file.name: file.stat().st_ino for file in folder.iterdir()}
        for folder in home.events.iterdir()
    }


def rows_of(case: Case) -> pd.DataFrame:
    events = case.events()
    events = events.drop(columns=[c for c in ("day",) if c in events])
    return events.sort_values("event_id").reset_index(drop=True)


@pytest.fixture
def case(tmp_path: Path, ray_local: None) -> Case:
    return Case(tmp_path)


@pytest.fixture
def whole(tmp_path: Path, ray_local: None) -> Case:
    root = tmp_path / "whole"
    root.mkdir()
    return Case(root)


@pytest.mark.slow
def test_days_one_by_one_are_the_log_of_one_ingest(case: Case, whole: Case) -> None:
    late = day(1, 9, seed=1)
    # Each time with some of what is there already.
    parts = [day(0), pd.concat([day(1), day(0).head(5)]), day(3), pd.concat([late, day(3)]), day(4)]
    for part in parts:
        case.ingest(part, name="log")
    report = whole.ingest(pd.concat(parts), name="log")
    one, other = LogManifest.load(case.home), LogManifest.load(whole.home)
    for name in ("fingerprint", "events", "requests", "requests_per_day", "users", "actions"):
        assert getattr(one, name) == getattr(other, name), name
    assert (one.first_time, one.last_time) == (other.first_time, other.last_time)
    assert rows_of(case).equals(rows_of(whole))
    assert report.manifest.rows["duplicates"] == 5 + len(day(3))


@pytest.mark.slow
def test_a_day_writes_the_days_that_its_rows_fall_on(case: Case) -> None:
    case.ingest(pd.concat([day(0), day(1), day(2)]), name="log")
    before = files(case.home)
    case.ingest(pd.concat([day(3), day(1, 3, seed=5)]), name="log")
    after = files(case.home)
    assert list(after) != list(before)
    for name in ("day=2024-03-01", "day=2024-03-03"):
        assert after[name] == before[name]
    assert set(after["day=2024-03-02"].values()).isdisjoint(before["day=2024-03-02"].values())


@pytest.mark.slow
def test_an_event_that_comes_again_on_another_day_counts_once(case: Case) -> None:
    first = day(0).assign(event_id=[f"e{n}" for n in range(30)])
    case.ingest(first, name="log")
    again = day(1).assign(event_id=["e7", *(f"f{n}" for n in range(29))])
    rows = case.ingest(again, name="log").manifest.rows
    assert (rows["in"], rows["out"], rows["duplicates"]) == (30, 29, 1)
    events = case.events()
    assert events["event_id"].is_unique
    kept = events[events["request_id"].str.startswith("d0-")]
    assert len(kept) == 30, "what the home already has stays"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["lost", "of another log"])
def test_where_nothing_is_known_of_the_days_all_are_read(case: Case, damage: str) -> None:
    case.ingest(pd.concat([day(0), day(1)]), name="log")
    before = files(case.home)
    (case.home.log / "days.json").unlink()
    if damage == "of another log":
        case.ingest(day(5), name="other", replace=True)
        assert list(files(case.home)) == ["day=2024-03-06"]
        return
    case.ingest(day(2), name="log")
    assert set(files(case.home)["day=2024-03-01"].values()).isdisjoint(
        before["day=2024-03-01"].values()
    )
    assert LogManifest.load(case.home).events == len(rows_of(case))


@pytest.mark.slow
def test_a_days_work_is_one_command(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    renamed = {"item_id": "pin", "action": "what"}
    mapping: dict[str, Any] = {
        "events": renamed,
        "actions": {"impression": "impression", "click": "save"},
    }
    first = day(0)[day(0)["action"] != "save"].rename(columns=renamed)
    case.ingest(first, name="log", **mapping)
    next_day = day(1)[day(1)["action"] != "save"].rename(columns=renamed)
    next_day.to_csv(case.root / "2024-03-02.csv", index=False)
    home = case.home
    command = ["update", "--events", str(case.root / "2024-03-02.csv"), "--workdir", str(home.root)]
    for new in (len(next_day), 0):
        cli.main(command)
        assert f"{new} new event" in capsys.readouterr().out.replace(",", "")
    manifest = LogManifest.load(home)
    assert manifest.events == len(first) + len(next_day)
    assert set(manifest.actions) == {"impression", "save"}
    state = online_state(home, manifest.schema.hash())
    assert state["cutoff_us"] > int(next_day["request_time"].max().value // 1000)


@pytest.mark.parametrize("options", [[], ["--events", "x.csv", "--served"]])
def test_a_days_work_has_one_source(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["update", *options, "--workdir", str(tmp_path)])
    assert stopped.value.code == 2
    assert "either --events, or --served" in capsys.readouterr().err
