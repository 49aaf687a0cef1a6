"""MLflow's loader of a model version: ``mlflow.pyfunc.load_model("models:/prerank@champion")``.

A version alone has no features to score with, so what is loaded answers what a version can answer
by itself (its meta data) and says where scores come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prerank.core.errors import NotReadyError
from prerank.registry.bundle import Bundle, load_bundle


class LoadedModel:
    """A bundle behind MLflow's pyfunc interface."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Refuse, naming the way to get scores.

        Raises:
            NotReadyError: always.
        """
        raise NotReadyError(
            "a score needs the online store's features and the item index, which MLflow has not: "
            "POST the request to /v1/prerank of the deployment (deployments/prerank.yaml)."
        )


def _load_pyfunc(path: str) -> LoadedModel:
    """Called by MLflow with the data folder."""
    return LoadedModel(load_bundle(Path(path)))
