"""The registered model versions, as a list to choose from."""

from __future__ import annotations

from dataclasses import dataclass

from prerank.core.times import iso
from prerank.registry.bundle import Version
from prerank.registry.versions import MODEL_NAME, away

MAX_LISTED = 50


@dataclass(frozen=True)
class Listed:
    """A registered version: its ``aliases``, and when it was ``created`` (ISO 8601)."""

    version: Version
    aliases: tuple[str, ...]
    created: str


def listed_versions(limit: int = MAX_LISTED) -> list[Listed]:
    """The newest registered versions, newest first; none where nothing is registered.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        # Numbers are texts there, which the registry's own order would sort as such.
        versions = client.search_model_versions(f"name = '{MODEL_NAME}'")
        if not versions:
            return []
        aliases = client.get_registered_model(MODEL_NAME).aliases
    except MlflowException as error:
        raise away(f"asked for the versions of {MODEL_NAME}", error) from None
    newest = sorted(versions, key=lambda v: int(v.version), reverse=True)[:limit]
    return [
        Listed(
            Version(str(v.version), v.run_id or ""),
            tuple(sorted(a for a, number in aliases.items() if str(number) == str(v.version))),
            iso(1000 * int(v.creation_timestamp)) or "",
        )
        for v in newest
    ]
