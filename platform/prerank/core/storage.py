"""State in an object store: the store is the truth, and each node has a cache folder of it.

``Home.at("s3://…")`` is a home whose root is the cache folder. What is published there by
``prerank.core.files`` is published in the store first, and ``prerank.core.manifests`` says how it
lies there. A publication sends what is new and then puts one small file, so a kill or a full bucket
leaves what was there before.

    look     what is there now: small files and manifests are brought, what is gone goes here too
    fetch    brings the contents of files of the last look that the cache lacks
    share    sends files that the store lacks, for tasks on other nodes
    take     brings files that another node shared

One writer of a folder at a time is its callers' duty: stores have no lock in common. A publication
compares what is there with what it began from, so whoever lost a race is told and changes nothing.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow.fs as pafs

from prerank.core.cache import Cache, files_of, is_small, stamped
from prerank.core.errors import PrerankError, StateError
from prerank.core.files import REMOTES
from prerank.core.known import Known
from prerank.core.leftovers import is_due, named, of_before, purge, sweep
from prerank.core.manifests import (
    FOLDERS,
    SUFFIX,
    Manifest,
    Stored,
    below,
    key_of,
    unit_of,
)
from prerank.core.objects import Listed, Objects

CACHE_ENV = "PRERANK_CACHE"
LOOKED = ("", "log", "features", "feast", "index", "evaluation", "baselines", "served")
"""Folders whose small files a look brings."""
TRANSFERS = 16
"""Files that are sent or brought at once."""
ORPHAN_S = 86_400.0
"""An object that no manifest names is removed at this age: a younger one may be being published."""
SWAPPED = (
    "log/current.json",
    "forgotten.json",
    "users.jsonl",
    "retraining/current.json",
    "tuning/*/journal.log",
)
"""Files by themselves that are replaced only as they were last looked at, since they grow."""
UNSURE_S = 60.0
"""A file that changed so short a time ago is read again: stores tell times in whole seconds."""

T = TypeVar("T")

logger = logging.getLogger(__name__)
_opening = threading.Lock()


def cache_folder(uri: str) -> Path:
    """Where this node keeps what it has of a home in a store."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prerank"
    folder = Path(os.environ.get(CACHE_ENV) or cache).expanduser().absolute()
    return folder / hashlib.sha256(uri.encode()).hexdigest()[:16]


