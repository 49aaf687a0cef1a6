"""A bucket that is too large to be sorted in memory gives the same files and counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prerank.core.ids import ItemIds
from prerank.core.times import DAY_US
from prerank.ingest.buckets import BucketCounts, BucketTask, publish_bucket
from prerank.ingest.rows import RowPlan

PLAN = RowPlan({}, None, None, None, ("country",), ItemIds("integer"))
PUBLISHED = 2 * DAY_US


def bucket(folder: Path) -> None:
    """Rows of three days, of which some repeat an event: of the home, earlier ones, the same."""
    rng = np.random.default_rng(5)
    rows = 400
    asked = rng.integers(0, 3 * DAY_US, 40)[rng.integers(0, 40, rows)]
    columns = {
        "request_id": pa.array(rng.choice(["r", "R", "é", "r1", "r10", "r2"], rows)),
        "request_time": asked,
        "event_time": asked + rng.integers(0, 3, rows),
        "user_id": pa.array(["u"] * rows),
        "query": pa.array(["q"] * rows),
        "item_id": rng.integers(0, 9, rows),
        "action": pa.array(rng.choice(["click", "save"], rows)),
        "position": pa.array(rng.integers(0, 9, rows), pa.int32(), mask=rng.random(rows) < 0.2),
        "event_id": rng.integers(-150, 150, rows),
        "known_time": pa.array(np.full(rows, 7), mask=rng.random(rows) < 0.8),
        "country": pa.array(["de"] * rows),
        "content": np.arange(rows)[rng.permutation(rows)],
    }
    table = pa.table(columns).cast(PLAN.bucket_schema)
    folder.mkdir(parents=True)
    for number, part in enumerate((table.slice(0, 150), table.slice(150))):
        with pa.ipc.new_file(str(folder / f"new-{number}.arrow"), table.schema) as writer:
            writer.write_table(part)


def published(root: Path) -> tuple[BucketCounts, dict[str, pa.Table]]:
    task = BucketTask(0, root / "bucket")
    counts = publish_bucket(task, plan=PLAN, events=root / "events", published_us=PUBLISHED)
    files = sorted((root / "events").glob("*/*.parquet"))
    return counts, {f.parent.name: pq.read_table(f, partitioning=None) for f in files}


def test_a_bucket_that_spills_is_as_one_that_is_sorted_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket(tmp_path / "bucket")
    counts, days = published(tmp_path)
    assert counts.duplicates > 50
    assert len(days) == 3
    for limit in ("SORTED_ROWS", "SORTED_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(f"prerank.ingest.buckets.{limit}", 0)
            assert published(tmp_path) == (counts, days)


def test_of_a_repeated_event_the_homes_own_row_stays_else_the_earliest(tmp_path: Path) -> None:
    bucket(tmp_path / "bucket")
    before = pa.concat_tables(
        pa.ipc.open_file(str(f)).read_all() for f in sorted((tmp_path / "bucket").iterdir())
    ).to_pylist()
    _, days = published(tmp_path)
    kept = {row["event_id"]: row for day in days.values() for row in day.to_pylist()}
    assert kept.keys() == {row["event_id"] for row in before}
    for event, row in kept.items():
        among = [r for r in before if r["event_id"] == event]
        best = min(among, key=lambda r: (r["known_time"] is None, r["event_time"], r["content"]))
        assert row["request_id"] == best["request_id"]
        assert row["event_time"].timestamp() == pytest.approx(best["event_time"] / 1e6)
