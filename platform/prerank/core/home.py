"""Where state lives: every path under PRERANK_HOME, named once.

``PRERANK_HOME`` is an absolute path; object-store URIs are planned. A relative path is refused: in
a cluster job the working directory is a throw-away copy, so state written there would be lost.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prerank.core.errors import ConfigError, StateError

ENV = "PRERANK_HOME"


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
        """Feature tables (Feast's offline sources)."""
        return self.root / "features"

    @property
    def feast(self) -> Path:
        """Feast registry and the SQLite online store."""
        return self.root / "feast"

    @property
    def materialised(self) -> Path:
        """Where the state of the online store is written down."""
        return self.feast / "materialised.json"

    @property
    def training_set(self) -> Path:
        """Examples by split."""
        return self.root / "training_set"

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