def is_swapped(name: str) -> bool:
    """Whether a file by itself, by its path below the home, is among ``SWAPPED``."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in SWAPPED)


def store_at(uri: str) -> Store:
    """The store of a home; one for all of this process. Nothing is asked of it yet."""
    uri = uri.rstrip("/")
    root = cache_folder(uri)
    with _opening:
        known = REMOTES.get(root)
        if not isinstance(known, Store):
            known = REMOTES[root] = Store(uri, root)
        return known


class Store:
    """A home in an object store. Safe to share between threads.

    Args:
        uri: of the home.
        root: the cache folder.

    Attributes:
        run: names what this process's tasks hand to each other.
    """

    def __init__(self, uri: str, root: Path) -> None:
        self.uri, self.root, self.run = uri, root, uuid.uuid4().hex
        self._objects, self._cache = Objects(uri), Cache(root)
        self._lock = threading.RLock()
        self._known = Known()
        self._shared: dict[str, bytes] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = ""
        for unit, manifest in self._cache.manifests().items():
            self._known.learn(unit, manifest)

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        # Elsewhere the cache is another folder.
        return store_at, (self.uri,)

    @property
    def id(self) -> str:
        """Twelve hex digits that tell this home from every other one."""
        return hashlib.sha256(self.uri.encode()).hexdigest()[:12]

    # What is there.

    def look(self, *folders: str, deep: bool = False) -> None:
        """See what is there now, in some folders (default: all that hold state).

        Args:
            folders: paths below the home.
            deep: with all that lies below them, and every file whatever its size.

        Raises:
            ConfigError: access is refused; the message names the variables.
            NotReadyError: the store does not answer.
        """
        self._look(folders or LOOKED, deep)
        if is_due(self.root):
            # Users were forgotten: what is of theirs here goes now.
            self._look(LOOKED, False)
            there = {each.name: each for each in self._objects.listed("served", deep=True)}
            self._let_go("served", there, True)
            sweep(self.root, [u for folder in ("", *FOLDERS) for u in self._known.units(folder)])

    def _look(self, asked: Sequence[str], deep: bool) -> None:
        lists = _each(lambda folder: self._objects.listed(folder, deep), asked)
        found = {each.name: each for listed in lists for each in listed}
        wanted = [each for each in found.values() if deep or is_small(each.name)]
        # JSON first: with what is new of it goes the page of before.
        wanted.sort(key=lambda each: not is_small(each.name))
        with self._lock:
            for each, data in zip(wanted, _each(self._content, wanted), strict=True):
                if data is not None:
                    self._bring(each.name, data)
            for folder in asked:
                self._let_go(folder, found, deep)

    def look_once(self, batch: str) -> None:
        """Look, the first time that this process is told of a ``batch`` of tasks."""
        if batch != self._looked:
            self.look()
            self._looked = batch

    def fetch(self, *paths: Path) -> None:
        """Bring what the cache lacks of files, or of all files below folders, as last looked at.

        Raises:
            ConfigError, NotReadyError: as ``look`` does.
        """
        for last in (False, True):
            try:
                self.take(self._there(paths))
                return
            except PrerankError:
                # Replaced since, and gone?
                if last:
                    raise
                self.look()

    def files(self, folder: Path) -> list[Path]:
        """Files below a folder, sorted, whether or not the cache has them."""
        return sorted(self.root / path for path in self._there([folder]))

    def objects(self, folder: Path) -> tuple[list[str], pafs.FileSystem]:
        """Paths of their objects, in the order of the files, and the file system of the paths."""
        there = self._there([folder])
        return [self.path(there[path].key) for path in sorted(there)], self.system

    @property
    def system(self) -> pafs.FileSystem:
        """The file system of the store."""
        return self._objects.system

    def path(self, name: str) -> str:
        """Path there of what is ``name`` below the home."""
        return self._objects.path(name)

    def read(self, name: str) -> bytes | None:
        """Content of what is ``name`` below the home and no folder's; None where there is none."""
        return self._objects.read(name)

    def append(self, name: str, data: bytes) -> None:
        """Add to it. One process at a time."""
        self._objects.write(name, (self._objects.read(name) or b"") + data)

    def swap(self, name: str, data: bytes, before: bytes | None) -> bool:
        """Make ``data`` its content if that is ``before`` (None: is not there); whether it is."""
        return self._objects.swap(name, data, before)

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
        _each(lambda one: self._objects.send(*one), sent)
        self._known.mark(found)
        return found

    def staged(self, files: Mapping[str, Stored]) -> None:
        """Note what tasks shared of folders that this process publishes."""
        self._known.stage(files)

    def unstaged(self, paths: Iterable[str]) -> None:
        """Note what tasks removed of such folders."""
        self._known.unstage(paths)

    def take(self, files: Mapping[str, Stored]) -> None:
        """Bring files that the cache lacks, or has otherwise."""

        def bring(one: tuple[str, Stored]) -> None:
            path, stored = one
            self._objects.bring(stored.key, stored.size, stored.mtime_ns, self.root / path)

        _each(bring, [one for one in files.items() if not self._cache.has(*one)])

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

    def changed_s(self, path: Path) -> float:
        """When a file that is published by itself was, seconds since 1970 by the store's clock."""
        name = str(self._cache.rel(path))
        listed = self._objects.listed(name.rpartition("/")[0])
        found = [each.mtime_s for each in listed if each.name == name and each.mtime_s]
        return found[0] if found else time.time()

    def purge(self, until_s: float) -> int:
        """Remove what was there at a time and no folder has any more; how many objects.

        For a forgetting, which waits for no other command: what another one is just publishing may
        be among it, and fails there.

        Raises:
            ConfigError, NotReadyError: as ``look`` does; some may be left.
        """
        return purge(self._objects, until_s)

    # What is known of it.

    def _content(self, each: Listed) -> bytes | None:
        """Content of a listed file; None where the cache has it."""
        path, mark = self.root / each.name, (each.size, each.mtime_s or 0.0)
        unit = each.name.removesuffix(SUFFIX)
        here = path.exists() if unit == each.name else self._known.manifest(unit) is not None
        settled = each.mtime_s and abs(time.time() - each.mtime_s) > UNSURE_S
        if here and settled and self._seen.get(each.name) == mark:
            return None
        # What is large is written once, but for what grows.
        written_once = not is_small(each.name) and not is_swapped(each.name)
        if here and written_once and path.stat().st_size == each.size:
            return None
        self._seen[each.name] = mark
        return self._objects.read(each.name)

    def _bring(self, name: str, data: bytes) -> None:
        unit = name.removesuffix(SUFFIX)
        if unit != name:
            manifest = Manifest.of(data, f"{self.uri}/{name}")
            self._known.learn(unit, manifest)
            self._cache.turn(unit, manifest, self.take)
        elif unit_of(PurePosixPath(name)) is not None:
            if is_swapped(name):
                self._shared[name] = data
            self._cache.write(name, data)

    def _let_go(self, folder: str, found: Mapping[str, Listed], deep: bool) -> None:
        """Remove what was published in a folder and is not there any more."""
        for unit in self._known.units(folder):
            if self._is_gone(f"{unit}{SUFFIX}", found):
                self._drop(unit)
        for name in self._cache.published(folder, deep):
            if self._is_gone(name, found):
                self._cache.remove(name)
                self._shared.pop(name, None)

    def _is_gone(self, name: str, found: Mapping[str, Listed]) -> bool:
        # It may have been published since it was listed.
        return name not in found and self._objects.read(name) is None

    def _drop(self, unit: str) -> None:
        self._known.drop(unit)
        self._cache.drop(unit)

    def _there(self, paths: Iterable[Path]) -> dict[str, Stored]:
        return self._known.there(map(self._cache.rel, paths))


def _each(function: Callable[..., T], items: Sequence[object]) -> list[T]:
    """``function`` of each item, several at once."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(TRANSFERS, len(items))) as threads:
        return list(threads.map(function, items))
