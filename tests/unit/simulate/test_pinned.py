"""What the presets of the first release write stays as it is: published figures stand on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from prerank.simulate import simulate

DIGITS = 9
"""Of hidden scores. Their last bits depend on the kind of processor."""

PINNED = {
    ("tiny", 7, None): {
        "events": "b0ddb0016018787c1f6ced323de869aaac0da58bd39b9424f2c1bfd724e24fa5",
        "items": "06f486a7a0b3b96f0d6c32906d1eea3bda3f93900ffbe4be1953bed0f030939c",
        "hidden": "0d706a9ed7cc2172bff1796b4f102ab253c78ac4cf68e20924555b1e2c996781",
    },
    ("tiny", 8, 900): {
        "events": "4d453d092544535e7ed6ebb15364ea0b848b37fb77aff1f9e00406dbe3e0243c",
        "items": "c5346d147d9f96ed03c84b750d0e7b3ae9844e8235b6d407749d341a3355c699",
        "hidden": "0f90daaf62e1bef1dd0d2b6313f251b2e4acc934fccbb21bdbe15e016b75d0b7",
    },
    ("demo", 7, 300): {
        "events": "7dc62992181bbf43ef29a844723337718e4d349ddf5cc96403015a711e296f07",
        "items": "ecdd3a4fe9810eecbfcee4b6c255d7726f8a4a3cf694280b502aa029ab51ccd4",
        "hidden": "817dd169b51d8c943aa6f06a00c8731d7db41044e6bd4be9d3c01ba2734db572",
    },
}
"""Preset, seed and requests -> SHA-256 of each table's values, whatever the version of Parquet."""


def digest(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def hidden_scores(folder: Path) -> pd.DataFrame:
    columns = ["item_ids", "oracle_relevance", "oracle_log"]
    scores: pd.DataFrame = pq.read_table(folder).to_pandas().explode(columns)
    for column in columns[1:]:
        scores[column] = scores[column].astype(float).round(DIGITS)
    return scores


@pytest.mark.parametrize(("preset", "seed", "requests"), PINNED)
def test_a_preset_writes_what_it_always_has(
    preset: str, seed: int, requests: int | None, tmp_path: Path
) -> None:
    simulate(tmp_path, preset, seed, requests=requests, progress=False)
    written = {
        "events": digest(pq.read_table(tmp_path / "events").to_pandas()),
        "items": digest(pq.read_table(tmp_path / "items.parquet").to_pandas()),
        "hidden": digest(hidden_scores(tmp_path / "hidden")),
    }
    assert written == PINNED[preset, seed, requests]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "events",
        "hidden",
        "items.parquet",
        "summary.json",
    ]
