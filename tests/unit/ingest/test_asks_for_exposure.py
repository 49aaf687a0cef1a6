"""A log has exposure where the mapping asks for it and impressions have positions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.ingest.report import IngestReport

Ingested = Callable[..., tuple[IngestReport, Home]]
ITEMS = pd.DataFrame({"item_id": range(3), "title": ["a", "b", "c"]})


def log(impressions: Any, clicks: Any = None) -> pd.DataFrame:
    """A request with two items shown, one of them clicked, at these positions."""
    asked = {"request_id": "r", "user_id": "u", "query": "q"}
    rows = [
        asked | {"item_id": 1, "action": "impression", "position": impressions},
        asked | {"item_id": 2, "action": "impression", "position": None},
        asked | {"item_id": 1, "action": "click", "position": clicks},
    ]
    frame = pd.DataFrame(rows).astype({"position": "Int32"})
    return frame.assign(timestamp=pd.Timestamp("2024-03-01T10:00:00Z"))


@pytest.mark.parametrize(
    ("events", "known"),
    [
        (log(0), True),
        (log(None, 3), False),
        (log(None), False),
        (log(None).drop(columns="position"), False),
        (log(2).query("action == 'click'").assign(position=1), False),
    ],
    ids=["impressions", "clicks alone", "none", "no column", "no impressions"],
)
def test_exposure_needs_positions_of_impressions(
    events: pd.DataFrame, known: bool, ingested: Ingested, tmp_path: Path
) -> None:
    events.to_parquet(tmp_path / "events.parquet")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    report, home = ingested(tmp_path / "events.parquet", tmp_path / "items.parquet", exposure=True)
    manifest = LogManifest.load(home)
    assert manifest.exposure is known
    assert known is not any("no impression has a position" in w for w in report.manifest.warnings)
    assert manifest.schema.exposure is known
    # Of logs without, what is written is what was before there was exposure.
    assert ("exposure" in json.loads(home.manifest.read_text())) is known
    assert ("exposure" in manifest.schema.to_dict()) is known


def test_exposure_is_asked_for(ingested: Ingested, tmp_path: Path) -> None:
    log(0).to_parquet(tmp_path / "events.parquet")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    _, home = ingested(tmp_path / "events.parquet", tmp_path / "items.parquet")
    assert not LogManifest.load(home).schema.exposure
