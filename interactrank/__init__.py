"""InteractRank: two towers fused with engagement cross features (WWW'25, arXiv 2504.06609).

The package knows torch and numpy-class libraries only, so that the model, its training step and
its kernels can be read, tested and measured alone.

``__all__`` is the public surface. Each name is imported when it is first asked for, so that
importing the package, as every import of a module of it does, loads neither torch nor numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interactrank.features.batch import Batch, RequestArrays, collate
    from interactrank.features.catalogue import Catalogue
    from interactrank.features.schema import FeatureSchema
    from interactrank.model.config import ModelConfig
    from interactrank.model.interactrank import InteractRank
    from interactrank.model.scorer import Scored, Scorer
    from interactrank.training.losses import LossConfig
    from interactrank.training.trainer import TrainConfig, Trainer

__all__ = [
    "Batch",
    "Catalogue",
    "FeatureSchema",
    "InteractRank",
    "LossConfig",
    "ModelConfig",
    "RequestArrays",
    "Scored",
    "Scorer",
    "TrainConfig",
    "Trainer",
    "collate",
]

_MODULES = {
    "features.batch": ("Batch", "RequestArrays", "collate"),
    "features.catalogue": ("Catalogue",),
    "features.schema": ("FeatureSchema",),
    "model.config": ("ModelConfig",),
    "model.interactrank": ("InteractRank",),
    "model.scorer": ("Scored", "Scorer"),
    "training.losses": ("LossConfig",),
    "training.trainer": ("TrainConfig", "Trainer"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
