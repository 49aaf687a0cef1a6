"""A log of any size, day by day, whose world moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.simulated import MOVING, mean_reciprocal_rank, read_events

from prerank.simulate import InvalidSizeError, Motion, Preset, load_oracles, simulate
from prerank.simulate.motion import Movement, draw_movement
from prerank.simulate.presets import DAY, LOG_START
from prerank.simulate.writers import Folder

TOPICS, ITEMS, DAYS = 6, 200, 60


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    simulate(folder, MOVING, progress=False)
    return folder


@pytest.fixture(scope="module")
def movement() -> Movement:
    return draw_movement(Motion(), DAYS, TOPICS, ITEMS, np.random.default_rng(0))


@pytest.mark.parametrize("preset", ["tiny", MOVING], ids=["tiny", "moving"])
def test_a_log_has_the_rows_that_were_asked_for(preset: str | Preset, tmp_path: Path) -> None:
    made = simulate(tmp_path, preset, rows=10_000, days=3, progress=False)
    assert made.rows == pytest.approx(10_000, rel=0.02)
    assert len(read_events(tmp_path)) == made.rows


def test_each_day_is_a_file_of_its_own_requests(moving: Path) -> None:
    days = [f"2025-01-{day:02d}" for day in range(1, MOVING.days + 1)]
    files = sorted((moving / "events").iterdir())
    assert [path.stem for path in files] == days
    for path in files:
        times = pq.read_table(path)["request_time"].to_pandas()
        assert set(times.dt.strftime("%Y-%m-%d")) == {path.stem}


def test_a_writer_holds_few_requests_however_many_a_day_has(tmp_path: Path) -> None:
    schema = pa.schema([("request_id", pa.string())])
    folder = Folder(tmp_path, schema, ".parquet", pq.ParquetWriter)
    for day in ("2025-01-01", "2025-01-02"):
        for _ in range(40):
            folder.add(pa.table({"request_id": ["r"] * 1_000}), 1_000, day)
    folder.close()
    file = pq.ParquetFile(tmp_path / "2025-01-01.parquet")
    rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sum(rows) == 40_000
    assert max(rows) < 10_000
    assert pq.read_metadata(tmp_path / "2025-01-02.parquet").num_rows == 40_000


def test_weekends_and_afternoons_are_busy(tmp_path: Path) -> None:
    simulate(tmp_path, replace(MOVING, spammers=0.0, days=7), progress=False)
    events = read_events(tmp_path)
    times = events.drop_duplicates("request_id")["request_time"]
    by_weekday = times.dt.weekday.value_counts()
    assert by_weekday[5] > 1.1 * by_weekday[1]
    by_hour = times.dt.hour.value_counts()
    assert by_hour[14] > 2 * by_hour[2]


def test_old_items_fade_from_the_pages(tmp_path: Path) -> None:
    still = replace(MOVING, spammers=0.0, days=2, requests=200)
    lasting = replace(still, motion=Motion(fade_half_life=1e6))
    fading = replace(still, motion=Motion(fade_half_life=10.0))
    ages = []
    for name, preset in (("lasting", lasting), ("fading", fading)):
        simulate(tmp_path / name, preset, progress=False)
        items = pq.read_table(tmp_path / name / "items.parquet").to_pandas()
        shown = read_events(tmp_path / name).merge(items, on="item_id")
        ages.append((shown["request_time"] - shown["created_at"]).median())
    assert ages[1] < 0.5 * ages[0]


def test_what_is_asked_for_changes_by_days(movement: Movement) -> None:
    theta = np.full((2, TOPICS), 1 / TOPICS)
    wanted = movement.wanted(theta, np.array([LOG_START, LOG_START + 30 * DAY]))
    assert wanted.sum(axis=1) == pytest.approx(1)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05


def test_appeal_turns_over_without_growing(movement: Movement) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 5_000, 1))
    period = Motion().appeal_days * DAY

    def at(share: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return movement.turned(first, second, np.full(5_000, LOG_START + share * period))[:, 0]

    assert at(0.1).std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(at(0.0), at(0.05))[0, 1] == pytest.approx(np.cos(0.1 * np.pi), abs=0.05)
    assert abs(np.corrcoef(at(0.0), at(0.25))[0, 1]) < 0.05


def test_items_go_in_and_out_of_fashion(movement: Movement) -> None:
    days = np.arange(0, 60, 1.0)
    wave = movement.wave(np.zeros((60, 1), dtype=np.int64), LOG_START + days * DAY)[:, 0]
    assert wave.max() > 0.5 * Motion().wave
    assert np.abs(np.diff(wave)).max() < 0.4 * Motion().wave


def test_oracles_stand_in_their_order_in_a_world_that_moves(moving: Path) -> None:
    events, oracles = read_events(moving), load_oracles(moving)
    spammers = pq.read_table(moving / "truth" / "spammers.parquet").to_pandas()
    genuine = events[~events["user_id"].isin(spammers["user_id"])]
    truth = mean_reciprocal_rank(genuine, oracles["oracle_relevance"])
    log_only = mean_reciprocal_rank(genuine, oracles["oracle_log"])
    assert truth > log_only + 0.02
    assert log_only > mean_reciprocal_rank(genuine, None) + 0.1


def test_a_moving_log_is_the_same_for_the_same_seed(moving: Path, tmp_path: Path) -> None:
    simulate(tmp_path, MOVING, progress=False)
    pd.testing.assert_frame_equal(read_events(tmp_path), read_events(moving))


def test_sizes_that_no_log_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSizeError, match="rows=0"):
        simulate(tmp_path, rows=0)
    with pytest.raises(InvalidSizeError, match="days=-1"):
        simulate(tmp_path, days=-1)
    with pytest.raises(InvalidSizeError, match="give one of them"):
        simulate(tmp_path, requests=5, rows=100)
    with pytest.raises(InvalidSizeError, match=r"spammers=0\.9"):
        simulate(tmp_path, spammers=0.9)
    with pytest.raises(InvalidSizeError, match=r"full_ranker=-1"):
        simulate(tmp_path, full_ranker=-1.0)
