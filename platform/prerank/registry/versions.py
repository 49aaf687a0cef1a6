"""Model versions in MLflow: following an alias, downloading a version, promoting one.

A version is promoted by a person, who moves the alias ``champion`` in the MLflow UI.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prerank.core.errors import NotReadyError, RegistryAwayError, StateError
from prerank.core.feature_sets import REBUILD, online_states
from prerank.core.files import locked, read_json_or_nothing, replaced, write_json
from prerank.core.home import Home
from prerank.core.redact import redact
from prerank.registry.bundle import DIGEST, META, WEIGHTS, Version, read_meta

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException

MODEL_NAME = "prerank"
CHAMPION, CHALLENGER = "champion", "challenger"
TRAINED_UNTIL = "trained_until_us"
"""Tag of a model version: it learned from requests before this time, microseconds since 1970."""
REQUIREMENTS = ("interactrank-platform",)
"""What a version needs; stated, because MLflow would otherwise load the model to infer it."""


def alias_version(alias: str) -> Version | None:
    """Version that ``alias`` points to; None where nobody set it.

    Raises:
        RegistryAwayError: the MLflow server does not answer.
    """
    from mlflow import MlflowClient

    return _asked(lambda: MlflowClient().get_model_version_by_alias(MODEL_NAME, alias), alias)


def version_of(number: str) -> Version:
    """The registered version of this number.

    Raises:
        NotReadyError: there is none.
        RegistryAwayError: the MLflow server does not answer.
    """
    from mlflow import MlflowClient

    found = _asked(lambda: MlflowClient().get_model_version(MODEL_NAME, number), number)
    if found is None:
        raise NotReadyError(
            f"{MODEL_NAME} has no version {number} in MLflow at {MlflowClient().tracking_uri}. "
            "Give the number of a version that its UI lists."
        )
    return found


def _asked(ask: Callable[[], ModelVersion], what: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        found = ask()
    except MlflowException as error:
        # An unknown model and an unknown alias are told apart by their text only; neither has one.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise away(f"asked for {MODEL_NAME}@{what}", error) from None
    return Version(str(found.version), found.run_id or "")


def away(what: str, error: MlflowException) -> RegistryAwayError:
    """What to raise where MLflow cannot be ``what``, with the remedy."""
    from mlflow import MlflowClient

    return RegistryAwayError(
        redact(
            f"MLflow at {MlflowClient().tracking_uri} cannot be {what}: "
            f"{error.message.splitlines()[0]}. Check MLFLOW_TRACKING_URI and that the server runs."
        )
    )


@dataclass(frozen=True)
class Wanted:
    """The version to serve. ``note`` says why that is not certain; empty when the registry did."""

    alias: str
    version: Version
    note: str = ""


class Follows(Protocol):
    """Says which version is to be served."""

    def wanted(self) -> Wanted:
        """The version to serve now.

        Raises:
            NotReadyError: there is none, or the registry is away.
        """

    def remember(self, served: Wanted) -> None:
        """Take note of what is served."""

    def last(self) -> Wanted | None:
        """What was served last; None where that is not known."""


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
            if (last := self.last()) is None:
                raise
            return replace(last, note=f"{last.note}: {away}")
        raise NotReadyError(
            f"no model is {CHAMPION}. Promote one: in the MLflow UI, give a version of "
            f"`{MODEL_NAME}` the alias `{CHAMPION}`."
        )

    def last(self) -> Wanted | None:
        """What was served last; None where that is not known."""
        found = read_json_or_nothing(self._path)
        # Without a run it is an earlier release's, and whose version that was is not known.
        if found.get("alias") not in self.aliases or "run_id" not in found:
            return None
        version = Version(found["version"], found["run_id"])
        note = f"version {version} is served as the last known {found['alias']}"
        return Wanted(found["alias"], version, note)

    def remember(self, served: Wanted) -> None:
        """Write down what is served, where the registry named it."""
        if served != self._remembered and not served.note:
            version = {"version": served.version.number, "run_id": served.version.run_id}
            write_json(self._path, {"alias": served.alias, **version})
            self._remembered = served


def download(home: Home, version: Version) -> Path:
    """Folder of a version's bundle, fetched once and kept under ``models``.

    Raises:
        NotReadyError: MLflow is away, or the version holds no bundle.
    """
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    folder = home.models / version.name
    # Replicas share the folder: one fetches, the others wait and find it there.
    with locked(folder.with_name(f"{folder.name}.fetch")):
        if (folder / META).exists():
            return folder
        try:
            source = MlflowClient().get_model_version_download_uri(MODEL_NAME, version.number)
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


def _bundle_in(folder: Path, version: Version) -> Path:
    found = sorted(p.parent for p in folder.rglob(WEIGHTS))
    if not found:
        raise NotReadyError(
            f"model version {version} holds no {WEIGHTS}: it was not registered by `prerank`."
        )
    return found[0]


def servable(home: Home, version: Version) -> Path:
    """Folder of a version's bundle, if the index and the online features are those it needs.

    Compares meta data alone: neither the weights nor the vectors are read.

    Raises:
        NotReadyError: the version has no item index, or cannot be fetched.
        StateError: the index was built with other weights, or the version's feature columns are
            not online.
    """
    from prerank.registry.index import check_weights, index_meta

    # The index first: where it is missing, nothing need be fetched.
    index = index_meta(home, version)
    folder = download(home, version)
    schema, meta = read_meta(folder)
    if DIGEST in meta:
        check_weights(index, version, meta[DIGEST])
    if not home.materialised_of(schema.hash()).exists():
        there = {name for state in online_states(home) for name in state["cross_features"]}
        missing = sorted(set(schema.cross) - there) or ["(same names, other layout)"]
        raise StateError(
            f"version {version} needs feature columns that are not materialised: "
            f"{', '.join(missing)}. Run {REBUILD}, or train again."
        )
    return folder


def promote(home: Home, version: Version) -> None:
    """Make a version the champion, which live replicas then follow within seconds.

    The MLflow UI can move the alias too; this looks first whether the version can be served.

    Raises:
        NotReadyError: the version has no item index.
        StateError: the version's feature columns are not those that are online, its files are
            damaged or not of one version, or it does not score as it did at training.
    """
    from mlflow import MlflowClient

    from prerank.registry.bundle import load_bundle
    from prerank.registry.golden import load_golden, replay
    from prerank.registry.index import load_index, scorer_of

    folder = servable(home, version)
    bundle = load_bundle(folder)
    index = load_index(home, version, bundle.digest)
    if golden := load_golden(folder, bundle.schema, bundle.meta):
        replay(golden, scorer_of(bundle, index), version, index.others)
    MlflowClient().set_registered_model_alias(MODEL_NAME, CHAMPION, version.number)
