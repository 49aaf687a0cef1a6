"""MLflow: where runs go, and what a job's run records."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.core.redact import redact

EXPERIMENT = "prerank"
SERVER_SECONDS = 60.0
URI_ENV = "MLFLOW_TRACKING_URI"


def tracking_uri(home: Home) -> str:
    """MLFLOW_TRACKING_URI, else the embedded SQLite store under ``home``."""
    uri = os.environ.get(URI_ENV)
    if uri:
        return uri
    home.mlflow.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{home.mlflow / 'mlflow.db'}"


def is_there(home: Home) -> bool:
    """Whether ``home`` has an MLflow: one that the environment names, or a store of its own."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (home.mlflow / "mlflow.db").exists()


def await_server(uri: str) -> None:
    """Wait for an MLflow server that is only just starting; other URIs need none.

    Raises:
        NotReadyError: it does not answer within a minute.
    """
    if not uri.startswith("http"):
        return
    deadline = time.monotonic() + SERVER_SECONDS
    while True:
        try:
            if httpx.get(f"{uri}/health", timeout=5.0).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"no MLflow server answers at MLFLOW_TRACKING_URI={redact(uri)}: start one as the "
                "README says, or unset the variable to use the embedded store."
            )
        time.sleep(0.5)


def use(home: Home) -> str:
    """Point MLflow at the tracking server, whether or not it answers; returns the URI."""
    import mlflow

    uri = tracking_uri(home)
    mlflow.set_tracking_uri(uri)
    return uri


def connect(home: Home) -> str:
    """Point MLflow at the tracking server and make the experiment; returns the URI.

    Raises:
        NotReadyError: the server does not answer within a minute.
    """
    import mlflow

    uri = tracking_uri(home)
    await_server(uri)
    mlflow.set_tracking_uri(uri)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        # Without a server there is nobody to proxy artifacts, and MLflow's own default is a
        # relative folder: name the place.
        embedded = uri.startswith("sqlite:")
        location = (home.mlflow / "artifacts").as_uri() if embedded else None
        mlflow.create_experiment(EXPERIMENT, artifact_location=location)
    mlflow.set_experiment(EXPERIMENT)
    return uri


@contextmanager
def job_run(
    home: Home, name: str, params: dict[str, Any], config: dict[str, Any], run_id: str | None = None
) -> Iterator[str]:
    """One MLflow run for a job: parameters, the whole config, and the data's fingerprint.

    ``run_id`` is of a job that was cut off, whose run goes on; None begins one.
    """
    import mlflow

    connect(home)
    with mlflow.start_run(run_id, run_name=name) as run:
        mlflow.log_params(params)
        mlflow.log_dict(config, "config.json")
        yield str(run.info.run_id)


def known(run_id: str | None) -> str | None:
    """``run_id``, if MLflow has that run; else None."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return run_id and str(MlflowClient().get_run(run_id).info.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def metric_name(name: str) -> str:
    """A metric's name as MLflow takes it: no "@"."""
    return name.replace("@", "_at_")


def log_results(metrics: dict[str, Any], files: list[Path]) -> None:
    """Log a report's metrics (``<model>.<metric>``) and files to the active run."""
    import mlflow

    flat = {
        f"{model}.{metric_name(name)}": float(value)
        for model, values in metrics.items()
        for name, value in values.items()
        if isinstance(value, (int, float))
    }
    mlflow.log_metrics(flat)
    for file in files:
        mlflow.log_artifact(str(file))
