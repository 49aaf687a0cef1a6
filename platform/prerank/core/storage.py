"""State in an object store: the store is the truth, and each node has a cache folder of it.

``Home.at("s3://…")`` is a home whose root is the cache folder. What is published there by
``prerank.core.files`` is published in the store first, and ``prerank.core.manifests`` says how it
lies there. A publication sends what is new and then puts one small file, so a kill or a full bucket
leaves what was there before.

    look     what is there now: small files and manifests are brought, what is gone goes here too
    fetch    brings the contents of files of the last look that the cache lacks
    share    sends files that the store lacks, for tasks on other nodes
    take     brings files that another node shared

``prerank.core.mirror`` is the half that reads, and this module the half that writes.

One writer of a folder at a time is its callers' duty: stores have no lock in common. A publication
compares what is there with what it began from, so whoever lost a race is told and changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prerank.core.cache import files_of, stamped
from prerank.core.errors import PrerankError, StateError
from prerank.core.files import REMOTES
from prerank.core.leftovers import named, of_before, purge
from prerank.core.manifests import (
    FOLDERS,
    SUFFIX,
    Manifest,
    Stored,
    below,
    key_of,
    unit_of,
)
from prerank.core.mirror import Mirror, each_at_once, is_swapped

CACHE_ENV = "PRERANK_CACHE"
ORPHAN_S = 86_400.0
"""An object that no manifest names is removed at this age: a younger one may be being published."""

logger = logging.getLogger(__name__)
_opening = threading.Lock()


def cache_folder(uri: str) -> Path:
    """Where this node keeps what it has of a home in a store."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prerank"
    folder = Path(os.environ.get(CACHE_ENV) or cache).expanduser().absolute()
    return folder / hashlib.sha256(uri.encode()).hexdigest()[:16]


def store_at(uri: str) -> Store:
    """The store of a home; one for all of this process. Nothing is asked of it yet."""
    uri = uri.rstrip("/")
    root = cache_folder(uri)
    with _opening:
        known = REMOTES.get(root)
        if not isinstance(known, Store):
            known = REMOTES[root] = Store(uri, root)
        return known


