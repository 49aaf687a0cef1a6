"""The feature schemas that live side by side in a home, and which of them are still needed.

A model reads features of the schema that it was trained with. Feature tables, feature views and
what is written down of the online store are therefore named by schema: when the log's schema
changes, the live model's features stay as they are until no model version needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import DataError, StateError
from prerank.core.files import read_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest

REBUILD = "`prerank features` and then `prerank materialise`"
FOLDER = "[0-9a-f]*"
"""Folders named by a schema; not those that are being written, whose names begin with a dot."""


def described(schema: FeatureSchema) -> dict[str, Any]:
    """A schema as the manifest of its tables has it, and the state of what of them is online."""
    views = {"engagement": schema.engagement_view, "user_history": schema.history_view}
    if schema.graph:
        views["item_neighbours"] = schema.neighbours_view
    return {"schema": schema.to_dict(), "schema_hash": schema.hash(), "views": views}


def manifests(home: Home) -> dict[str, dict[str, Any]]:
    """Manifest of each schema's feature tables, by schema hash."""
    found = sorted(home.features.glob(f"{FOLDER}/manifest.json"))
    return {path.parent.name: read_json(path) for path in found}


def tables_of_log(home: Home) -> Path:
    """Folder of the feature tables of the log's present schema.

    Raises:
        StateError: nothing was ingested.
    """
    return home.features_of(LogManifest.load(home).schema.hash())


def manifest_of_log(home: Home) -> dict[str, Any]:
    """Manifest of the feature tables of the log's present schema.

    Raises:
        StateError: nothing was ingested, or the features were not built since.
    """
    folder = tables_of_log(home)
    features = home.read_json(folder / "manifest.json", "prerank features")
    if not home.has_made(features):
        raise StateError(f"{folder} is of a log that was replaced. Run {REBUILD}.")
    return features


def require_features(home: Home, manifest: LogManifest) -> None:
    """Refuse feature tables that do not know the events of the log in ``manifest``.

    Raises:
        StateError: there are none, or they are of a log that was replaced.
        DataError: they are of this log before it grew.
    """
    if manifest_of_log(home)["fingerprint"] != manifest.fingerprint:
        raise DataError("the features were built from another log. Run `prerank features` again.")


def published_us(home: Home) -> int:
    """Last cutoff that was published of this log, with any schema; microseconds, 0 for none."""
    found = [*manifests(home).values()]
    # Homes of earlier releases have one schema's tables, without a folder of its own.
    if (path := home.features / "manifest.json").exists():
        found.append(home.read_json(path, "prerank features"))
    return max((int(m["last_cutoff_us"]) for m in found if home.has_made(m)), default=0)


def online_state(home: Home, schema_hash: str) -> dict[str, Any]:
    """What ``prerank materialise`` wrote down of a schema's features.

    Raises:
        StateError: they are not online; the message holds the remedy.
    """
    path = home.materialised_of(schema_hash)
    if path.exists():
        return home.read_json(path, "prerank materialise")
    now = LogManifest.load(home).schema.hash()
    if now == schema_hash:
        raise StateError(f"features of schema {schema_hash} are not online. Run {REBUILD}.")
    raise StateError(
        f"features of schema {schema_hash} are not online, and the log has schema {now} now. "
        f"Train again, or ingest the log with the mapping of then and run {REBUILD}."
    )


def state_files(home: Home) -> list[Path]:
    """Where it is written down what is online, one file for each schema."""
    return sorted(home.feast.glob("materialised-*.json"))


def online_states(home: Home) -> list[dict[str, Any]]:
    """What is written down of every schema that is online."""
    return [read_json(path) for path in state_files(home)]


def needed(home: Home) -> set[str]:
    """Schemas of the log and of every model version with files or an item index in this home."""
    found = {LogManifest.load(home).schema.hash()}
    for path in (*home.models.glob("*/model.json"), *home.index.glob("*/index.json")):
        found.add(str(read_json(path)["schema_hash"]))
    return found


def engagements(home: Home) -> set[str]:
    """Actions that enter a history of some schema: the log's, or one that has feature tables."""
    schemas = [manifest["schema"] for manifest in manifests(home).values()]
    if home.manifest.exists():
        schemas.append(LogManifest.load(home).schema.to_dict())
    return {a for schema in schemas for a in schema["actions"] if a not in schema["passive"]}
