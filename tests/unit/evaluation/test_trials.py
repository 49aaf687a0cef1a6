"""Results of trials: what is there and answers the same question is not made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.evaluation import trials
from prerank.evaluation.budget import Budget
from prerank.evaluation.trials import Trial, TrialTask, run_trials


def test_a_result_that_is_damaged_or_of_another_question_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, results = Home.at(tmp_path / "home"), tmp_path / "results"
    write_json(
        home.training_set / "manifest.json",
        {"fingerprint": "one", "schema_hash": "0123456789abcdef"},
    )
    ran: list[str] = []

    def made(run: Callable[[Any], None], tasks: Sequence[TrialTask], name: str) -> None:
        for task in tasks:
            ran.append(task.trial.name)
            result = {"asked": task.asked, "metrics": {"mrr": 0.5}, "epochs": 2, "seconds": 1.0}
            write_json(task.out, result)

    monkeypatch.setattr(trials, "ray_map", made)
    asked = [Trial(name, ModelConfig(), TrainConfig(), ("a:engage:all",)) for name in "abc"]
    first = run_trials(home, results, asked, Budget())
    assert ran == ["a", "b", "c"]
    assert run_trials(home, results, asked, Budget()) == first
    assert len(ran) == 3
    (results / f"b-{TrainConfig().seed}.json").write_bytes(b'{"asked": {"bud')
    assert run_trials(home, results, asked, Budget()) == first
    assert ran[3:] == ["b"]
    run_trials(home, results, asked, Budget(epochs=1))
    assert ran[4:] == ["a", "b", "c"]
