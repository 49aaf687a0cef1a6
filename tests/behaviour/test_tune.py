"""A search for settings: nothing of the future or the test split, and it goes on where it ended.

On another node than the one that began it, whose disk is gone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.object_stores import Nodes, copied, nodes

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.errors import StateError
from prerank.core.files import held
from prerank.core.home import Home
from prerank.dataset.examples import read_split
from prerank.evaluation import folds, tuning
from prerank.evaluation.origins import (
    BLOCKS,
    ORIGINS,
    FoldBudget,
    OriginReader,
    blocks,
    requests_at,
)
from prerank.evaluation.search_space import Range
from prerank.evaluation.tuned import table
from prerank.evaluation.tuning import CONFIRM_SEEDS, CONFIRMED, SEARCHED, tune

MODEL = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,))
TRAIN = TrainConfig(epochs=1, batch_requests=64, warmup_steps=2)
SPACE = {"train.learning_rate": Range(1e-3, 1e-2, log=True), "model.dropout": Range(0.0, 0.2)}
BUDGET = FoldBudget(train_requests=150, validation_requests=60, measured_requests=60, epochs=1)


@pytest.fixture
def home(tiny_world: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The tiny world's data with results of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for name in ("log", "features", "training_set"):
        os.symlink(tiny_world.root / name, tmp_path / name)
    return Home.at(tmp_path)


@pytest.fixture
def store(home: Home, tmp_path: Path) -> Iterator[Nodes]:
    """Nodes that have the home in an object store, each with a disk of its own."""
    with nodes(tmp_path / "nodes") as made:
        with made.node("maker") as maker:
            copied(home, maker)
        yield made


def times(tables: list[pa.Table]) -> list[int]:
    return [t for table in tables for t in table["time"].to_pylist()]


def test_an_origin_learns_from_before_and_is_measured_after(home: Home) -> None:
    test_from = home.read_json(home.training_set / "manifest.json", "")["splits"]["test_from"]
    stored = [*read_split(home, "train"), *read_split(home, "validation")]
    everything = times(stored)
    assert everything == sorted(everything)
    assert times(requests_at(home, np.arange(len(everything)))) == everything
    some = np.array([0, 3, len(everything) - 1])
    assert times(requests_at(home, some)) == [everything[n] for n in some]
    cut = np.concatenate([blocks(len(everything), b, b) for b in range(BLOCKS)])
    assert cut.tolist() == [*range(len(everything))]
    for k in ORIGINS:
        reader = OriginReader(home, k, BUDGET)
        learned, stopped = (times(reader.own[name]) for name in ("train", "validation"))
        measured = times(requests_at(home, blocks(len(everything), k + 1, k + 1)))
        assert 0 < len(learned) <= BUDGET.train_requests
        assert 0 < len(stopped) <= BUDGET.validation_requests
        assert max(learned) <= min(stopped) <= max(stopped) <= min(measured)
        assert max(measured) < test_from


@pytest.mark.slow
def test_a_search_goes_on_and_confirms_on_requests_that_chose_nothing(
    store: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this process: what a fold costs is not a Ray task's start.
    ran: list[tuple[int, int]] = []
    rates: dict[int, set[float]] = {}

    def here(run: Any, tasks: list[folds.FoldTask], _: str) -> None:
        for task in tasks:
            number = int(task.out.name.split("-")[0])
            ran.append((number, task.k))
            rates.setdefault(number, set()).add(task.train.learning_rate)
            run(task)

    monkeypatch.setattr(folds, "ray_map", here)
    monkeypatch.setattr(tuning, "connect", lambda: None)
    monkeypatch.setattr(tuning, "cluster_cpus", lambda: 2)
    # Killed when the first origin of two trials was measured.
    measure = folds.Folds.measure

    def killed(self: folds.Folds, asked: Any, k: int, seed: int = 0) -> None:
        measure(self, asked, k, seed)
        raise KeyboardInterrupt

    with store.node("a") as home:
        with pytest.raises(StateError, match="no trial ended in the time"):
            tune(home, MODEL, TRAIN, SPACE, 3, minutes=0, budget=BUDGET)
        assert ran == []
        monkeypatch.setattr(folds.Folds, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(home, MODEL, TRAIN, SPACE, 3, budget=BUDGET)
    monkeypatch.setattr(folds.Folds, "measure", measure)
    with store.node("b") as home:
        goes_on(home, ran, rates)


def goes_on(home: Home, ran: list[tuple[int, int]], rates: dict[int, set[float]]) -> None:
    from mlflow import MlflowClient

    assert sorted(ran) == [(0, SEARCHED[0]), (1, SEARCHED[0])]
    found = tune(home, MODEL, TRAIN, SPACE, 3, budget=BUDGET)
    assert {
        number: {t["values"]["train.learning_rate"]} for number, t in enumerate(found.trials)
    } == rates
    searched = [(n, k) for n, k in ran if k != CONFIRMED]
    assert len(searched) == len(set(searched)), "measured twice"
    assert {n for n, _ in searched} == {0, 1, 2}
    assert found.done
    assert [t["number"] for t in found.trials] == [0, 1, 2]
    assert found.trials[0]["values"] == {"train.learning_rate": 3e-3, "model.dropout": 0.005}
    assert found.trials[0]["state"] == "complete"
    whole = [t for t in found.trials if t["state"] == "complete"]
    assert found.best == max(whole, key=lambda t: t["mrr"])["number"]
    confirmed = [(n, k) for n, k in ran if k == CONFIRMED]
    if found.best:
        assert len(confirmed) == 2 * CONFIRM_SEEDS
        assert found.gained is not None
        assert math.isfinite(found.gained.difference)
    else:
        assert not confirmed
    assert "trials at every origin" in table(found)
    assert found.verdict()

    # A run of its own with a child for each trial; the result is a file too.
    client = MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "prerank"]
    runs = client.search_runs([experiment.experiment_id])
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len({r.data.tags["mlflow.parentRunId"] for r in children}) == 1
    assert sorted(r.info.run_name for r in children) == [f"trial {n}" for n in range(3)]
    read = json.loads((home.root / "tuning" / found.study / "results.json").read_text())
    assert read["best"] == found.best

    # Nothing is left to do; another budget is another study.
    count = len(ran)
    assert tune(home, MODEL, TRAIN, SPACE, 3, budget=BUDGET).trials == found.trials
    assert len(ran) == count
    with held(home.root / "tuning"), pytest.raises(StateError, match="another search"):
        tune(home, MODEL, TRAIN, SPACE, 3, budget=BUDGET)
