"""`prerank run` on odd logs: a sensible answer, or one line that names the field and the fix."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from prerank import cli

Frames = tuple[pd.DataFrame, pd.DataFrame]
CONFIG = """
features: {cadence_hours: 24}
model: {width: 8, text_width: 8, id_width: 8, mask_blocks: 1, mask_width: 16, hidden: [16]}
train: {epochs: 1, batch_requests: 128}
"""


def empty(events: pd.DataFrame, items: pd.DataFrame) -> Frames:
    return events.head(0), items


def one_request(events: pd.DataFrame, items: pd.DataFrame) -> Frames:
    return events[events["request_id"] == events["request_id"].iloc[0]], items


def only_impressions(events: pd.DataFrame, items: pd.DataFrame) -> Frames:
    return events[events["action"] == "impression"], items


def silent_later(events: pd.DataFrame, items: pd.DataFrame) -> Frames:
    late = events["request_time"] > events["request_time"].quantile(0.6)
    return events[~late | (events["action"] == "impression")], items


def one_user_one_time_new_queries_no_impressions_few_listed(
    events: pd.DataFrame, items: pd.DataFrame
) -> Frames:
    engaged = events[events["action"] != "impression"].drop(columns="event_time")
    plain = engaged.rename(columns={"request_time": "timestamp"})
    queries = "q" + engaged["request_id"].str.lstrip("r0")
    return plain.assign(user_id="only", query=queries), items.head(5)


def all_at_once(events: pd.DataFrame, items: pd.DataFrame) -> Frames:
    moment = events["request_time"].iloc[0]
    return events.assign(request_time=moment, event_time=moment), items


def one_item(events: pd.DataFrame, items: pd.DataFrame) -> Frames:
    only = events["item_id"].value_counts().index[0]
    return events[events["item_id"] == only], items[items["item_id"] == only]


REFUSED: dict[Callable[..., Frames], tuple[int, str]] = {
    empty: (3, "is empty"),
    one_request: (3, "label window"),
    only_impressions: (3, "passive"),
    all_at_once: (3, "label_window_hours"),
    silent_later: (3, "validation request"),
}
# Odd in many ways at once: each run takes most of a minute, much of it Ray Train's.
RUN = [one_user_one_time_new_queries_no_impressions_few_listed, one_item]


@pytest.fixture(scope="module")
def shared_mlflow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One embedded store: making its tables takes as long as a small run."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    shared_mlflow: str,
    monkeypatch: pytest.MonkeyPatch,
    ray_local: None,
) -> Callable[[Callable[..., Frames]], Path]:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_mlflow)

    def go(change: Callable[..., Frames]) -> Path:
        events, items = change(tiny_log, tiny_items)
        events.to_parquet(tmp_path / "events.parquet")
        items.to_parquet(tmp_path / "items.parquet")
        (tmp_path / "job.yaml").write_text(CONFIG)
        paths = {
            "events": "events.parquet",
            "items": "items.parquet",
            "config": "job.yaml",
            "workdir": "work",
        }
        cli.main(["run", *(a for k, v in paths.items() for a in (f"--{k}", str(tmp_path / v)))])
        return tmp_path / "work"

    return go


@pytest.mark.slow
@pytest.mark.parametrize("change", REFUSED, ids=lambda f: f.__name__)
def test_what_cannot_work_is_refused_in_one_line(
    change: Callable[..., Frames],
    run: Callable[[Callable[..., Frames]], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, says = REFUSED[change]
    with pytest.raises(SystemExit) as stopped:
        run(change)
    last = capsys.readouterr().err.splitlines()[-1]
    assert (stopped.value.code, last.startswith("prerank run: ")) == (code, True), last
    assert says in last


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred", "ignore:Mean of empty slice")
@pytest.mark.parametrize(
    "change",
    # Each takes a minute: the second is run in the lane of the faults.
    [RUN[0], pytest.param(RUN[1], marks=pytest.mark.faults)],
    ids=lambda f: f.__name__,
)
def test_an_odd_log_runs_to_a_registered_model(
    change: Callable[..., Frames], run: Callable[[Callable[..., Frames]], Path]
) -> None:
    work = run(change)
    models = json.loads((work / "metrics.json").read_text())["models"]
    for name in ("interactrank", "two_tower", "bm25", "popularity"):
        measured = models[name]
        assert 0 <= measured["mrr"] <= 1, name
        assert 0 <= measured["hits@10"] <= 1, name
        assert all(math.isfinite(v) for v in measured.values() if isinstance(v, float)), name
    assert (work / "report.html").stat().st_size > 10_000
    (index,) = (work / "index").glob("*/index.json")
    assert json.loads(index.read_text())["items"] > 0
