"""benchmarks/long_epoch.py writes the log that its figures are of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[3]


def test_each_request_of_the_log_asks_for_the_item_that_it_engaged(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "long_epoch.py"
    subprocess.run([sys.executable, script, "--log", tmp_path], check=True, cwd=ROOT)
    events = pd.read_parquet(tmp_path / "events.parquet")
    items = pd.read_parquet(tmp_path / "items.parquet")
    assert (len(events), len(items)) == (130_000, 5_000)
    assert events["request_id"].is_unique
    assert events["request_time"].is_monotonic_increasing
    titles = items["title"].to_numpy()[events["item_id"].to_numpy()]
    for query, title in zip(events["query"][:500], titles[:500], strict=True):
        assert set(query.split()) <= set(title.split())
