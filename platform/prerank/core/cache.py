"""A node's folder of a home in an object store: which files it has, and as they are in the store.

A file is as in the store if its size and time of change (ns) are those that the store's manifest
has, as rsync compares files. Two contents of one time are kept apart by a time that is drawn when a
file is sent (``stamped``): file systems tell times in steps of milliseconds.

    .store/<folder>.files.json    the manifest that a folder here was brought level with last
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from prerank.core.errors import DamagedError
from prerank.core.files import held
from prerank.core.manifests import SUFFIX, Manifest, Stored, unit_of

_BASE = ".store"
_SMALL = (".json", ".yaml", "/registry.db")
_ALONE = ("users.jsonl",)


def is_small(name: str) -> bool:
    """Whether a look brings the content of a file of this name."""
    return name.endswith(_SMALL) or name in _ALONE


def stamped(file: Path) -> os.stat_result:
    """Give a file a time of change that no other content of it has; what it is then."""
    now = time.time_ns()
    os.utime(file, ns=(now, now))
    return file.stat()


def files_of(path: Path) -> Iterator[Path]:
    """A file, or the files below a folder but for those whose names begin with a dot."""
    if path.is_file():
        yield path
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                yield file


class Cache:
    """The folder ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def rel(self, path: Path) -> PurePosixPath:
        """A path as it is below the home."""
        return PurePosixPath(path.relative_to(self.root))

    def has(self, path: str, stored: Stored) -> bool:
        """Whether a file is here as it is in the store."""
        try:
            stat = (self.root / path).stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (stored.size, stored.mtime_ns)

    def manifests(self) -> dict[str, Manifest]:
        """Of folders that were brought level with the store; a damaged one counts as missing."""
        found = {}
        for path in (self.root / _BASE).rglob(f"*{SUFFIX}"):
            unit = str(path.relative_to(self.root / _BASE)).removesuffix(SUFFIX)
            try:
                found[unit] = Manifest.of(path.read_bytes(), str(path))
            except DamagedError:
                path.unlink(missing_ok=True)
        return found

    def turn(
        self, unit: str, manifest: Manifest, take: Callable[[dict[str, Stored]], object]
    ) -> None:
        """Have a folder hold nothing that its manifest does not name, and its small files.

        Nothing is done while somebody writes the folder, who will publish it, or look again.
        """
        base = self.root / _BASE / f"{unit}{SUFFIX}"
        if base.exists() and base.read_bytes() == manifest.text:
            return
        folder = self.root / unit
        with held(folder) as free:
            if not free:
                return
            files = {f"{unit}/{path}": stored for path, stored in manifest.files.items()}
            for file in list(files_of(folder)):
                path = str(self.rel(file))
                if path not in files or not self.has(path, files[path]):
                    file.unlink(missing_ok=True)
            take({path: stored for path, stored in files.items() if is_small(path)})
            self.write(str(self.rel(base)), manifest.text)

    def write(self, name: str, data: bytes) -> None:
        """Have a file hold ``data``. It can be had again, so nothing is synced."""
        path = self.root / name
        if path.exists() and path.read_bytes() == data:
            return
        self._let_go_of_page(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        partial.write_bytes(data)
        partial.replace(path)

    def remove(self, name: str) -> None:
        """Remove a file that is published by itself."""
        self._let_go_of_page(self.root / name)
        (self.root / name).unlink(missing_ok=True)

    def _let_go_of_page(self, path: Path) -> None:
        # No look brings it, so none would see that it is of before.
        if path.suffix == ".json":
            path.with_suffix(".html").unlink(missing_ok=True)

    def drop(self, unit: str) -> None:
        """A folder is no more in the store."""
        (self.root / _BASE / f"{unit}{SUFFIX}").unlink(missing_ok=True)
        for file in list(files_of(self.root / unit)):
            file.unlink(missing_ok=True)
        # An empty one would look like a folder that was left.
        for folder in sorted([self.root / unit, *(self.root / unit).rglob("*")], reverse=True):
            with suppress(OSError):
                folder.rmdir()

    def published(self, folder: str, deep: bool = False) -> list[str]:
        """Files of a folder that are published by themselves: small ones, or all with ``deep``."""
        found = (self.root / folder).glob("**/*" if deep else "*")
        names = [str(self.rel(path)) for path in found if path.is_file()]
        own = (name for name in names if unit_of(PurePosixPath(name)) == PurePosixPath(name))
        return [name for name in own if deep or is_small(name)]
