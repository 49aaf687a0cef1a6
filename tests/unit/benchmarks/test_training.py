"""benchmarks/training.py runs as typed, and compares two forms of the same examples."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from interactrank.features.batch import collate
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "training.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_benchmark", SCRIPT)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_row_wise_and_grouped_are_the_same_examples(bench: ModuleType) -> None:
    rng = np.random.default_rng(0)
    items = bench.catalogue(40, rng)
    arrays = bench.requests(3, 8, 40, rng)
    grouped = collate(arrays, items, items.table(), len(bench.SCHEMA.heads))
    rows = bench.row_wise(grouped, items)
    assert len(rows.query) == len(rows.items["rows"]) == len(grouped.candidate_request) == 24
    model = InteractRank(ModelConfig(), bench.SCHEMA, items).eval()
    model.trained[:] = True
    with torch.no_grad():
        torch.testing.assert_close(model(rows).logits, model(grouped).logits)


def test_a_step_passes_its_parts_forward_and_back(bench: ModuleType) -> None:
    rng = np.random.default_rng(0)
    items = bench.catalogue(40, rng)
    arrays = bench.requests(3, 8, 40, rng)
    trainer = bench.Timed(InteractRank(ModelConfig(), bench.SCHEMA, items), bench.TrainConfig(), 10)
    laps: list[str] = []
    trainer.lap = laps.append
    trainer.step(collate(arrays, items, items.table(), len(bench.SCHEMA.heads)))
    forward = ["the rest", "query tower", "item tower", "fusion", "loss"]
    backward = ["loss", "fusion", "item tower", "query tower", "optimiser"]
    assert laps == forward + backward


def test_it_runs_as_typed() -> None:
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--device",
            "cpu",
            "--requests",
            "2",
            "--candidates",
            "4",
            "--items",
            "20",
            "--steps",
            "1",
            "--only",
            "row-wise fp32",
            "grouped fp32",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| row-wise fp32 |" in done.stdout
    assert "| query tower |" in done.stdout
