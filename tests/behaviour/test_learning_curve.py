"""The learning curve: points are jobs on shorter logs, measured alike, and kept when cut off."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.home import Home
from prerank.dataset.examples import read_split
from prerank.evaluation import learning_curve as curve
from prerank.evaluation.results import LEAD
from prerank.evaluation.trials import METRICS, TrialReader

MODEL = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,))
TRAIN = TrainConfig(epochs=2, batch_requests=64, warmup_steps=2)


@pytest.fixture
def home(tiny_world: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The tiny world's data with results of its own, and two points."""
    for name in ("log", "features", "training_set"):
        os.symlink(tiny_world.root / name, tmp_path / name)
    monkeypatch.setattr(curve, "SHARES", (25, 100))
    return Home.at(tmp_path)


def test_points_are_measured_alike_and_kept(home: Home) -> None:
    results = curve.learning_curve(home, MODEL, TRAIN, 2, "validation")
    few, all_of_them = curve.points(results)
    assert (few.share, all_of_them.share) == (25, 100)
    trained = sum(len(table) for table in read_split(home, "train"))
    assert (few.requests, all_of_them.requests) == (trained // 4, trained)
    for point in (few, all_of_them):
        assert set(point.models) == {LEAD, "linear", "trees"}
        assert set(point.versus) == {"linear", "trees"}
        for own in point.models.values():
            assert {m: len(seeds) for m, seeds in own.items()} == dict.fromkeys(METRICS, 2)
        gain = np.mean(point.models[LEAD]["mrr"]) - np.mean(point.models["linear"]["mrr"])
        assert point.versus["linear"]["mrr"].difference == pytest.approx(gain, abs=1e-9)
    assert curve.load_results(home) == json.loads(json.dumps(results))
    assert "linear" in curve.table(results)

    files = sorted((home.root / "learning_curve" / "validation").glob("*.json"))
    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    assert curve.learning_curve(home, MODEL, TRAIN, 2, "validation") == results
    assert {f for f in files if f.stat().st_mtime_ns != before[f]} == {files[0]}


def test_a_point_learns_from_the_newest_requests_alone(home: Home) -> None:
    times = np.concatenate([t["time"].to_numpy() for t in read_split(home, "train")])
    reader = TrialReader(home, curve.budget_of(home, 25, 2, "validation"), ())
    learned = np.concatenate([t["time"].to_numpy() for t in reader.tables("train")])
    assert np.array_equal(learned, np.sort(times)[-len(learned) :])
