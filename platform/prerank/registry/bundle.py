"""A model version as files: safetensors weights, JSON meta data, the catalogue. No pickle.

The number of a version does not tell whose it is: every registry counts from 1. Files are therefore
kept by number and run (``Version.name``), and what belongs together names the SHA-256 of the
weights: the bundle's meta data and the item index that was made with them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.architectures import architecture, build, config_of
from interactrank.model.interactrank import InteractRank
from prerank import __version__
from prerank.core.errors import ConfigError, DamagedError, StateError
from prerank.core.files import read_json, write_json
from prerank.core.settings import typed

WEIGHTS, META, CATALOGUE = "weights.safetensors", "model.json", "catalogue.safetensors"
DIGEST = "weights_sha256"
"""Name of the weights' digest in the meta data of a bundle and of an index."""


@dataclass(frozen=True)
class Version:
    """A registered model version. ``str()`` gives the number, which is what people say.

    Attributes:
        number: in its registry, from "1" on.
        run_id: of the MLflow run that registered it, which no other registry has.
    """

    number: str
    run_id: str

    def __str__(self) -> str:
        return self.number

    @property
    def name(self) -> str:
        """Name of the version's folders."""
        return f"{self.number}-{self.run_id[:8]}"


@dataclass(frozen=True)
class Bundle:
    """A loaded model version.

    Attributes:
        meta: what model.json holds: config, schema, hash, window, metrics.
        digest: SHA-256 of the weights.
    """

    model: InteractRank
    schema: FeatureSchema
    catalogue: Catalogue
    meta: dict[str, Any]
    digest: str


def save_bundle(
    folder: Path, model: InteractRank, catalogue: Catalogue, meta: dict[str, Any]
) -> None:
    """Write a model version's files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    # save_model writes the embeddings that both towers share once.
    save_model(model, str(folder / WEIGHTS))
    catalogue.save(folder / CATALOGUE)
    own = {
        "architecture": architecture(model.config),
        "model": model.config.to_dict(),
        DIGEST: digest_of(folder / WEIGHTS),
    }
    write_meta(folder, model.schema, {**meta, **own})


def write_meta(folder: Path, schema: FeatureSchema, meta: dict[str, Any]) -> None:
    """Write model.json: what a ranker was fitted on, so that no other schema feeds it."""
    full = {
        **meta,
        "schema": schema.to_dict(),
        "schema_hash": schema.hash(),
        "cross_features": schema.cross,
        "code_version": __version__,
    }
    write_json(folder / META, full)


def digest_of(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_meta(folder: Path) -> tuple[FeatureSchema, dict[str, Any]]:
    """Read what ``write_meta`` wrote.

    Raises:
        StateError: the model was written for another feature schema than this code computes; or
            the file is damaged (DamagedError).
    """
    try:
        meta = read_json(folder / META)
    except DamagedError as error:
        raise DamagedError(f"{error} Remove {folder}: it is then downloaded again.") from None
    try:
        schema = typed(FeatureSchema, meta["schema"], what="schema")
    except ConfigError as error:
        raise _earlier_release(folder, meta, f"its feature schema differs ({error})") from error
    if schema.hash() != meta["schema_hash"]:
        lost = [name for name in meta["cross_features"] if name not in schema.cross]
        raise _earlier_release(
            folder,
            meta,
            f"it reads features {meta['schema_hash']}, this release computes {schema.hash()}"
            f"{' without ' + ', '.join(lost) if lost else ''}",
        )
    return schema, meta


def load_bundle(folder: Path) -> Bundle:
    """Read what ``save_bundle`` wrote.

    Raises:
        StateError: the model was written for another feature schema than this code computes, or
            its parts and weights have other names or sizes than this code gives them; or the
            weights are not those that were saved.
    """
    schema, meta = read_meta(folder)
    digest = digest_of(folder / WEIGHTS)
    # An earlier release wrote none.
    if meta.get(DIGEST, digest) != digest:
        raise StateError(
            f"{folder / WEIGHTS} does not match its checksum: it is damaged. Remove {folder}: it "
            "is then downloaded again."
        )
    try:
        catalogue = Catalogue.load(folder / CATALOGUE)
        config = config_of(meta.get("architecture", "interactrank"), meta["model"])
    except (TypeError, ValueError) as error:
        raise _earlier_release(folder, meta, str(error)) from error
    model = build(config, schema, catalogue)
    try:
        missing, unknown = load_model(model, folder / WEIGHTS, strict=False)
    except RuntimeError:
        raise _earlier_release(folder, meta, "its weights have other sizes") from None
    if missing or unknown:
        names = ", ".join(sorted({*missing, *unknown}))
        raise _earlier_release(folder, meta, f"its weights have other names ({names})")
    return Bundle(model.eval(), schema, catalogue, meta, digest)


def _earlier_release(folder: Path, meta: dict[str, Any], what: str) -> StateError:
    """The error of a version whose parts have other names or sizes than this code gives them."""
    return StateError(
        f"the model in {folder} was trained by an earlier release: {what}. Train and register it "
        f"anew, or stay on the release that made it ({meta.get('code_version', 'not recorded')})."
    )
