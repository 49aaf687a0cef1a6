"""A job's configuration: every mistake is named by its key; nothing is dropped in silence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from interactrank.model.config import ModelConfig
from interactrank.training.losses import LossConfig
from interactrank.training.trainer import TrainConfig
from prerank.config import CONFIGS, SECTIONS, JobConfig, field_docs, json_schema
from prerank.core.errors import ConfigError
from prerank.core.settings import typed
from prerank.evaluation.baselines.suite import BASELINES
from prerank.features.config import FeatureConfig
from prerank.serving.config import ServeConfig


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
        ("features: {user_cap: 0}", ["features.user_cap"]),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rivals: [linear]", "`rivals` is now `baselines`"),
        ("train: {least_gain: 0.1}", "`train.least_gain` is now `train.min_delta`"),
        ("model: {performing: true}", "`model.performing` is now `model.top_items`"),
        ("train: {epoch: 3}", "unknown key `train.epoch` (did you mean `epochs`?)"),
        ("epochs: 3", "unknown key `epochs` (did you mean `train.epochs`?)"),
        ("train: {focal: true}", "unknown key `train.focal` (did you mean `train.loss.focal`?)"),
        ("features: {3: 4}", "the key 3 is no text"),
        ("baselines:", "`baselines`: None is no list"),
        ("train: {seed: 7.0}", "`train.seed`: 7.0 is no int"),
        ("model: {hidden: [8, '16']}", "`model.hidden[1]`: '16' is no int"),
    ],
)
def test_an_old_or_misplaced_key_names_the_right_one(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, text)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, "train: {epochs: many, seed: x}\nmodel: {with: 3}")
    message = str(raised.value)
    assert [n for n in ("train.epochs", "train.seed", "model.with") if n not in message] == []


def test_what_is_printed_is_read_again(tmp_path: Path) -> None:
    changed = JobConfig(
        FeatureConfig(cadence_hours=48),
        ModelConfig(hidden=(), dropout=1e-7),
        TrainConfig(learning_rate=1e12, loss=LossConfig(head_weights=(1.0,))),
        (),
    )
    for config in (JobConfig(), changed):
        assert load(tmp_path, config.to_yaml()) == config


@pytest.mark.parametrize("kind", [JobConfig, *CONFIGS])
def test_every_key_is_explained_once(kind: type) -> None:
    assert list(field_docs(kind)) == [f.name for f in dataclasses.fields(kind)]


def test_the_schema_says_what_editors_show() -> None:
    schema = json_schema()
    nodes = [schema, *schema["$defs"].values()]
    assert [n["title"] for n in nodes if n["additionalProperties"]] == []
    assert schema["properties"]["baselines"]["items"]["enum"] == list(BASELINES)
    epochs = schema["$defs"]["TrainConfig"]["properties"]["epochs"]
    assert epochs["type"] == "integer"
    assert epochs["default"] == TrainConfig().epochs
    assert epochs["description"] == field_docs(TrainConfig)["epochs"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"writers": 0}, "`writers`: 0: Input should be greater than or equal to 1"),
        ({"poll_seconds": "2"}, "`poll_seconds`: '2' is no float"),
        ({"replica": 2}, "unknown key `replica` (did you mean `replicas`?)"),
        ({"clock": "sun"}, "`clock`: 'sun': Input should be 'wall' or 'replay'"),
    ],
)
def test_the_args_of_the_application_are_checked_likewise(
    args: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        typed(ServeConfig, args, what="args of the prerank application")
    assert str(raised.value).startswith(f"args of the prerank application: {message}")


def test_typed_builds_nested_sections() -> None:
    built = typed(TrainConfig, {"loss": {"softmax": 0.5}}, "train")
    assert built.loss == LossConfig(softmax=0.5)
