"""A job's configuration: every mistake is named by its key; nothing is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from interactrank.model.config import ModelConfig
from interactrank.training.losses import LossConfig
from interactrank.training.trainer import TrainConfig
from prerank.config import SECTIONS, JobConfig
from prerank.core.errors import ConfigError
from prerank.core.settings import typed
from prerank.features.build import FeatureConfig


def load(folder: Path, text: str) -> JobConfig:
    path = folder / "job.yaml"
    path.write_text(text)
    return JobConfig.load(path)


def test_nothing_given_means_the_defaults(tmp_path: Path) -> None:
    for config in (JobConfig.load(None), load(tmp_path, ""), load(tmp_path, "model:\n")):
        assert config.features == FeatureConfig()
        assert config.model == ModelConfig()
        assert config.train == TrainConfig()


def test_every_kind_of_value_arrives(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        features: {cadence_hours: 24, lag_minutes: 5}
        model: {hidden: [64, 32], cross: false, dropout: 0}
        train:
          epochs: 3
          learning_rate: 1e-3
          bf16: true
          loss: {focal: true, head_weights: [1, 2.5]}
        """.replace("1e-3", "0.001"),
    )
    assert config.features == FeatureConfig(cadence_hours=24, lag_minutes=5)
    assert config.model == ModelConfig(hidden=(64, 32), cross=False, dropout=0)
    loss = LossConfig(focal=True, head_weights=(1, 2.5))
    assert config.train == TrainConfig(epochs=3, learning_rate=0.001, bf16=True, loss=loss)


def test_baselines_are_those_named_once(tmp_path: Path) -> None:
    assert JobConfig.load(None).baselines == ("linear", "two_tower")
    assert load(tmp_path, "baselines: [trees, two_tower, trees]").baselines == (
        "trees",
        "two_tower",
    )
    assert load(tmp_path, "baselines: []").baselines == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("trainer: {}", ["trainer", *SECTIONS, "baselines"]),
        ("baselines: [tree]", ["baselines", "'tree'", "'trees'", "'two_tower'"]),
        ("baselines: two_tower", ["baselines", "'two_tower'", "list"]),
        ("model: {pooling: false, attention: false}", ["model", "pooling", "history: false"]),
        ("train: {epoch: 3}", ["train", "'epoch'", "'epochs'"]),
        ("features: {cadence: 1}", ["features", "'cadence'", "'cadence_hours'"]),
        ("train: {loss: {focus: true}}", ["train.loss", "'focus'", "'focal'"]),
        ("train: {epochs: many}", ["train.epochs", "'many'", "int"]),
        ("train: {epochs: true}", ["train.epochs", "True", "int"]),
        ("train: {bf16: 1}", ["train.bf16", "1", "bool"]),
        ("train: {learning_rate: 1e-3}", ["train.learning_rate", "'1e-3'"]),
        ("train: {learning_rate: fast}", ["train.learning_rate", "'fast'", "float"]),
        ("model: {width: [64]}", ["model.width", "[64]", "int"]),
        ("train: {loss: {focal: 'yes'}}", ["train.loss.focal", "'yes'", "bool"]),
        ("features: {lag_minutes: null}", ["features.lag_minutes", "None", "int"]),
        ("- train", ["features", "model", "train"]),
        ("train: {epochs: 1", ["job.yaml"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, names: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    message = str(raised.value)
    assert [n for n in names if n not in message] == [], message


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("train: {epochs: 2.5}", ["train.epochs", "2.5"]),
        ("features: {cadence_hours: daily}", ["features.cadence_hours", "daily"]),
        ("features: {cadence_hours: true}", ["features.cadence_hours"]),
        ("model: {hidden: 128}", ["model.hidden", "128"]),
        ("model: {hidden: [a]}", ["model.hidden"]),
        ("train: {loss: 1}", ["train.loss"]),
        ("train: 3", ["train"]),
        ("train: [epochs]", ["train", "mapping"]),
        ("{1: {}, train: {}, other: {}}", ["1"]),
        ("train: {epochs: 2}\ntrain: {epochs: 3}", ["train", "twice"]),
        ("train: {epochs: 2, epochs: 3}", ["epochs", "twice"]),
        ("features: {cadence_hours: -1}", ["features.cadence_hours"]),
        ("features: {lag_minutes: -60}", ["features.lag_minutes"]),
    ],
)
def test_a_mistake_that_could_slip_through_is_named(
    tmp_path: Path, text: str, names: list[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    message = str(raised.value)
    assert [n for n in names if n not in message] == [], message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        JobConfig.load(tmp_path / "absent.yaml")


def test_typed_builds_nested_sections() -> None:
    built = typed(TrainConfig, {"loss": {"softmax": 0.5}}, "train")
    assert built.loss == LossConfig(softmax=0.5)
