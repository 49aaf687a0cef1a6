"""InteractRank: two towers fused with engagement cross features (WWW'25, arXiv 2504.06609).

The package knows torch and numpy-class libraries only, so that the model, its training step and
its kernels can be read, tested and measured alone.

``__all__`` is the public surface. Each name is imported when it is first asked for, so that
importing the package, as every import of a module of it does, loads neither torch nor numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interactrank.lazy import lazy

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

_MODULE_OF = {
    "Batch": "features.batch",
    "Catalogue": "features.catalogue",
    "FeatureSchema": "features.schema",
    "InteractRank": "model.interactrank",
    "LossConfig": "training.losses",
    "ModelConfig": "model.config",
    "RequestArrays": "features.batch",
    "Scored": "model.scorer",
    "Scorer": "model.scorer",
    "TrainConfig": "training.trainer",
    "Trainer": "training.trainer",
    "collate": "features.batch",
}
__getattr__, __dir__ = lazy(__name__, _MODULE_OF)
