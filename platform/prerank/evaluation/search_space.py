"""Which settings `prerank tune` tries, and in which bounds: declared once, here.

A YAML file may replace, add or take out (null) settings:

    train.learning_rate: {low: 0.0005, high: 0.01, log: true}
    train.batch_requests: {choices: [128, 256, 512]}
    model.fusion_hidden: null
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter, ValidationError

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.errors import ConfigError
from prerank.core.settings import read_yaml, typed

if TYPE_CHECKING:
    from optuna import Trial

Value = bool | int | float | str


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; with ``log`` each factor is as likely. Integers where both
    ends are integers.
    """

    low: int | float
    high: int | float
    log: bool = False

    def suggest(self, trial: Trial, name: str) -> Value:
        """A value of a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def wrong(self) -> str:
        """What is wrong with the bounds; empty if nothing is."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            return "low must be below high, and both finite"
        return "with log, low must be above 0" if self.log and self.low <= 0 else ""


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    choices: tuple[Value, ...]

    def suggest(self, trial: Trial, name: str) -> Value:
        """A value of a trial."""
        return cast(Value, trial.suggest_categorical(name, self.choices))

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.choices

    def wrong(self) -> str:
        """What is wrong with the choices; empty if nothing is."""
        return "" if len(set(self.choices)) > 1 else "at least two different choices are needed"


Setting = Range | Choice
Space = Mapping[str, Setting]

SPACE: dict[str, Setting] = {
    "train.learning_rate": Range(5e-4, 1e-2, log=True),
    "train.fusion_learning_rate": Range(1e-2, 1e-1, log=True),
    "train.weight_decay": Range(1e-6, 1e-2, log=True),
    "train.batch_requests": Choice((128, 256, 512)),
    "train.loss.softmax": Range(0.01, 1.0, log=True),
    "model.dropout": Range(0.0, 0.2),
    "model.id_dropout": Range(0.0, 0.3),
    "model.fusion_hidden": Choice((0, 8, 16, 32)),
}
"""Of one batch of requests a core, and of models that cost a candidate about as much as the default
one: width and layers are left to who knows what a request may take."""


def load_space(path: Path | None) -> dict[str, Setting]:
    """The settings that are declared here, as a YAML file changes them; None changes nothing.

    Raises:
        ConfigError: the file is unreadable, or a setting has wrong bounds; the message names it.
    """
    space = dict(SPACE)
    if path is None:
        return space
    found = read_yaml(path, "space")
    if not isinstance(found, dict):
        raise ConfigError(f"space {path}: give settings, such as `train.learning_rate: {{…}}`.")
    for name, told in found.items():
        if told is None:
            space.pop(name, None)
            continue
        try:
            space[name] = TypeAdapter(Setting).validate_python(told)
        except ValidationError:
            raise ConfigError(
                f"space {path}: {name}: give {{low: …, high: …, log: true}} or {{choices: […]}}."
            ) from None
        if wrong := space[name].wrong():
            raise ConfigError(f"space {path}: {name}: {wrong}.")
    return space


def defaults(space: Space, model: ModelConfig, train: TrainConfig) -> dict[str, Value]:
    """What a configuration has for each setting; the search begins there.

    Raises:
        ConfigError: there is no such setting, or the space leaves the configuration out.
    """
    plain = {"model": model.to_dict(), "train": asdict(train)}
    found = {}
    for name, setting in space.items():
        at: Any = plain
        for key in name.split("."):
            at = at.get(key) if isinstance(at, dict) else None
        if at is None or isinstance(at, (dict, tuple, list)):
            raise ConfigError(
                f"space: {name}: no such setting; `prerank config` prints those of `model` and "
                "`train`, such as train.loss.softmax."
            )
        if not setting.holds(at):
            raise ConfigError(
                f"space: {name}: the configuration has {at}, which {setting} leaves out. Include "
                "it: the search begins there, and compares with it."
            )
        found[name] = at
    if not found:
        raise ConfigError("space: nothing is left to try.")
    return found


def applied(
    values: Mapping[str, Value], model: ModelConfig, train: TrainConfig
) -> tuple[ModelConfig, TrainConfig]:
    """A configuration with the values of a trial.

    Raises:
        ConfigError: a value is of another type than the setting's.
    """
    plain: dict[str, Any] = {"model": model.to_dict(), "train": asdict(train)}
    for name, value in values.items():
        *parents, last = name.split(".")
        at = plain
        for key in parents:
            at = at[key]
        at[last] = value
    return typed(ModelConfig, plain["model"], "model"), typed(TrainConfig, plain["train"], "train")
