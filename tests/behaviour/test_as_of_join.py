"""The as-of join of a feature table equals pandas', whatever its files and row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from prerank.features.asof import MISSING, as_of

STAMP = pa.timestamp("us", tz="UTC")


def feature_table(folder: Path, frame: pd.DataFrame, files: int) -> None:
    for i in range(files):
        part = frame[frame.index % files == i]
        table = pa.table(
            {
                "key": pa.array(part["key"], pa.string()),
                "event_timestamp": pa.array(part["time"].to_numpy()).cast(STAMP),
                "value": part["value"].to_numpy(),
            }
        )
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=17)


def test_as_of_equals_pandas(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"key": [f"k{i}" for i in rng.integers(0, 30, 600)], "time": rng.integers(0, 200, 600)}
    )
    frame = frame.drop_duplicates().reset_index(drop=True)
    frame["value"] = rng.permutation(len(frame))
    feature_table(tmp_path, frame, 3)
    # A range of 200 microseconds makes exact ties common; k30 to k39 have no row at all.
    asked = pd.DataFrame(
        {"key": [f"k{i}" for i in rng.integers(0, 40, 2000)], "time": rng.integers(-5, 205, 2000)}
    )
    joined = as_of(
        tmp_path,
        "key",
        pa.array(asked["key"]),
        pa.array(asked["time"].to_numpy()).cast(STAMP),
        ("value",),
    )
    values = joined.values["value"].to_numpy()
    stamps = joined.values["event_timestamp"].cast(pa.int64()).to_numpy()
    found = joined.index >= 0
    expected = (
        pd.merge_asof(
            asked.reset_index().sort_values("time", kind="stable"),
            frame.rename(columns={"time": "stamp"}).sort_values("stamp"),
            left_on="time",
            right_on="stamp",
            by="key",
        )
        .set_index("index")
        .sort_index()
    )
    assert (expected["stamp"] == expected["time"]).sum() > 50, "no exact ties to tell apart"
    np.testing.assert_array_equal(found, expected["value"].notna().to_numpy())
    assert 0 < found.sum() < len(found)
    np.testing.assert_array_equal(values[joined.index[found]], expected["value"][found])
    np.testing.assert_array_equal(stamps[joined.index[found]], expected["stamp"][found])
    assert len(joined.values) == len(np.unique(joined.index[found])), "a row was fetched twice"


def test_as_of_without_any_match(tmp_path: Path) -> None:
    feature_table(tmp_path, pd.DataFrame({"key": ["a"], "time": [10], "value": [1]}), 1)
    times = pa.array([9, 50]).cast(STAMP)
    joined = as_of(tmp_path, "key", pa.array(["a", "b"]), times, ("value",))
    assert joined.index.tolist() == [MISSING, MISSING]
    assert len(joined.values) == 0
