"""Item vectors in MLflow: each version of the model ``prerank-embedding`` is a snapshot's.

For those who use vectors elsewhere: in retrieval, in another ranker. The platform's own serving and
training read the snapshot's file. A version is safetensors and JSON; its tags tell its cutoff,
schema, items, width and digest, and a version of the ranker names the cutoff of the last snapshot
that it was trained with (``EMBEDDING_CUTOFF``). Vectors of two versions do not compare.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from interactrank.features.item_vectors import ItemVectors
from interactrank.features.schema import FeatureSchema
from prerank import __version__
from prerank.core.errors import DamagedError
from prerank.core.files import read_json, write_json
from prerank.core.graphs import Graphs, cutoff_of
from prerank.core.home import Home
from prerank.core.quiet import muted
from prerank.registry import tracking
from prerank.registry.bundle import Version, digest_of
from prerank.registry.versions import REQUIREMENTS, away

EMBEDDING = "prerank-embedding"
EMBEDDING_CUTOFF = "embedding_cutoff_us"
"""Tag of versions of both models: a cutoff, microseconds since 1970."""
VECTORS, META = "vectors.safetensors", "embedding.json"
DIGEST = "vectors_sha256"
NAMED = (EMBEDDING_CUTOFF, "schema_hash", "items", "dim", DIGEST)
"""What the meta data and the tags of a version tell."""


def save_embedding(
    folder: Path, vectors: ItemVectors, cutoff_us: int, schema: FeatureSchema
) -> dict[str, Any]:
    """Write the vectors of a snapshot into ``folder``; returns the meta data."""
    bits = torch.from_numpy(vectors.bits.copy().view(np.int16)).view(torch.bfloat16)
    ids = torch.from_numpy(vectors.ids.copy())
    save_file({"item_ids": ids, "vectors": bits}, str(folder / VECTORS))
    meta = {
        EMBEDDING_CUTOFF: cutoff_us,
        "schema_hash": schema.hash(),
        "items": len(vectors.ids),
        "dim": vectors.width,
        DIGEST: digest_of(folder / VECTORS),
        "code_version": __version__,
    }
    write_json(folder / META, meta)
    return meta


def load_embedding(folder: Path) -> tuple[ItemVectors, dict[str, Any]]:
    """Vectors and meta data of what ``save_embedding`` wrote.

    Raises:
        DamagedError: the vectors are not those that the meta data names.
    """
    meta = read_json(folder / META)
    if digest_of(folder / VECTORS) != meta[DIGEST]:
        raise DamagedError(f"{folder / VECTORS} is damaged: download the version again.")
    found = load_file(folder / VECTORS)
    bits = found["vectors"].view(torch.int16).numpy().view(np.uint16)
    return ItemVectors(found["item_ids"].numpy(), bits), meta


def register_embedding(
    home: Home, vectors: ItemVectors, cutoff_us: int, schema: FeatureSchema
) -> tuple[Version, bool]:
    """Register the vectors of a snapshot; returns the version, and whether it is a new one.

    Raises:
        NotReadyError: no MLflow server answers.
    """
    from mlflow import MlflowClient, pyfunc
    from mlflow.exceptions import MlflowException

    tracking.connect(home)
    with tempfile.TemporaryDirectory() as folder:
        meta = save_embedding(Path(folder), vectors, cutoff_us, schema)
        tags = {name: str(meta[name]) for name in NAMED}
        if (there := _version_with(tags)) is not None:
            return there, False
        with tracking.job_run(home, "embed", tags, meta) as run_id, muted():
            info = pyfunc.log_model(
                name="embedding",
                loader_module=__name__,
                data_path=folder,
                pip_requirements=list(REQUIREMENTS),
                registered_model_name=EMBEDDING,
            )
    number, client = str(info.registered_model_version), MlflowClient()
    try:
        for name, text in tags.items():
            client.set_model_version_tag(EMBEDDING, number, name, text)
    except MlflowException as error:
        raise away(f"told the tags of {EMBEDDING} version {number}", error) from None
    return Version(number, run_id), True


def _version_with(tags: dict[str, str]) -> Version | None:
    """The version that has all these tags, if there is one."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        found = MlflowClient().search_model_versions(f"name='{EMBEDDING}'")
    except MlflowException as error:
        raise away(f"asked for versions of {EMBEDDING}", error) from None
    same = [v for v in found if tags.items() <= v.tags.items()]
    return Version(str(same[0].version), same[0].run_id or "") if same else None


def last_snapshot_us(home: Home, schema: FeatureSchema, before_us: int) -> int:
    """Cutoff of the last snapshot of the item graph that a request of before a time took; 0 where
    none did. Microseconds since 1970.
    """
    if not schema.graph:
        return 0
    tables = home.features_of(schema.hash())
    lag_minutes = read_json(tables / "manifest.json")["lag_minutes"]
    known = Graphs.of(tables, lag_minutes).published_by(before_us - 1).files
    return cutoff_of(known[-1]) if known else 0


class LoadedEmbedding:
    """Vectors behind MLflow's pyfunc interface."""

    def __init__(self, vectors: ItemVectors) -> None:
        self.vectors = vectors

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """Unit vectors float32 [n, dim] of n item ids; zeros where there is none."""
        return self.vectors.of(np.asarray(data, np.int64).reshape(-1))


def _load_pyfunc(path: str) -> LoadedEmbedding:
    """Called by MLflow with the data folder."""
    return LoadedEmbedding(load_embedding(Path(path))[0])
