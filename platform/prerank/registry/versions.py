"""Model versions in MLflow: registering a bundle, following an alias, downloading a version.

A version is promoted by a person, who moves the alias ``champion`` in the MLflow UI.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prerank.core.errors import NotReadyError, RegistryAwayError, StateError
from prerank.core.feature_sets import REBUILD, online_states
from prerank.core.home import Home, replaced, write_json
from prerank.core.quiet import muted
from prerank.core.redact import redact
from prerank.registry.bundle import META, WEIGHTS

MODEL_NAME = "prerank"
CHAMPION, CHALLENGER = "champion", "challenger"
ARTIFACT = "model"
REQUIREMENTS = ("interactrank-platform",)
"""What a version needs; stated, because MLflow would otherwise load the model to infer it."""


def alias_version(alias: str) -> str | None:
    """Version that ``alias`` points to; None where nobody set it.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    try:
        return str(client.get_model_version_by_alias(MODEL_NAME, alias).version)
    except MlflowException as error:
        # An unknown model and an unknown alias are told apart by their text only; neither has one.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        message = (
            f"MLflow at {client.tracking_uri} cannot be asked for {MODEL_NAME}@{alias}: "
            f"{error.message.splitlines()[0]}. Check MLFLOW_TRACKING_URI and that the server runs."
        )
        raise RegistryAwayError(redact(message)) from None


@dataclass(frozen=True)
class Wanted:
    """The version to serve. ``note`` says why that is not certain; empty when the registry did."""

    alias: str
    version: str
    note: str = ""


class Promoted:
    """Which version is to be served: the champion, for as long as the registry can be asked.

    What was served last is written down, so that a replica that starts while the registry is away
    serves that version, whose files are on disk.

    Args:
        home: shared by the replicas.
        allow_unpromoted: the challenger will do while there is no champion.
    """

    def __init__(self, home: Home, allow_unpromoted: bool = False) -> None:
        self.home = home
        self.aliases = (CHAMPION, CHALLENGER) if allow_unpromoted else (CHAMPION,)
        self._path = home.models / "served.json"
        self._remembered: Wanted | None = None

    def wanted(self) -> Wanted:
        """The version to serve now.

        Raises:
            NotReadyError: there is none; or the registry is away and none was ever served.
        """
        try:
            for alias in self.aliases:
                if (version := alias_version(alias)) is not None:
                    return Wanted(alias, version)
        except RegistryAwayError as away:
            last = self.home.read_json(self._path, "") if self._path.exists() else {}
            if last.get("alias") not in self.aliases:
                raise
            note = f"version {last['version']} is served as the last known {last['alias']}: {away}"
            return Wanted(last["alias"], last["version"], note)
        raise NotReadyError(
            f"no model is {CHAMPION}. Promote one: in the MLflow UI, give a version of "
            f"`{MODEL_NAME}` the alias `{CHAMPION}`."
        )

    def remember(self, served: Wanted) -> None:
        """Write down what is served, where the registry named it."""
        if served != self._remembered and not served.note:
            write_json(self._path, {"alias": served.alias, "version": served.version})
            self._remembered = served


def download(home: Home, version: str) -> Path:
    """Folder of a version's bundle, fetched once and kept under ``models/<version>``.

    Raises:
        NotReadyError: MLflow is away, or the version holds no bundle.
    """
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    folder = home.models / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Replicas on one machine share the folder: one fetches, the others wait and find it there.
    with (folder.parent / f".{version}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / META).exists():
            return folder
        try:
            source = MlflowClient().get_model_version_download_uri(MODEL_NAME, version)
            with replaced(folder) as out:
                fetched = Path(download_artifacts(source, dst_path=str(out / "fetched")))
                bundle = _bundle_in(fetched, version)
                for path in bundle.iterdir():
                    shutil.move(path, out / path.name)
                shutil.rmtree(out / "fetched")
        except (MlflowException, OSError) as error:
            message = f"model version {version} cannot be fetched: {error}"
            raise NotReadyError(redact(message)) from None
    return folder


def _bundle_in(folder: Path, version: str) -> Path:
    found = sorted(p.parent for p in folder.rglob(WEIGHTS))
    if not found:
        raise NotReadyError(
            f"model version {version} holds no {WEIGHTS}: it was not registered by `prerank`."
        )
    return found[0]


def register(
    folder: Path, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    """Log a bundle folder under a run, register it and make it the challenger.

    Args:
        folder: what ``prerank.registry.bundle.save_bundle`` wrote.
        run_id: the MLflow run that trained it.
        metrics: logged to the run beside the model.
        tags: of the model version.

    Returns:
        The new version.
    """
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient()
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    with muted(), mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name=ARTIFACT,
            loader_module="prerank.registry.pyfunc",
            data_path=str(folder),
            pip_requirements=list(REQUIREMENTS),
            registered_model_name=MODEL_NAME,
        )
    version = str(info.registered_model_version)
    for name, text in tags.items():
        client.set_model_version_tag(MODEL_NAME, version, name, text)
    client.set_registered_model_alias(MODEL_NAME, CHALLENGER, version)
    return version


def promote(home: Home, version: str) -> None:
    """Make a version the champion, which live replicas then follow within seconds.

    The MLflow UI can move the alias too; this looks first whether the version can be served.

    Raises:
        NotReadyError: the version has no item index.
        StateError: the version's feature columns are not those that are online.
    """
    from mlflow import MlflowClient

    from prerank.registry.bundle import load_bundle
    from prerank.registry.index import load_index

    schema = load_bundle(download(home, version)).schema
    load_index(home, version)
    if not home.materialised_of(schema.hash()).exists():
        there = {name for state in online_states(home) for name in state["cross_features"]}
        missing = sorted(set(schema.cross) - there) or ["(same names, other layout)"]
        raise StateError(
            f"version {version} needs feature columns that are not materialised: "
            f"{', '.join(missing)}. Run {REBUILD}, or train again."
        )
    MlflowClient().set_registered_model_alias(MODEL_NAME, CHAMPION, version)
