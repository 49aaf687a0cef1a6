"""Seven days of retraining: one corrupt, one that drifts, one whose command is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import ROOT, BuildHome
from tests.daily import CONFIG, Daily

from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.registry import versions as registry
from prerank.registry.gates import PASSED, read_gate
from prerank.retraining.rounds import PROMOTED

CORRUPT, DRIFTS, KILLED = 2, 4, 5
WAIT_S = 240.0


def state_of(home: Home) -> dict[str, object]:
    found: dict[str, object] = json.loads((home.root / "retraining" / "current.json").read_text())
    return found


def command(daily: Daily, day: pd.DataFrame) -> subprocess.Popen[str]:
    """`prerank retrain` of a day, in a process group of its own."""
    events, config = daily.root / "killed.parquet", daily.root / "job.yaml"
    if not events.exists():
        day.to_parquet(events)
        config.write_text(CONFIG.to_yaml())
    words = ["retrain", "--events", str(events), "--config", str(config), "--auto-promote"]
    return subprocess.Popen(
        [sys.executable, "-m", "prerank", *words, "--workdir", str(daily.home.root)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def killed_in_training(daily: Daily, day: pd.DataFrame) -> None:
    """A day whose command is killed once its run has begun, and is then given again."""
    before = daily.champion()
    process, until = command(daily, day), time.monotonic() + WAIT_S
    try:
        number = state_of(daily.home)["number"]
        while True:
            state = state_of(daily.home)
            if state["number"] != number and "job" in state["done"]:  # type: ignore[operator]
                break
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert daily.champion() == before
    fingerprint, versions = daily.fingerprint(), daily.versions()
    told = command(daily, day).communicate(timeout=WAIT_S)[0]
    assert "goes on, after: update, check, training set, job" in told
    assert daily.fingerprint() == fingerprint
    assert daily.versions() == versions + 1
    assert state_of(daily.home)["outcome"] == PROMOTED, told


@pytest.mark.loop
@pytest.mark.timeout(1_800)
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")
def test_seven_days(
    build_home: BuildHome,
    tmp_path: Path,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    daily = Daily.of(build_home, tmp_path, tiny_log, tiny_items, 7)
    promoted, kept = 0, []
    for number, day in enumerate(daily.days):
        champion, fingerprint = daily.champion(), daily.fingerprint()
        if number == CORRUPT:
            with pytest.raises(DataError, match="what is served stays"):
                daily.retrain(daily.day(day.assign(item_id=None), "corrupt"), auto_promote=True)
            assert (daily.champion(), daily.fingerprint()) == (champion, fingerprint)
            kept = [day]
            continue
        if number == DRIFTS:
            # From one day to the next everybody asks for what nobody asked for before.
            day = day.assign(query="never " + day["request_id"].astype(str))
        if number == KILLED:
            killed_in_training(daily, day)
        else:
            # What was corrupt comes again, corrected, with the next day.
            made = daily.retrain(
                daily.day(pd.concat([*kept, day]), f"day {number}"),
                warm=number > CORRUPT,
                auto_promote=True,
            )
            assert made.outcome == PROMOTED
            found = daily.changes(made)["check"]
            if number == DRIFTS:
                assert any("drifted" in problem for problem in found["problems"]), found
            kept = []
        promoted += 1
        assert daily.champion() == str(promoted)
        assert daily.versions() == promoted
    last = registry.alias_version(registry.CHAMPION)
    assert last is not None
    assert read_gate(last).result == PASSED
    assert LogManifest.load(daily.home).requests == tiny_log["request_id"].nunique()
