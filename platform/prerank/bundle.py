"""A model version as files: safetensors weights, JSON meta data, the catalogue. No pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from interactrank.catalogue import Catalogue
from interactrank.model import InteractRank, ModelConfig
from interactrank.schema import FeatureSchema
from prerank.errors import StateError

WEIGHTS, META, CATALOGUE = "weights.safetensors", "model.json", "catalogue.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A loaded model version. ``meta`` is model.json: config, schema, hash, window, metrics."""

    model: InteractRank
    schema: FeatureSchema
    catalogue: Catalogue
    meta: dict[str, Any]


def save_bundle(
    folder: Path, model: InteractRank, catalogue: Catalogue, meta: dict[str, Any]
) -> None:
    """Write a model version's files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    # save_model writes the embeddings that both towers share once.
    save_model(model, str(folder / WEIGHTS))
    catalogue.save(folder / CATALOGUE)
    full = {
        **meta,
        "model": model.config.to_dict(),
        "schema": model.schema.to_dict(),
        "schema_hash": model.schema.hash(),
        "cross_features": model.schema.cross,
        "code_version": version("interactrank-platform"),
    }
    (folder / META).write_text(json.dumps(full, indent=2, default=str) + "\n")


def load_bundle(folder: Path) -> Bundle:
    """Read what :func:`save_bundle` wrote.

    Raises:
        StateError: the model was written for another feature schema than this code computes.
    """
    meta = json.loads((folder / META).read_text())
    schema = FeatureSchema.from_dict(meta["schema"])
    if schema.hash() != meta["schema_hash"]:
        lost = [name for name in meta["cross_features"] if name not in schema.cross]
        raise StateError(
            f"the model in {folder} was trained with feature schema {meta['schema_hash']}, this "
            f"code computes {schema.hash()}{' without ' + ', '.join(lost) if lost else ''}: "
            f"install the code version {meta['code_version']}, or train again."
        )
    catalogue = Catalogue.load(folder / CATALOGUE)
    model = InteractRank(ModelConfig.from_dict(meta["model"]), schema, catalogue)
    load_model(model, folder / WEIGHTS)
    return Bundle(model.eval(), schema, catalogue, meta)
