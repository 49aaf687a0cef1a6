"""Where state lives: every path under PRERANK_HOME, named once.

``PRERANK_HOME`` is an absolute path, or a URI of an object store, of which each node has a cache
folder (``prerank.core.storage``). A relative path is refused: in a cluster job the working
directory is a throw-away copy, so state written there would be lost.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prerank.core.errors import ConfigError, DamagedError, StateError
from prerank.core.files import fetch, read_json
from prerank.core.places import is_uri

if TYPE_CHECKING:
    from prerank.core.storage import Store

ENV, ID_ENV = "PRERANK_HOME", "PRERANK_HOME_ID"
PLAIN = "plain"
"""What ``Home.log_id`` is where no pointer names the log."""


@dataclass(frozen=True)
class Home:
    """Paths of one installation's state.

    An ingest writes the whole canonical log into a folder of its own, and then switches one file,
    the pointer, to it (``prerank.ingest.publish``):

        log/current.json                                        names the folder that counts
        log/<log id>-<n>/{events,items,quarantine,manifest.json}

    A home without a pointer has the four in its root, as homes of before pointers do.

    Attributes:
        root: absolute; of a home in an object store, this node's cache folder of it.
        pinned: folder of the log that is read, whatever the pointer says; None follows it.
        store: the object store; None for a local home.
    """

    root: Path
    pinned: Path | None = None
    store: Store | None = field(default=None, compare=False)

    @classmethod
    def at(cls, root: str | os.PathLike[str]) -> Home:
        """Home at an absolute path, or at a URI, of which nothing is asked yet.

        Raises:
            ConfigError: the path is relative.
        """
        if is_uri(place := str(root)):
            # Arrow is not imported for a local home.
            from prerank.core.storage import store_at

            store = store_at(place)
            return cls(store.root, store=store)
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
    def place(self) -> str:
        """What PRERANK_HOME says: the path, or the URI."""
        return self.store.uri if self.store else str(self.root)

    def told(self, path: Path) -> str:
        """A path of the home as every node knows it: of one in an object store, a URI."""
        return f"{self.place}/{path.relative_to(self.root).as_posix()}" if self.store else str(path)

    def look(self, *folders: Path, deep: bool = False) -> None:
        """See what is there now, where the home is in an object store (``Store.look``).

        Args:
            folders: of the home; none for all that hold state.
            deep: with all that lies below them.

        Raises:
            ConfigError: access is refused.
            NotReadyError: the store does not answer.
        """
        if self.store:
            names = [f.relative_to(self.root).as_posix() for f in folders]
            self.store.look(*("" if name == "." else name for name in names), deep=deep)

    def fetch(self, *paths: Path) -> None:
        """Have files, or all files below folders, on this disk, as they were last looked at.

        Raises:
            ConfigError: access is refused.
            NotReadyError: the store does not answer.
        """
        fetch(*paths)

    def files(self, folder: Path) -> list[Path]:
        """Parquet files below a folder, sorted, whether or not they were fetched."""
        found = self.store.files(folder) if self.store else sorted(folder.rglob("*.parquet"))
        return [path for path in found if path.suffix == ".parquet"]

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
        """Twelve hex digits that tell this home's rows in a shared online store.

        Made once; of a home in an object store, by its URI.

        Raises:
            StateError: ``home.json`` was changed by hand.
        """
        if self.store:
            return self.store.id
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

    def pin(self) -> Home:
        """The same home as it is now, whose log stays while another is published.

        A published log is never changed, and the one before it stays until the next ingest begins.
        """
        self.look()
        return replace(self, pinned=self.log)

    @property
    def pointer(self) -> Path:
        """The one file that says which folder is the log."""
        return self.root / "log" / "current.json"

    @property
    def log(self) -> Path:
        """Folder of the canonical log.

        Raises:
            DamagedError: the pointer is.
        """
        if self.pinned:
            return self.pinned
        try:
            return self.pointer.with_name(read_json(self.pointer)["folder"])
        except FileNotFoundError:
            return self.root
        except (DamagedError, KeyError):
            raise DamagedError(
                f"{self.pointer} is damaged: it names no folder. Give the whole log again with "
                "`prerank ingest --replace`."
            ) from None

    @property
    def log_id(self) -> str:
        """Stays when events are added to the log, and changes when the home is started over."""
        return PLAIN if self.log == self.root else self.log.name.partition("-")[0]

    def has_made(self, features: Mapping[str, Any]) -> bool:
        """Whether ``features`` (their manifest) are of this log, now or before it grew."""
        return bool(features.get("log_id", PLAIN) == self.log_id)

    @property
    def manifest(self) -> Path:
        """What ingest found: ids, actions, segments, times, fingerprint."""
        return self.log / "manifest.json"

    @property
    def events(self) -> Path:
        """Canonical events, ``day=<day of the request>/part-*.parquet``."""
        return self.log / "events"

    @property
    def items(self) -> Path:
        """Canonical item catalogue: one Parquet file, ascending item_id."""
        return self.log / "items" / "items.parquet"

    @property
    def catalogue(self) -> Path:
        """The same items as arrays (``interactrank.features.catalogue.Catalogue``)."""
        return self.log / "items" / "catalogue.safetensors"

    @property
    def quarantine(self) -> Path:
        """Bad rows with a reason each."""
        return self.log / "quarantine"

    @property
    def refused(self) -> Path:
        """The rows of a log none of which was good, with a reason each, until the next ingest."""
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
        """Model versions as they were downloaded, and which one was served last."""
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
    def flags(self) -> Path:
        """How far users are trusted, line by line (``prerank.core.trust``)."""
        return self.root / "users.jsonl"

    @property
    def served(self) -> Path:
        """What was answered and reported (``prerank.core.served``)."""
        return self.root / "served"

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
            StateError: it is not there, or damaged (DamagedError); the message names the step
                that makes it.
        """
        try:
            return read_json(path)
        except FileNotFoundError:
            raise StateError(f"{path} is missing. Run `{made_by}` first.") from None
        except DamagedError as error:
            raise DamagedError(f"{error} Remove it and run `{made_by}` again.") from None
