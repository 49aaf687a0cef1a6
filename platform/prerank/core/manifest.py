"""What an ingest wrote down of a log: the manifest that every later stage reads."""

from __future__ import annotations

from typing import Any

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import StateError
from prerank.core.home import Home

VERSION = 3
"""Version of the manifest, the canonical events and the catalogue."""

REMEDY = "use another --workdir, or start this one over with `prerank ingest --replace`."
RETRIEVER = {"retriever_score": "score", "retriever_rank": "rank"}
"""Optional event columns, and what they are called in the feature schema."""


def schema_of(manifest: dict[str, Any]) -> FeatureSchema:
    """The feature schema of an ingested log."""
    return FeatureSchema(
        actions=tuple(manifest["actions"]),
        passive=tuple(a for a in manifest["passive"] if a in manifest["actions"]),
        heads=tuple(manifest["head_order"]),
        item_numeric=tuple(manifest["numeric"]),
        segments=tuple(manifest.get("segments", ())),
        item_embedding=tuple(manifest.get("embedding", ())),
        retriever=tuple(manifest.get("retriever", ())),
    )


def same_version(manifest: dict[str, Any], home: Home) -> None:
    """Refuse canonical events of another version.

    Raises:
        StateError: they are.
    """
    if manifest["version"] != VERSION:
        raise StateError(f"{home.root} was ingested by another version: {REMEDY}")
