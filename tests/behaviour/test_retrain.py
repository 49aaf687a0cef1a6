"""Days of retraining: what fails loses nothing, what is done is not done again.

The home is in an object store, and the pod of a command that failed is gone with its disk. A local
home has its days in ``tests/e2e/test_week.py``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from tests.conftest import BuildHome
from tests.daily import CONFIG, Daily
from tests.object_stores import of_workers

from prerank.cli import main
from prerank.core.errors import DataError, StateError
from prerank.core.home import ENV, Home
from prerank.online.store import REDIS_ENV
from prerank.registry import versions as registry
from prerank.registry.tracking import EXPERIMENT, URI_ENV
from prerank.retraining.rounds import CHALLENGER, NOTHING_NEW, PROMOTED


@pytest.fixture
def pod(tmp_path: Path, ray_cache: Path) -> Iterator[Callable[[], Home]]:
    with of_workers(tmp_path / "bucket", ray_cache) as fresh:
        yield fresh


@pytest.fixture
def daily(
    build_home: BuildHome,
    pod: Callable[[], Home],
    tmp_path: Path,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    new_redis: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Daily:
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv(URI_ENV, tracking)
    monkeypatch.setenv(REDIS_ENV, new_redis())
    # As a server's, artifacts are on no pod's disk.
    place = (tmp_path / "artifacts").as_uri()
    MlflowClient(tracking).create_experiment(EXPERIMENT, artifact_location=place)
    return Daily.of(build_home, tmp_path, tiny_log, tiny_items, 2, pod())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")
def test_days_of_retraining(
    daily: Daily, pod: Callable[[], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk that fills up after the training; the same command goes on there.
    first = daily.day(daily.days[0], "first")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("prerank.retraining.run.publish", full)
        with pytest.raises(StateError, match=r"is full .*in the stage `evaluate, register, gate`"):
            daily.retrain(first)
    daily.home = pod()
    grown = daily.fingerprint()
    assert daily.champion() is None
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
    # Of the served log, too, whose days are read once: the stop holds at the next command.
    served = daily.served(half, "half")
    for _ in range(2):
        told = r"33% of .* new rows were quarantined \(half: .*--max-bad allows"
        with pytest.raises(DataError, match=told):
            daily.retrain(served)
    nothing = replace(served, source="the day after", max_bad=0.3)
    with pytest.raises(DataError, match=r"33% of .* \(half: .*--max-bad allows 30%"):
        daily.retrain(nothing)
    with pytest.raises(DataError):
        daily.retrain(daily.day(good.iloc[:0], "empty"))
    assert (daily.champion(), daily.versions()) == ("1", 1)

    # The corrected day, on another node, from the champion's towers.
    daily.home = pod()
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

    # What decides works on a node that has nothing yet, too.
    (daily.root / "job.yaml").write_text(CONFIG.to_yaml())
    own = ["--version", "2", "--config", str(daily.root / "job.yaml")]
    monkeypatch.setenv(ENV, daily.home.place)
    for verb, champion in (["rollback"], "1"), (["gate", *own], "1"), (["promote", *own], "2"):
        daily.home = pod()
        main(verb)
        assert daily.champion() == champion
