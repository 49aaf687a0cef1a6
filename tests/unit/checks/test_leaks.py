"""Leaks of the future and of labels are found where they are, and nowhere else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import forgetting

from prerank.checks import leaks
from prerank.checks.leaks import Leaks, find_leaks, shuffled, stamps
from prerank.checks.run import check
from prerank.core.errors import DataError
from prerank.core.feature_sets import tables_of_log
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.features.offline import offline_inputs

CADENCE_US = 6 * 3_600_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A log of fifteen days whose features were built as they should. Read only."""
    home = Home.at(tmp_path_factory.mktemp("leaks") / "home")
    return forgetting.built(home, forgetting.log(15), training_set=True)


def found(home: Home) -> Leaks:
    return find_leaks(home, LogManifest.load(home))


@pytest.fixture(scope="module")
def sound(home: Home) -> Leaks:
    return found(home)


def looks_ahead(home: Home, requests: pa.Table) -> object:
    """The join as of one and a half cadences after each request."""
    later = requests["request_time"].cast(pa.int64()).to_numpy() + CADENCE_US * 3 // 2
    stamps = pa.array(later, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    at = requests.schema.get_field_index("request_time")
    return offline_inputs(home, requests.set_column(at, "request_time", stamps))


def test_a_sound_log_has_no_leak(sound: Leaks) -> None:
    assert sound.compared > 100
    assert (sound.changed, sound.early_rows, sound.early_histories, sound.late_examples) == (
        0,
        0,
        0,
        0,
    )
    assert sound.auc is not None
    assert sound.error is not None
    assert abs(sound.auc - 0.5) < 4 * sound.error


@pytest.fixture(scope="module")
def leaking(home: Home) -> Leaks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaks, "offline_inputs", looks_ahead)
        return found(home)


def test_a_join_that_looks_ahead_is_found_both_ways(leaking: Leaks) -> None:
    assert leaking.changed > 0
    assert leaking.auc is not None
    assert leaking.error is not None
    assert leaking.auc - 0.5 > 4 * leaking.error
    assert leaking.auc > 0.52


def test_shuffling_keeps_how_much_was_done_and_moves_to_what(home: Home) -> None:
    files = sorted(home.events.glob("*/*.parquet"))
    events = pa.concat_tables(pq.read_table(file, partitioning=None) for file in files)
    before, after = events.to_pandas(), shuffled(events).to_pandas()
    same = ["request_id", "action", "event_id", "event_time"]
    pd.testing.assert_frame_equal(before[same], after[same])
    exposed = before["action"] == "impression"
    assert (before.loc[exposed, "item_id"] == after.loc[exposed, "item_id"]).all()
    moved = (before["item_id"] != after["item_id"])[~exposed]
    assert 0.4 < moved.mean() < 0.9
    shown = set(zip(before.loc[exposed, "request_id"], before.loc[exposed, "item_id"], strict=True))
    assert set(zip(after["request_id"], after["item_id"], strict=True)) == shown


def rewritten(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pandas(change(table.to_pandas()), table.schema), file)


def test_stamps_that_are_too_early_are_counted(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.root, tmp_path / "home")
    copy = Home.at(tmp_path / "home")
    assert stamps(copy) == (0, 0, 0)
    tables, hour = tables_of_log(copy), pd.Timedelta(hours=1)

    def rows_early(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[:1, "event_timestamp"] = frame.loc[:1, "cutoff"] - hour
        return frame

    def history_early(frame: pd.DataFrame) -> pd.DataFrame:
        stamps = frame["event_timestamp"]
        return frame.assign(event_timestamp=stamps.where(frame.index > 0, stamps - hour))

    rewritten(next((tables / "engagement").glob("*.parquet")), rows_early)
    rewritten(next((tables / "user_history").glob("*.parquet")), history_early)
    assert stamps(copy) == (2, 1, 0)

    example = next((copy.training_set / "train").glob("*.parquet"))
    table = pq.read_table(example)
    at = table.schema.get_field_index("time")
    early = pa.array([0] * len(table), table["time"].type)
    pq.write_table(table.set_column(at, "time", early), example)
    assert stamps(copy)[2] > 0


def test_a_log_without_impressions_has_no_shuffled_labels(tmp_path: Path) -> None:
    log = forgetting.log(4)
    home = forgetting.built(Home.at(tmp_path / "home"), log[log["action"] == "click"])
    leak = found(home)
    assert (leak.auc, leak.error, leak.changed) == (None, None, 0)
    assert leak.compared > 0


def test_check_fails_where_there_is_a_leak_and_not_where_there_is_none(
    home: Home, sound: Leaks, leaking: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = home.read_json(home.training_set / "manifest.json", "")
    begin = pd.Timestamp(manifest["splits"]["test_from"], unit="us", tz="UTC").to_pydatetime()
    monkeypatch.setattr("prerank.checks.run.find_leaks", lambda home, manifest: leaking)
    bad = check(home, begin)
    assert "know the future" in bad.problems()[0]
    assert "hold their request's label" in bad.problems()[1]
    with pytest.raises(DataError, match="know the future"):
        bad.check()
    good = replace(bad, leaks=sound)
    assert not [p for p in good.problems() if "label" in p or "future" in p]
