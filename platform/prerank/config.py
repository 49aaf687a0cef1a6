"""The job's configuration: one typed YAML, every key optional, unknown keys refused by name."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from interactrank.model import ModelConfig
from interactrank.trainer import TrainConfig
from prerank.errors import ConfigError
from prerank.features import FeatureConfig

T = TypeVar("T")
SECTIONS: dict[str, type] = {
    "features": FeatureConfig,
    "model": ModelConfig,
    "train": TrainConfig,
}


class JobConfig:
    """``features``, ``model`` and ``train`` sections of a job."""

    def __init__(self, features: FeatureConfig, model: ModelConfig, train: TrainConfig) -> None:
        self.features, self.model, self.train = features, model, train

    @classmethod
    def load(cls, path: Path | None) -> JobConfig:
        """Read a YAML file; None gives the defaults.

        Raises:
            ConfigError: unreadable, or a key is unknown; the message names it and the known ones.
        """
        data: Any = {}
        if path is not None:
            try:
                data = yaml.safe_load(path.read_text()) or {}
            except (OSError, yaml.YAMLError) as error:
                raise ConfigError(f"config {path}: {error}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"config {path}: a mapping of {sorted(SECTIONS)} is expected")
        if unknown := sorted(set(data) - set(SECTIONS)):
            raise ConfigError(f"config: unknown section {unknown}; known are {sorted(SECTIONS)}")
        return cls(**{name: typed(kind, data.get(name) or {}, name)
                      for name, kind in SECTIONS.items()})  # fmt: skip


def typed(kind: type[T], data: dict[str, Any], where: str) -> T:
    """Build a (nested) config dataclass from plain data.

    Raises:
        ConfigError: a key is unknown or a value has another type; the message names the key.
    """
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - known):
        raise ConfigError(f"config {where}: unknown key {unknown}; known are {sorted(known)}")
    values: dict[str, Any] = {}
    for key, value in data.items():
        hint = hints[key]
        if is_dataclass(hint) and isinstance(value, dict):
            values[key] = typed(hint, value, f"{where}.{key}")  # type: ignore[arg-type]
        elif hint in (int, float, bool) and (
            isinstance(value, bool) != (hint is bool) or not isinstance(value, (int, float))
        ):
            raise ConfigError(
                f"config {where}.{key}: {value!r} is no {hint.__name__}"
            )
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
