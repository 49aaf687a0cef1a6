"""Where state lives: every path under PRERANK_HOME, named once.

``PRERANK_HOME`` is an absolute path; object-store URIs are planned. A relative path is refused: in
a cluster job the working directory is a throw-away copy, so state written there would be lost.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prerank.core.errors import ConfigError, StateError

ENV, ID_ENV = "PRERANK_HOME", "PRERANK_HOME_ID"


@dataclass(frozen=True)
class Home:
    """Paths of one installation's state."""

    root: Path

    @classmethod
    def at(cls, root: str | os.PathLike[str]) -> Home:
        """Home at an absolute path.

        Raises:
            ConfigError: the path is relative.
        """
        path = Path(root).expanduser()
        if not path.is_absolute():
            raise ConfigError(
                f"{ENV}={root} is a relative path. Give an absolute one: a cluster job runs in a "
                "throw-away copy of the working directory, and what is written there is lost."
            )
        return cls(path)

    @classmethod
    def from_env(cls) -> Home:
        """Home named by the environment.

        Raises:
            ConfigError: PRERANK_HOME is unset or relative.
        """
        root = os.environ.get(ENV)
        if not root:
            raise ConfigError(f'{ENV} is not set. Run: eval "$(prerank env)"')
        return cls.at(root)

    def create(self) -> None:
        """Make the folder, for its owner alone: it holds what users searched for.

        A folder that is there keeps its mode.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(mode=0o700)
            # Whatever the process's umask takes away.
            self.root.chmod(0o700)
        except OSError as error:
            if not self.root.is_dir():
                raise ConfigError(
                    f"{ENV}={self.root} cannot be made: {error.strerror}. Name another folder."
                ) from None

    @property
    def id(self) -> str:
        """Twelve hex digits that tell this home's rows in a shared online store; made once.

        Raises:
            StateError: ``home.json`` was changed by hand.
        """
        path = self.root / "home.json"
        if not path.exists():
            self.create()
            made = secrets.token_hex(6)
            partial = path.with_name(f".home.json.{made}")
            partial.write_text(json.dumps({"id": made}) + "\n")
            # Of several processes that come first, one makes the id: a link replaces nothing.
            with suppress(FileExistsError):
                os.link(partial, path)
            partial.unlink()
        found = str(self.read_json(path, "prerank env").get("id"))
        if not re.fullmatch("[0-9a-f]{12}", found):
            raise StateError(
                f"{path}: id {found!r} is not twelve hex digits. Remove the file and run "
                "`prerank materialise`: the home gets a new id, and its online rows are written "
                "anew."
            )
        return found

    @property
    def manifest(self) -> Path:
        """What ingest found: ids, actions, segments, times, fingerprint."""
        return self.root / "manifest.json"

    @property
    def events(self) -> Path:
        """Canonical events, ``day=<day of the request>/part-*.parquet``."""
        return self.root / "events"

    @property
    def items(self) -> Path:
        """Canonical item catalogue: one Parquet file, ascending item_id."""
        return self.root / "items" / "items.parquet"

    @property
    def catalogue(self) -> Path:
        """The same items as arrays (``interactrank.features.catalogue.Catalogue``)."""
        return self.root / "items" / "catalogue.safetensors"

    @property
    def quarantine(self) -> Path:
        """Bad rows with a reason each."""
        return self.root / "quarantine"

    @property
    def features(self) -> Path:
        """Feature tables (Feast's offline sources), a folder per feature schema."""
        return self.root / "features"

    def features_of(self, schema_hash: str) -> Path:
        """Feature tables of a schema: ``engagement/``, ``user_history/``, ``manifest.json``."""
        return self.features / schema_hash

    @property
    def feast(self) -> Path:
        """Feast registry and the SQLite online store."""
        return self.root / "feast"

    def materialised_of(self, schema_hash: str) -> Path:
        """Where it is written down what of a schema's features is online."""
        return self.feast / f"materialised-{schema_hash}.json"

    @property
    def training_set(self) -> Path:
        """Examples by split."""
        return self.root / "training_set"

    @property
    def models(self) -> Path:
        """Model versions as fetched from the registry, one folder a version."""
        return self.root / "models"

    @property
    def index(self) -> Path:
        """Item indexes, one folder a model version."""
        return self.root / "index"

    @property
    def journal(self) -> Path:
        """Acknowledged engagement events, a row of files per writer."""
        return self.root / "journal"

    @property
    def runs(self) -> Path:
        """Ray Train checkpoints."""
        return self.root / "runs"

    @property
    def mlflow(self) -> Path:
        """MLflow's embedded back end."""
        return self.root / "mlflow"

    def read_json(self, path: Path, made_by: str) -> dict[str, Any]:
        """A JSON file another step wrote.

        Raises:
            StateError: it is not there; the message names the step that makes it.
        """
        try:
            loaded: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise StateError(f"{path} is missing. Run `{made_by}` first.") from None
        return loaded


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(data, indent=2, default=str) + "\n")
    partial.replace(path)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of ``folder`` when the block ends without an error."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
