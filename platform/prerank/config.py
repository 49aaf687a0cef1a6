"""The job's configuration: one typed YAML, every key optional, unknown keys refused by name."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from interactrank.model.interactrank import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.errors import ConfigError
from prerank.evaluation.baselines.suite import DEFAULT, RIVALS
from prerank.features.build import FeatureConfig
from prerank.ingest.mapping import OnceLoader

T = TypeVar("T")
SECTIONS: dict[str, type] = {
    "features": FeatureConfig,
    "model": ModelConfig,
    "train": TrainConfig,
}


class JobConfig:
    """``features``, ``model`` and ``train`` sections of a job, and the ``rivals`` it fits."""

    def __init__(
        self, features: FeatureConfig, model: ModelConfig, train: TrainConfig,
        rivals: tuple[str, ...] = DEFAULT,
    ) -> None:  # fmt: skip
        self.features, self.model, self.train, self.rivals = features, model, train, rivals

    @classmethod
    def load(cls, path: Path | None) -> JobConfig:
        """Read a YAML file; None gives the defaults.

        Raises:
            ConfigError: unreadable, or a key is unknown; the message names it and the known ones.
        """
        data: Any = {}
        if path is not None:
            try:
                data = yaml.load(path.read_text(), Loader=OnceLoader) or {}
            except (OSError, yaml.YAMLError) as error:
                raise ConfigError(f"config {path}: {error}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"config {path}: a mapping of {sorted(SECTIONS)} is expected")
        return cls.of(data)

    @classmethod
    def of(cls, data: dict[str, Any]) -> JobConfig:
        """From the YAML's plain mapping; errors as in :meth:`load`."""
        known = [*SECTIONS, "rivals"]
        if unknown := sorted(map(str, set(data) - set(known))):
            raise ConfigError(f"config: unknown section {unknown}; known are {sorted(known)}")
        sections: dict[str, Any] = {}
        for name, kind in SECTIONS.items():
            sections[name] = typed(kind, {} if data.get(name) is None else data[name], name)
        return cls(**sections, rivals=_rivals(data.get("rivals", DEFAULT)))


def _rivals(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)):
        raise ConfigError(f"config rivals: {names!r} is no list of {sorted(RIVALS)}")
    if unknown := [n for n in names if n not in RIVALS]:
        raise ConfigError(f"config rivals: unknown {unknown}; known are {sorted(RIVALS)}")
    return tuple(dict.fromkeys(names))


def typed(kind: type[T], data: Any, where: str) -> T:
    """Build a (nested) config dataclass from plain data.

    Raises:
        ConfigError: a key is unknown or a value has another type; the message names the key.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"config {where}: {data!r} is no mapping of keys to values")
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(map(str, set(data) - known)):
        raise ConfigError(f"config {where}: unknown key {unknown}; known are {sorted(known)}")
    values = {k: _value(hints[k], v, f"{where}.{k}") for k, v in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"config {where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    options = get_args(hint)
    if get_origin(hint) is UnionType:
        if value is None and type(None) in options:
            return None
        (hint,) = (o for o in options if o is not type(None))
        options = get_args(hint)
    if is_dataclass(hint):
        return typed(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"config {where}: {value!r} is no list")
        return tuple(_value(options[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"config {where}: {value!r} is no {hint.__name__}")
    return value
