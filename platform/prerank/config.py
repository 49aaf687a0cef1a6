"""The job's configuration: one typed YAML, every key optional, unknown keys refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.errors import ConfigError
from prerank.core.settings import OnceLoader, typed
from prerank.evaluation.baselines.suite import BASELINES, DEFAULT
from prerank.features.build import FeatureConfig

SECTIONS: dict[str, type] = {
    "features": FeatureConfig,
    "model": ModelConfig,
    "train": TrainConfig,
}


class JobConfig:
    """``features``, ``model`` and ``train`` sections of a job, and the ``baselines`` it fits."""

    def __init__(
        self,
        features: FeatureConfig,
        model: ModelConfig,
        train: TrainConfig,
        baselines: tuple[str, ...] = DEFAULT,
    ) -> None:
        self.features, self.model, self.train, self.baselines = features, model, train, baselines

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
        known = [*SECTIONS, "baselines"]
        if unknown := sorted(map(str, set(data) - set(known))):
            raise ConfigError(f"config: unknown section {unknown}; known are {sorted(known)}")
        sections: dict[str, Any] = {}
        for name, kind in SECTIONS.items():
            sections[name] = typed(kind, {} if data.get(name) is None else data[name], name)
        return cls(**sections, baselines=_baselines(data.get("baselines", DEFAULT)))


def _baselines(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)):
        raise ConfigError(f"config baselines: {names!r} is no list of {sorted(BASELINES)}")
    if unknown := [n for n in names if n not in BASELINES]:
        raise ConfigError(f"config baselines: unknown {unknown}; known are {sorted(BASELINES)}")
    return tuple(dict.fromkeys(names))
