"""A home to which days come one by one, and is trained again after each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from tests.conftest import BuildHome

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.config import JobConfig
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.features.config import FeatureConfig
from prerank.ingest.additions import catalogue_of_home
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest
from prerank.promotion.config import GateConfig
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.retraining.run import Day, Retrained, retrain

CONFIG = JobConfig(
    FeatureConfig(cadence_hours=24),
    ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,)),
    TrainConfig(epochs=1, batch_requests=64, warmup_steps=2),
    baselines=(),
    # On so few requests a version is neither better nor worse.
    gate=GateConfig(margin=0.9, undecided="pass", golden_ms=1e5),
)


class Daily:
    """A home, and the days that come to it."""

    def __init__(self, home: Home, root: Path, days: list[pd.DataFrame]) -> None:
        self.home, self.root, self.days = home, root, days

    @classmethod
    def of(
        cls,
        build: BuildHome,
        root: Path,
        log: pd.DataFrame,
        items: pd.DataFrame,
        held_back: int,
        place: Home | None = None,
    ) -> Daily:
        """The log without its last days, which are ``days``; the home is at ``place``."""
        of = log["request_time"].dt.date
        last = sorted(of.unique())[-held_back:]
        home = build(root, log[~of.isin(last)], items, features=CONFIG.features, place=place)
        tracking.connect(home)
        return cls(home, root, [log[of == day] for day in last])

    def day(self, events: pd.DataFrame, name: str, max_bad: float = 0.1) -> Day:
        """Of a file, which is read again each time."""
        path = self.root / f"{name}.parquet"
        events.to_parquet(path)
        manifest = LogManifest.load(self.home)
        mapping = LogMapping.model_validate(manifest.mapping | {"name": manifest.dataset})

        def add() -> Any:
            return ingest(path, catalogue_of_home(self.home, None), self.home, mapping)

        return Day(name, add, max_bad=max_bad)

    def served(self, events: pd.DataFrame, name: str) -> Day:
        """Of rows that are read once, as those of the served log."""
        day = self.day(events, name)
        left = [day.add]
        return replace(day, add=lambda: left.pop()() if left else None, once=True)

    def retrain(self, day: Day, **options: Any) -> Retrained:
        return retrain(self.home, CONFIG, day, **options)

    def fingerprint(self) -> str:
        return LogManifest.load(self.home).fingerprint

    def champion(self) -> str | None:
        found = registry.alias_version(registry.CHAMPION)
        return found.number if found else None

    def versions(self) -> int:
        from mlflow import MlflowClient

        return len(MlflowClient().search_model_versions(f"name='{registry.MODEL_NAME}'"))

    def changes(self, made: Retrained) -> dict[str, Any]:
        assert made.folder is not None
        read: dict[str, Any] = json.loads((made.folder / "changes.json").read_text())
        return read
