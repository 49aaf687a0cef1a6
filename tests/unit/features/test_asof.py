"""The as-of join finds the same rows however a table is divided, and reads what it needs."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prerank.core.shards import LazyParquet, Part, parts_of, shard_of
from prerank.features.asof import as_of
from prerank.features.parts import bounded

HOUR = 3_600_000_000
STAMP = pa.timestamp("us", tz="UTC")
COLUMNS = ("value",)


def write(folder: Path, rows: pd.DataFrame, shards: int, bounds: list[int]) -> None:
    """A part of each shard for the hours between each two of ``bounds``."""
    rows = rows.sort_values(["key", "time"])
    shard = np.array([shard_of(key, shards) for key in rows["key"]])
    for after, until in itertools.pairwise(bounds):
        within = (rows["time"] > after * HOUR) & (rows["time"] <= until * HOUR)
        for number in range(shards):
            own = rows[within & (shard == number)]
            table = pa.table(
                {
                    "key": pa.array(own["key"].tolist(), pa.string()),
                    "event_timestamp": pa.array(own["time"].to_numpy()).cast(STAMP),
                    "value": pa.array(own["value"].tolist(), pa.binary()),
                }
            )
            with ExitStack() as stack:
                part = Part(number, shards, after, until)
                LazyParquet(stack, folder / part.file, ["key"]).write(table)


def joined(folder: Path, keys: list[str], times: np.ndarray) -> list[bytes | None]:
    found = as_of(folder, "key", pa.array(keys), pa.array(times).cast(STAMP), COLUMNS)
    values = found.values["value"].to_pylist()
    assert len(values) == len(set(found.index[found.index >= 0].tolist())), "a row came twice"
    return [values[i] if i >= 0 else None for i in found.index]


@pytest.mark.parametrize("bounds", [[0, 900], [0, 300, 301, 600, 900], [*range(0, 901, 30)]])
def test_the_join_is_pandas_however_the_table_is_divided(
    tmp_path: Path, bounds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prerank.core.shards.GROUP_BYTES", 400)
    rng = np.random.default_rng(len(bounds))
    # Some keys have a row in every hour, some have one in all.
    count = np.repeat([900, 200, 5, 1], [2, 3, 20, 20])
    keys = np.repeat([f"k{n}" for n in range(len(count))], count)
    rows = pd.DataFrame(
        {"key": keys, "time": rng.integers(1, 900 * HOUR // 1000, len(keys)) * 1000}
    )
    rows = rows.drop_duplicates(["key", "time"]).reset_index(drop=True)
    rows["value"] = [f"{n}".encode() for n in rows.index]
    write(tmp_path, rows, 3, bounds)
    asked = pd.DataFrame(
        {
            "key": [f"k{n}" for n in rng.integers(0, 50, 3_000)],
            "time": np.where(
                rng.random(3_000) < 0.3,
                rng.choice(rows["time"], 3_000),
                rng.integers(-HOUR, 910 * HOUR, 3_000),
            ),
        }
    )
    expected = pd.merge_asof(
        asked.reset_index().sort_values("time", kind="stable"),
        rows.sort_values("time"),
        on="time",
        by="key",
    ).sort_values("index")["value"]
    wanted = [None if isinstance(v, float) else v for v in expected]
    assert 100 < wanted.count(None) < 2_000
    assert joined(tmp_path, asked["key"].tolist(), asked["time"].to_numpy()) == wanted
    for number in range(3):
        bounded(tmp_path, number, ["key"], limit=1)
        assert len(parts_of(tmp_path, number)) <= max(len(bounds) // 2, 1)
    assert joined(tmp_path, asked["key"].tolist(), asked["time"].to_numpy()) == wanted


class Counted(pq.ParquetFile):
    """Counts what is decoded of the files that are opened."""

    opened = rows = size = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        Counted.opened += 1

    def read_row_groups(self, groups: list[int], columns: Any = None, **options: Any) -> pa.Table:
        for number in groups:
            group = self.metadata.row_group(number)
            held = [group.column(i) for i in range(group.num_columns)]
            own = [c for c in held if columns is None or c.path_in_schema in columns]
            Counted.rows += group.num_rows
            Counted.size += sum(c.total_uncompressed_size for c in own)
        return super().read_row_groups(groups, columns, **options)

    def read_row_group(self, i: int, columns: Any = None, **options: Any) -> pa.Table:
        return self.read_row_groups([i], columns, **options)


@pytest.mark.parametrize("divided", [False, True], ids=["one part", "a part a week"])
def test_a_longer_log_costs_requests_of_its_end_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divided: bool
) -> None:
    """Rows and bytes that are decoded: of keys with a row in every hour, and of rare ones."""
    monkeypatch.setattr("prerank.features.asof.pq.ParquetFile", Counted)
    monkeypatch.setattr("prerank.core.shards.GROUP_BYTES", 20_000)
    read = []
    for weeks in (4, 16):
        hours, rng = weeks * 168, np.random.default_rng(1)
        every = [(f"hot{n}", hour) for n in range(8) for hour in range(1, hours)]
        # As many rare keys and rows of them in either log; the last days' are those that are asked.
        rare = [(f"rare{n}", hours - 200 + n) for n in range(150)]
        rows = pd.DataFrame(every + rare, columns=["key", "time"])
        rows["time"] *= HOUR
        rows["value"] = [rng.bytes(200) for _ in rows.index]
        folder = tmp_path / str(weeks)
        write(folder, rows, 2, [*range(0, hours + 1, 168)] if divided else [0, hours])
        Counted.opened = Counted.rows = Counted.size = 0
        keys = [*(f"hot{n}" for n in range(8)), "rare3", "rare77"]
        found = joined(folder, keys, np.full(len(keys), hours * HOUR - HOUR // 2))
        assert None not in found
        read.append((Counted.opened, Counted.rows, Counted.size))
    (files, *short), (more, *long) = read
    assert all(b <= 1.1 * a for a, b in zip(short, long, strict=True)), read
    assert more == files, "files that cannot hold the latest rows are not opened"
