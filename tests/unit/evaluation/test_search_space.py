"""What is tried: bounds that make sense, and values that reach the configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from interactrank.model.config import ModelConfig
from interactrank.training.losses import LossConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.errors import ConfigError
from prerank.evaluation.search_space import SPACE, Choice, Range, applied, defaults, load_space


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


def test_the_declared_space_is_sound_and_holds_the_defaults() -> None:
    assert all(not setting.wrong() for setting in SPACE.values())
    found = defaults(SPACE, ModelConfig(), TrainConfig())
    assert found["train.loss.softmax"] == LossConfig().softmax
    assert applied(found, ModelConfig(), TrainConfig()) == (ModelConfig(), TrainConfig())


def test_values_of_a_trial_reach_the_settings_and_nothing_else() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trial = study.ask()
    values = {name: setting.suggest(trial, name) for name, setting in SPACE.items()}
    model, train = applied(values, ModelConfig(), TrainConfig())
    assert train.loss.softmax == values["train.loss.softmax"]
    assert train.batch_requests == values["train.batch_requests"]
    assert model.dropout == values["model.dropout"]
    own: dict[str, Any] = {
        n.rpartition(".")[2]: v for n, v in values.items() if n.startswith("train.")
    }
    softmax = own.pop("softmax")
    assert train == replace(TrainConfig(), loss=replace(LossConfig(), softmax=softmax), **own)


def test_a_file_replaces_adds_and_takes_out(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "train.batch_requests: null\n"
        "train.learning_rate: {low: 0.001, high: 0.01, log: true}\n"
        "model.width: {choices: [32, 64]}\n"
        "train.warmup_steps: {low: 10, high: 100}\n",
    )
    space = load_space(path)
    assert "train.batch_requests" not in space
    assert space["train.learning_rate"] == Range(0.001, 0.01, log=True)
    assert space["model.width"] == Choice((32, 64))
    trial = optuna.create_study().ask()
    assert isinstance(space["train.warmup_steps"].suggest(trial, "train.warmup_steps"), int)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train.learning_rate: {low: 2, high: 1}", "low must be below high"),
        ("train.learning_rate: {low: 0, high: 1, log: true}", "low must be above 0"),
        ("model.width: {choices: [64, 64]}", "two different choices"),
        ("model.width: {from: 1, to: 2}", r"model.width: give \{low"),
        ("model.width: 64", r"model.width: give \{low"),
        ("[train.learning_rate]", "give settings"),
    ],
)
def test_wrong_bounds_are_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_space(written(tmp_path, text))


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"train.speed": Range(0.0, 1.0)}, "train.speed: no such setting"),
        ({"train.loss": Range(0.0, 1.0)}, "train.loss: no such setting"),
        ({"features.user_cap": Choice((1, 2))}, "features.user_cap: no such setting"),
        ({"train.learning_rate": Range(0.1, 0.2)}, "the configuration has 0.003"),
        ({}, "nothing is left to try"),
    ],
)
def test_a_space_that_does_not_fit_the_configuration_is_refused(
    space: dict[str, Range | Choice], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        defaults(space, ModelConfig(), TrainConfig())
