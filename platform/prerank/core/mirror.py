"""What a node sees of a home in an object store: a look, and what the cache lacks."""

from __future__ import annotations

import fnmatch
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow.fs as pafs

from prerank.core.cache import Cache, is_small
from prerank.core.errors import PrerankError
from prerank.core.known import Known
from prerank.core.leftovers import is_due, sweep
from prerank.core.manifests import FOLDERS, SUFFIX, Manifest, Stored, unit_of
from prerank.core.objects import Listed, Objects

LOOKED = ("", "log", "features", "feast", "index", "evaluation", "baselines", "served")
"""Folders whose small files a look brings."""
TRANSFERS = 16
"""Files that are sent or brought at once."""
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


def is_swapped(name: str) -> bool:
    """Whether a file by itself, by its path below the home, is among ``SWAPPED``."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in SWAPPED)


class Mirror:
    """A node's cache folder of a home in an object store. Safe to share between threads.

    Args:
        uri: of the home.
        root: the cache folder.
    """

    def __init__(self, uri: str, root: Path) -> None:
        self.uri, self.root = uri, root
        self._objects, self._cache = Objects(uri), Cache(root)
        self._lock = threading.RLock()
        self._known = Known()
        self._shared: dict[str, bytes] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = ""
        for unit, manifest in self._cache.manifests().items():
            self._known.learn(unit, manifest)

    @property
    def id(self) -> str:
        """Twelve hex digits that tell this home from every other one."""
        return hashlib.sha256(self.uri.encode()).hexdigest()[:12]

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
        lists = each_at_once(lambda folder: self._objects.listed(folder, deep), asked)
        found = {each.name: each for listed in lists for each in listed}
        wanted = [each for each in found.values() if deep or is_small(each.name)]
        # JSON first: with what is new of it goes the page of before.
        wanted.sort(key=lambda each: not is_small(each.name))
        with self._lock:
            for each, data in zip(wanted, each_at_once(self._content, wanted), strict=True):
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

    def take(self, files: Mapping[str, Stored]) -> None:
        """Bring files that the cache lacks, or has otherwise."""

        def bring(one: tuple[str, Stored]) -> None:
            path, stored = one
            self._objects.bring(stored.key, stored.size, stored.mtime_ns, self.root / path)

        each_at_once(bring, [one for one in files.items() if not self._cache.has(*one)])

    def changed_s(self, path: Path) -> float:
        """When a file that is published by itself was, seconds since 1970 by the store's clock."""
        name = str(self._cache.rel(path))
        listed = self._objects.listed(name.rpartition("/")[0])
        found = [each.mtime_s for each in listed if each.name == name and each.mtime_s]
        return found[0] if found else time.time()

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


def each_at_once(function: Callable[..., T], items: Sequence[object]) -> list[T]:
    """``function`` of each item, several at once."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(TRANSFERS, len(items))) as threads:
        return list(threads.map(function, items))
