"""What changes in the columns of a log from one day, or one file, to the next is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.online_log import MANIFEST

from prerank.checks.schema import LEAST_ROWS, Change, changes, days_of, files_of
from prerank.core.home import Home
from prerank.ingest.mapping import LogMapping

ROWS = 400
PLAIN = LogMapping()
AT = 1_700_000_000


def day(n: int) -> pd.DataFrame:
    """A day of a log as a team has it."""
    rng = np.random.default_rng(n)
    return pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, 50, ROWS)],
            "timestamp": AT + 86_400 * n + rng.integers(0, 86_400, ROWS),
            "action": rng.choice(["impression", "click"], ROWS),
            "position": rng.integers(0, 20, ROWS).astype(float),
            "price": rng.lognormal(3, 1, ROWS),
            "device": rng.choice(["phone", "desktop"], ROWS),
        }
    )


def found(folder: Path, *days: pd.DataFrame, known: tuple[str, ...] = ()) -> list[str]:
    """What is told of files of these days, without their folder."""
    for n, frame in enumerate(days):
        frame.to_parquet(folder / f"day-{n}.parquet")
    (folder / "scratch").mkdir()
    told = changes(files_of(folder, PLAIN, folder / "scratch"), 0.2, known)
    return [str(change).replace(f"{folder}/", "") for change in told]


def test_days_that_are_alike_tell_nothing(tmp_path: Path) -> None:
    assert found(tmp_path, day(0), day(1), day(2), known=("click", "impression")) == []


def test_columns_that_come_and_go(tmp_path: Path) -> None:
    told = found(tmp_path, day(0), day(1).assign(campaign="x"), day(2))
    assert told == [
        "day-1.parquet: campaign is new; day-0.parquet has no such column",
        "day-2.parquet: campaign is gone; day-1.parquet has it",
    ]


@pytest.mark.parametrize(
    ("column", "change", "says"),
    [
        ("price", lambda v: v.astype(str) + " EUR", "price holds text, before number"),
        ("timestamp", lambda v: v * 1_000, "timestamp is in ms, before in s"),
        ("timestamp", lambda v: v * 1_000_000, "timestamp is in us, before in s"),
        ("timestamp", lambda v: pd.to_datetime(v, unit="s"), "timestamp holds time, before number"),
        ("price", lambda v: v * 1_000, "times as large as before, in the median"),
        ("price", lambda v: v.where(v < v.quantile(0.4)), "price is missing in 60% of rows"),
        ("device", lambda v: v.where(v.index % 3 == 0, ""), "device is missing in 66% of rows"),
        ("action", lambda v: v.where(v.index % 9 > 0, "order"), "action has 'order', which is new"),
        ("action", lambda v: v.where(v != "click", "impression"), "action lacks 'click'"),
    ],
)
def test_a_change_is_named(column: str, change: object, says: str, tmp_path: Path) -> None:
    changed = day(1)
    assert callable(change)
    changed[column] = change(changed[column])
    told = found(tmp_path, day(0), changed)
    assert len(told) == 1, told
    assert told[0].startswith("day-1.parquet: ")
    assert says in told[0]


def test_numbers_written_as_text_are_numbers(tmp_path: Path) -> None:
    text = day(1).astype(str)
    text.to_csv(tmp_path / "day-1.csv", index=False)
    assert found(tmp_path, day(0)) == []


def test_an_action_that_the_log_does_not_know(tmp_path: Path) -> None:
    told = found(tmp_path, day(0), known=("click", "view"))
    assert told == ["day-0.parquet: action has 'impression', which is new"]


def test_a_part_of_few_rows_is_passed_over(tmp_path: Path) -> None:
    few = day(1).drop(columns="price").head(LEAST_ROWS - 1)
    assert found(tmp_path, day(0), few, day(2)) == []


def test_days_of_the_canonical_log(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    manifest = replace(MANIFEST, segments=("device",), retriever=("score",))
    for n in range(3):
        frame = day(n).assign(retriever_score=1.0)
        if n == 1:
            frame["position"] = np.nan
        if n == 2:
            frame["retriever_score"] *= 1_000
        folder = home.events / f"day=2025-01-0{n + 1}"
        folder.mkdir(parents=True)
        frame.to_parquet(folder / "part-0.parquet")
    parts = days_of(home, manifest)
    assert [p.name for p in parts] == ["2025-01-01", "2025-01-02", "2025-01-03"]
    assert changes(parts, 0.2) == [
        Change("2025-01-02", "position", "is missing in 100% of rows, before in 0%"),
        Change("2025-01-03", "position", "is missing in 0% of rows, before in 100%"),
        Change("2025-01-03", "retriever_score", "is 1e+03 times as large as before, in the median"),
    ]
