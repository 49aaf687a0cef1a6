"""Neural baselines that are trained, saved and measured as the model itself is.

A baseline that only leaves parts out is a ``interactrank.model.config.ModelConfig`` of
its own; one with another architecture has a class here, named in ``ARCHITECTURES``.
"""

from __future__ import annotations

from typing import Any

from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.model.inttower import IntTower, IntTowerConfig

ARCHITECTURES: dict[str, tuple[type[ModelConfig], type[InteractRank]]] = {
    "interactrank": (ModelConfig, InteractRank),
    "inttower": (IntTowerConfig, IntTower),
}


def architecture(config: ModelConfig) -> str:
    """Name of the architecture that a config is of."""
    return next(name for name, (kind, _) in ARCHITECTURES.items() if type(config) is kind)


def config_of(name: str, values: dict[str, Any]) -> ModelConfig:
    """The config of architecture ``name``, from ``to_dict``'s form.

    Raises:
        ValueError: the architecture, or a key of the config, is unknown; the message names it.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"model architecture {name!r} is unknown; known are {[*ARCHITECTURES]}")
    return ARCHITECTURES[name][0].from_dict(values)


def build(config: ModelConfig, schema: FeatureSchema, catalogue: Catalogue) -> InteractRank:
    """An untrained model of the config's architecture."""
    return ARCHITECTURES[architecture(config)][1](config, schema, catalogue)
