"""An object store that is a folder, and nodes that have nothing in common but it.

A real S3 is ``tests/s3.py``; this one can be made to fail or to kill at any operation, and it is
there after a process was killed.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from prerank.core import object_stores
from prerank.core.files import REMOTES, read_json, replaced, write_json
from prerank.core.home import Home
from prerank.core.storage import CACHE_ENV
from prerank.core.travel import Call, noted, packed, unpacked


class Disk(LocalFileSystem):
    """``disk:///folder/…``, as far as callers can tell an object store.

    Attributes:
        before: called with what is done ("read", "write" or "remove") and the path.
    """

    protocol = "disk"
    cachable = False
    before: ClassVar[Callable[[str, str], None]] = staticmethod(lambda what, path: None)

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: Any, *_: Any) -> str:
        text = str(path).removeprefix("disk://")
        return "/" + text.strip("/")

    def _open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        type(self).before("write" if "w" in mode else "read", path)
        return super()._open(path, mode, *args, **kwargs)

    def rm(self, path: Any, *args: Any, **kwargs: Any) -> None:
        for one in [path] if isinstance(path, str) else path:
            type(self).before("remove", one)
        super().rm(path, *args, **kwargs)


class Nodes:
    """Nodes of a home in an object store, each with a cache folder of its own.

    Attributes:
        bucket: the folder that is the store.
        uri: of the home there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bucket = folder / "bucket"
        self.uri = f"disk://{self.bucket}/home"

    @contextmanager
    def node(self, name: str) -> Iterator[Home]:
        """The home as a fresh process of a node has it; the one before is there again after it."""
        before = dict(REMOTES)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CACHE_ENV, str(self._folder / name))
            REMOTES.clear()
            try:
                home = Home.at(self.uri)
                home.create()
                home.look()
                yield home
            finally:
                REMOTES.clear()
                REMOTES.update(before)

    def run_on(self, name: str, call: bytes) -> bytes:
        """What a packed call gives, packed, on another node than the one that is here now."""
        here = dict(REMOTES)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CACHE_ENV, str(self._folder / name))
            REMOTES.clear()
            try:
                return packed(unpacked(call)())
            finally:
                REMOTES.clear()
                REMOTES.update(here)

    def map_over(self, *names: str) -> Callable[..., list[Any]]:
        """``ray_map`` of a cluster whose nodes take the tasks in turn."""

        def each(function: Callable[..., Any], tasks: Sequence[Any], _: str) -> list[Any]:
            turns = zip(itertools.cycle(names), tasks, strict=False)
            calls = [(name, packed(Call.of(function, task, True))) for name, task in turns]
            return [noted(unpacked(self.run_on(name, call))) for name, call in calls]

        return each

    def objects(self) -> set[str]:
        """Names of what the store has of the home."""
        root = self.bucket / "home"
        return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


@contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    """Nodes over an empty store in ``folder``."""
    fsspec.register_implementation("disk", Disk, clobber=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_stores, "FIRST_WAIT_S", 0.001)
        yield Nodes(folder)
    REMOTES.clear()
    Disk.before = staticmethod(lambda what, path: None)


@contextmanager
def of_workers(folder: Path, cache: Path) -> Iterator[Callable[[], Home]]:
    """A store that the workers of ``ray_local`` know too.

    Yields what gives its home as a pod has it that begins with an empty disk.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_ENV, str(cache))
        patch.setitem(fsspec.config.conf, "local", {"auto_mkdir": True})

        def fresh() -> Home:
            REMOTES.clear()
            home = Home.at(f"local://{folder}/home")
            shutil.rmtree(home.root, ignore_errors=True)
            home.create()
            home.look()
            return home

        yield fresh
    REMOTES.clear()


def copied(source: Home, home: Home) -> None:
    """Publish a home's log, features and training set in another one."""
    for folder in (source.log, *source.features.glob("[!.]*"), source.training_set):
        target = home.root / folder.relative_to(source.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced(target) as out:
            shutil.copytree(folder, out, dirs_exist_ok=True)
    write_json(home.pointer, read_json(source.pointer))


@contextmanager
def watched(act: Callable[[str, str], None]) -> Iterator[None]:
    """``act`` is called before each operation of the store, as ``Disk.before`` is."""
    before, Disk.before = Disk.before, staticmethod(act)
    try:
        yield
    finally:
        Disk.before = staticmethod(before)


def without_mtime(folder: Path) -> dict[str, bytes]:
    """Content of each file below a folder, but for those whose names begin with a dot."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            found[str(inside)] = path.read_bytes()
    return found


def in_child(act: Callable[[], object]) -> int:
    """Status of a child process that did ``act``: 0 if it came to its end."""
    child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]
