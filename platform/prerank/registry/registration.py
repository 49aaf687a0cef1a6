"""Registering a bundle as a model version in MLflow, and naming its item index there."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prerank.core.quiet import muted
from prerank.registry.bundle import Version, read_meta
from prerank.registry.versions import CHALLENGER, MODEL_NAME, REQUIREMENTS, away

ARTIFACT = "model"
INDEX_DIGEST = "index_sha256"
"""Tag of a model version: the digest of the item vectors that were made with it."""


def register(
    folder: Path, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]
) -> Version:
    """Log a bundle folder under a run, register it and make it the challenger.

    A run has one version: of one that was cut off here, what is missing is done.

    Args:
        folder: what ``prerank.registry.bundle.save_bundle`` wrote.
        run_id: the MLflow run that trained it.
        metrics: logged to the run beside the model.
        tags: of the model version.

    Returns:
        The new version.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    number = _number_of(run_id) or _logged(folder, run_id)
    for name, text in tags.items():
        client.set_model_version_tag(MODEL_NAME, number, name, text)
    client.set_registered_model_alias(MODEL_NAME, CHALLENGER, number)
    return Version(number, run_id)


def _logged(folder: Path, run_id: str) -> str:
    """Log a bundle folder as a run's model, and register it; its number."""
    import mlflow

    from prerank.registry.golden import load_golden
    from prerank.registry.pyfunc import frame_of, signature_of

    schema, meta = read_meta(folder)
    golden = load_golden(folder, schema, meta)
    with muted(), warnings.catch_warnings(), mlflow.start_run(run_id=run_id):
        # There is none of a version without golden requests.
        warnings.filterwarnings("ignore", ".*An input example was not provided")
        info = mlflow.pyfunc.log_model(
            name=ARTIFACT,
            loader_module="prerank.registry.pyfunc",
            data_path=str(folder),
            pip_requirements=list(REQUIREMENTS),
            signature=signature_of(schema),
            input_example=None if golden is None else frame_of(golden, schema, 1),
            registered_model_name=MODEL_NAME,
        )
    return str(info.registered_model_version)


def _number_of(run_id: str) -> str | None:
    """Number of the version that a run registered; None where it has none."""
    from mlflow import MlflowClient

    found = MlflowClient().search_model_versions(f"name='{MODEL_NAME}' and run_id='{run_id}'")
    return str(found[0].version) if found else None


def name_index(version: Version, index: Mapping[str, Any]) -> None:
    """Tag a model version with the digest of its item index, as the index names its weights.

    The index is built after the version is registered, and may be built anew, in any home: the tag
    is that of the last one.

    Args:
        version: that is registered.
        index: meta data of its index (``prerank.registry.index.build_index``).

    Raises:
        RegistryAwayError: the MLflow server does not answer; the index stays.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        MlflowClient().set_model_version_tag(
            MODEL_NAME, version.number, INDEX_DIGEST, index["sha256"]
        )
    except MlflowException as error:
        raise away(f"told the index of {MODEL_NAME} version {version}", error) from None
