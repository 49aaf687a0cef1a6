"""How a home lies in an object store.

    log/current.json                     a file of the home, as it is
    features/<schema hash>.files.json    a folder of the home: which object each of its files is
    features/<schema hash>/<…>/…         these objects
    tmp/<run>/…                          what tasks of a cluster hand to each other

An object of a folder is never changed: what is new gets another name. A folder is therefore
replaced by one small file, its manifest, and a file that stays is not sent again. What is not
named here is a node's own: models, which MLflow has, SQLite files, the journal, and every name
that begins with a dot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from prerank.core.errors import DamagedError

SUFFIX = ".files.json"
FOLDERS = {
    "log": 2,
    "features": 2,
    "index": 2,
    "evaluation": 2,
    "baselines": 2,
    "training_set": 1,
    "quarantine": 1,
}
"""First part of the path of what is published as one folder, and how many parts it has."""
_OWN = frozenset({"models", "runs", "mlflow", "journal", "redis"})
_STAGED = re.compile(r"\.(.+)\.([0-9a-f]{32})\.partial")


@dataclass(frozen=True)
class Stored:
    """The object that holds a file: its key, size in bytes, and the file's time of change (ns).

    As rsync does, a file of this size and time counts as having this content.
    """

    key: str
    size: int
    mtime_ns: int


Files = Mapping[str, Stored]
"""Objects by the path of their file below the home."""


@dataclass(frozen=True)
class Manifest:
    """Objects of a folder, by the path of their file below it."""

    files: Files

    @classmethod
    def of(cls, text: bytes, name: str) -> Manifest:
        """What ``text`` says.

        Raises:
            DamagedError: it is none.
        """
        try:
            return cls({path: Stored(*entry) for path, entry in json.loads(text)["files"].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedError(
                f"{name} is damaged: {error}. Remove it from the store, and run the command that "
                "makes the folder again."
            ) from None

    @cached_property
    def text(self) -> bytes:
        """As it is stored: a file a line, so that people can read and compare it."""
        rows: dict[str, Any] = {
            path: [s.key, s.size, s.mtime_ns] for path, s in sorted(self.files.items())
        }
        lines = ",\n".join(f"{json.dumps(path)}: {json.dumps(row)}" for path, row in rows.items())
        return f'{{"files": {{\n{lines}\n}}}}\n'.encode()

    @property
    def keys(self) -> set[str]:
        """Of its objects."""
        return {stored.key for stored in self.files.values()}


def unit_of(path: PurePosixPath) -> PurePosixPath | None:
    """The file or folder that is published as a whole and holds ``path``, which is below the home.

    None for what is a node's own.
    """
    parts = path.parts
    if not parts or parts[0] in _OWN or any(part.startswith(".") for part in parts):
        return None
    # An online store in a file, and how much of a journal it has.
    if parts[-1].startswith(("online.db", "replayed-")):
        return None
    return PurePosixPath(*parts[: FOLDERS.get(parts[0], len(parts))])


def inside_of(path: PurePosixPath) -> str:
    """A file's family of folders, and its path below its own.

    The same for a file of a published folder and of one that is being written.
    """
    plain = PurePosixPath(*(_STAGED.sub(r"\1", part) for part in path.parts))
    family = plain.parts[0]
    return "/".join([family, *plain.parts[FOLDERS.get(family, 1) :]])


def key_of(path: PurePosixPath, run: str) -> str:
    """Where the content of a file goes that is not published yet; on every node the same place.

    Args:
        path: below the home. A folder that is being written has a name that nobody else uses.
        run: tells what tasks hand to each other in this run of a command.
    """
    parts = [_STAGED.sub(r"\1/\2", part) for part in path.parts]
    plain = PurePosixPath(*parts)
    if unit_of(plain) is not None:
        return str(plain)
    return "/".join(["tmp", run, *(part.lstrip(".") for part in plain.parts)])


def below(files: Files, path: PurePosixPath) -> dict[str, Stored]:
    """Those of ``files`` that are ``path`` or lie below it."""
    whole = str(path)
    start = "" if whole == "." else f"{whole}/"
    return {p: stored for p, stored in files.items() if p == whole or p.startswith(start)}


def all_keys(manifests: Iterable[Manifest]) -> set[str]:
    """Objects that some manifest names."""
    return {key for manifest in manifests for key in manifest.keys}
