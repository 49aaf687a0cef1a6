"""A training that begins with the towers of an earlier version.

Ids are carried over item by item, since two catalogues have the same item in different rows. The
fusion begins anew: it was fitted on the validation requests of its own log, many of which are
validation requests of the grown one too, and so would flatter the epochs that they choose from.
The towers have seen training requests alone, which are training requests still.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.architectures import architecture
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.registry.bundle import Bundle

BY_ITEM = ("ids.weight", "trained")
"""Tables of a model that have a row for each item, and one for the unknown item before them."""
FITTED_ON_VALIDATION = "fusion."


def unlike(schema: FeatureSchema, config: ModelConfig, meta: Mapping[str, Any]) -> str:
    """Why a model of ``config`` cannot begin with a version's towers; empty where it can.

    Args:
        schema: of the log that is trained on.
        config: of the new model.
        meta: of the version's bundle.
    """
    if meta.get("architecture", "interactrank") != architecture(config):
        return "it has another architecture"
    if ModelConfig.from_dict(meta["model"]) != config:
        return "the `model` section of the configuration has changed"
    if meta["schema_hash"] != schema.hash():
        return "its features are others"
    return ""


def begin_warm(model: InteractRank, catalogue: Catalogue, bundle: Bundle) -> int:
    """Give ``model`` the towers of ``bundle``, which is not ``unlike`` it.

    Args:
        model: new, of the items of ``catalogue``.
        catalogue: of the log that is trained on.
        bundle: the earlier version.

    Returns:
        Items whose embeddings were carried over.
    """
    rows = torch.from_numpy(catalogue.table().rows(bundle.catalogue.ids))
    known = rows >= 0
    # Parameters that two names share come once.
    old, new = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in (bundle.model, model))
    with torch.no_grad():
        for name, own in new.items():
            if name in BY_ITEM:
                _carry(own, old[name], rows, known)
            elif not name.startswith(FITTED_ON_VALIDATION):
                own.copy_(old[name])
    return int(known.sum())


def _carry(new: Tensor, old: Tensor, rows: Tensor, known: Tensor) -> None:
    new[0] = old[0]
    new[rows[known] + 1] = old[1:][known]