class Store(Mirror):
    """A home in an object store. Safe to share between threads.

    Args:
        uri: of the home.
        root: the cache folder.

    Attributes:
        run: names what this process's tasks hand to each other.
    """

    def __init__(self, uri: str, root: Path) -> None:
        super().__init__(uri, root)
        self.run = uuid.uuid4().hex

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        # Elsewhere the cache is another folder.
        return store_at, (self.uri,)

    # What tasks hand to each other.

    def share(self, paths: Iterable[Path], run: str = "") -> dict[str, Stored]:
        """Have the store hold some files, and all files below some folders; where it holds them.

        Raises:
            StateError: the store is full.
            ConfigError, NotReadyError: as ``look`` does.
        """
        given = list(paths)
        found, sent = self._there(given), list[tuple[Path, str]]()
        for file in (file for path in given for file in files_of(path)):
            rel, stat = self._cache.rel(file), file.stat()
            name = str(rel)
            if name in found and self._cache.has(name, found[name]):
                continue
            key = self._known.key(rel, stat.st_size, stat.st_mtime_ns)
            if key is None:
                key, stat = key_of(rel, run or self.run), stamped(file)
                sent.append((file, key))
            found[name] = Stored(key, stat.st_size, stat.st_mtime_ns)
        each_at_once(lambda one: self._objects.send(*one), sent)
        self._known.mark(found)
        return found

    def staged(self, files: Mapping[str, Stored]) -> None:
        """Note what tasks shared of folders that this process publishes."""
        self._known.stage(files)

    def unstaged(self, paths: Iterable[str]) -> None:
        """Note what tasks removed of such folders."""
        self._known.unstage(paths)

    def is_unpublished(self, path: str) -> bool:
        """Whether a path below the home is in a folder that is being written."""
        return self._known.is_unpublished(path)

    # What is published.

    def publish(self, path: Path, content: Path) -> None:
        """Make ``content`` what the store has as ``path``; nothing of what is a node's own.

        Raises:
            StateError: somebody else changed it since the last look, or the store is full.
            ConfigError, NotReadyError: as ``look`` does.
        """
        rel = self._cache.rel(path)
        unit = unit_of(rel)
        if unit is None:
            return
        if unit != rel:
            # A file in a folder that is still being written goes with the folder.
            if before := self._known.manifest(unit):
                self._publish_part(str(unit), before, str(rel.relative_to(unit)), content)
        elif content.is_dir():
            inside = self._cache.rel(content)
            found = self.share([content])
            files = {path.removeprefix(f"{inside}/"): stored for path, stored in found.items()}
            self._switch(str(unit), files)
            self._known.unstage(self._known.staged(inside))
        elif is_swapped(str(rel)):
            data = content.read_bytes()
            self._put(str(rel), data, self._shared.get(str(rel)))
            self._shared[str(rel)] = data
        else:
            self._objects.send(content, str(rel))

    def forget(self, path: Path) -> None:
        """Take out of the store what it has as ``path``, or below it."""
        rel = self._cache.rel(path)
        unit = unit_of(rel)
        if unit is None:
            gone = {stored.key for stored in self._known.unstage(self._known.staged(rel))}
            self._objects.remove(sorted(gone - self._known.keys))
        elif (before := self._known.manifest(unit)) is not None:
            if unit == rel:
                self._objects.remove([f"{unit}{SUFFIX}"])
                self._drop(str(unit))
                self._sweep(str(unit), before.keys)
            elif lost := below(before.files, rel.relative_to(unit)):
                left = {p: stored for p, stored in before.files.items() if p not in lost}
                self._switch(str(unit), left)
        elif path.suffix:
            self._objects.remove([str(rel)])
        else:
            below_it = {each.name for each in self._objects.listed(str(rel), deep=True)}
            # Another folder may have taken some of its objects over.
            kept = named(self._objects, rel.parts[0]) if rel.parts[0] in FOLDERS else set()
            self._objects.remove(sorted(below_it - kept))

    def _publish_part(self, unit: str, before: Manifest, name: str, content: Path) -> None:
        stat, key = stamped(content), f"{unit}/{uuid.uuid4().hex}/{name}"
        self._objects.send(content, key)
        new = {name: Stored(key, stat.st_size, stat.st_mtime_ns)}
        self._switch(unit, {**before.files, **new})

    def _switch(self, unit: str, files: dict[str, Stored]) -> None:
        """Put the manifest of a folder; then what only the one before named goes."""
        before, manifest = self._known.manifest(unit), Manifest(files)
        self._put(f"{unit}{SUFFIX}", manifest.text, before.text if before else None)
        self._known.learn(unit, manifest)
        self._sweep(unit, before.keys if before else set())

    def _put(self, name: str, data: bytes, before: bytes | None) -> None:
        if not self._objects.swap(name, data, before):
            raise self._lost(name)

    def _lost(self, name: str) -> StateError:
        return StateError(
            f"{self.uri}/{name} was changed by another command meanwhile. Nothing of it was "
            "replaced: run this command again when the other one has ended."
        )

    def _sweep(self, unit: str, dropped: set[str]) -> None:
        """Remove objects that nothing names any more. A failure leaves them to the next time."""
        family = unit.partition("/")[0]
        try:
            old = of_before(self._objects, [family, "tmp"], time.time() - ORPHAN_S)
            self._objects.remove(sorted((dropped | old) - named(self._objects, family)))
        except PrerankError as error:
            logger.warning("objects that nothing needs were left: %s", error)

    def append(self, name: str, data: bytes) -> None:
        """Add to it. One process at a time."""
        self._objects.write(name, (self._objects.read(name) or b"") + data)

    def swap(self, name: str, data: bytes, before: bytes | None) -> bool:
        """Make ``data`` its content if that is ``before`` (None: is not there); whether it is."""
        return self._objects.swap(name, data, before)

    def purge(self, until_s: float) -> int:
        """Remove what was there at a time and no folder has any more; how many objects.

        For a forgetting, which waits for no other command: what another one is just publishing may
        be among it, and fails there.

        Raises:
            ConfigError, NotReadyError: as ``look`` does; some may be left.
        """
        return purge(self._objects, until_s)
