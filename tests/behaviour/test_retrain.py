"""Days of retraining: what fails loses nothing, what is done is not done again."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.conftest import BuildHome

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.config import JobConfig
from prerank.core.errors import DataError, StateError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.features.config import FeatureConfig
from prerank.ingest.additions import catalogue_of_home
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest
from prerank.promotion.config import GateConfig
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.retraining import run as retraining
from prerank.retraining.rounds import CHALLENGER, NOTHING_NEW, PROMOTED
from prerank.retraining.run import Day, Retrained, retrain

CONFIG = JobConfig(
    FeatureConfig(cadence_hours=24),
    ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,)),
    TrainConfig(epochs=1, batch_requests=64, warmup_steps=2),
    baselines=(),
    # On so few requests a version is neither better nor worse.
    gate=GateConfig(margin=0.9, undecided="pass", golden_ms=1e5),
)
HELD_BACK = 2
"""Last days of the log, which come one by one."""


class Daily:
    """A home, and the days that come to it."""

    def __init__(self, home: Home, root: Path, days: list[pd.DataFrame]) -> None:
        self.home, self.root, self.days = home, root, days

    def day(self, events: pd.DataFrame, name: str, max_bad: float = 0.1) -> Day:
        path = self.root / f"{name}.parquet"
        events.to_parquet(path)
        manifest = LogManifest.load(self.home)
        mapping = LogMapping.model_validate(manifest.mapping | {"name": manifest.dataset})

        def add() -> Any:
            return ingest(path, catalogue_of_home(self.home, None), self.home, mapping)

        return Day(name, add, max_bad=max_bad)

    def retrain(self, day: Day, **options: Any) -> Retrained:
        return retrain(self.home, CONFIG, day, **options)

    def fingerprint(self) -> str:
        return LogManifest.load(self.home).fingerprint

    def champion(self) -> str | None:
        found = registry.alias_version(registry.CHAMPION)
        return found and found.number

    def versions(self) -> int:
        from mlflow import MlflowClient

        return len(MlflowClient().search_model_versions(f"name='{registry.MODEL_NAME}'"))

    def changes(self, made: Retrained) -> dict[str, Any]:
        assert made.folder is not None
        read: dict[str, Any] = json.loads((made.folder / "changes.json").read_text())
        return read


@pytest.fixture
def daily(
    build_home: BuildHome,
    tmp_path: Path,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> Daily:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    of = tiny_log["request_time"].dt.date
    last = sorted(of.unique())[-HELD_BACK:]
    before = tiny_log[~of.isin(last)]
    home = build_home(tmp_path, before, tiny_items, features=CONFIG.features)
    tracking.connect(home)
    return Daily(home, tmp_path, [tiny_log[of == day] for day in last])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")
def test_days_of_retraining(daily: Daily, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    # A disk that fills up after the training; the same command goes on there.
    first, publish = daily.day(daily.days[0], "first"), retraining.publish_version

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(retraining, "publish_version", full)
    with pytest.raises(StateError, match=r"is full .*stopped in the stage `evaluate and register`"):
        daily.retrain(first)
    grown = daily.fingerprint()
    assert daily.champion() is None
    monkeypatch.setattr(retraining, "publish_version", publish)
    made = daily.retrain(first)
    assert (made.number, made.outcome, str(made.version)) == (1, CHALLENGER, "1")
    assert daily.fingerprint() == grown
    assert made.version is not None
    client = MlflowClient()
    assert len(client.get_metric_history(made.version.run_id, "train_loss")) == 1, "trained twice"
    assert {f.path for f in client.list_artifacts(made.version.run_id)} >= {"changes.md"}

    # Nothing new, a corrupt day, one that is half corrupt: nothing is lost, nothing is trained.
    registry.promote(daily.home, made.version)
    assert daily.retrain(first).outcome == NOTHING_NEW
    corrupt = daily.days[1].assign(item_id=None)
    with pytest.raises(DataError, match=r"stopped in the stage `update`; what is served stays"):
        daily.retrain(daily.day(corrupt, "corrupt"))
    assert daily.fingerprint() == grown
    good = daily.days[1]
    half = good.assign(user_id=good["user_id"].where(good.index % 3 > 0))
    with pytest.raises(DataError, match=r"33% of .* new rows were quarantined .*--max-bad allows"):
        daily.retrain(daily.day(half, "half"))
    with pytest.raises(DataError):
        daily.retrain(daily.day(good.iloc[:0], "empty"))
    assert (daily.champion(), daily.versions()) == ("1", 1)

    # The corrected day, from the champion's towers.
    after = daily.retrain(daily.day(good, "second"), warm=True, auto_promote=True)
    assert (after.outcome, str(after.version), daily.champion()) == (PROMOTED, "2", "2")
    changes = daily.changes(after)
    assert changes["champion_before"] == "1"
    assert changes["training"]["began"] == "from the towers of version 1"
    days = changes["data"]["days"]
    assert [*days] == [str(good["request_time"].dt.date.iloc[0])]
    assert sum(now - before for before, now in days.values()) == good["request_id"].nunique()
    assert changes["weights"][0]["before"] != changes["weights"][0]["after"]
    assert "Weights that moved most" in after.text
