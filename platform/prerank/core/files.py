"""Files that outlive a crash: after a kill or a power cut, a name holds the old state or the new.

What is new is written beside its target under a name of its own, synced, and renamed into place;
the folder is synced too, since a name is on disk only when its folder is. A folder cannot be
renamed over another one, so between two renames it is away: the next writer puts the old one back.
Of a home in an object store, what is new is published there before it is renamed here.

One writer of a folder at a time holds its lock (``flock``, so the file system must honour it).
Whatever else lies beside the folder was left by a process that died, and the writer removes it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from prerank.core.errors import DamagedError

STALE_SECONDS = 3600.0
"""A half-written file of this age is nobody's any more: it takes milliseconds to write one."""
SYNCED_AT_ONCE = 8

logger = logging.getLogger(__name__)


class Remote(Protocol):
    """An object store that has what is published below a folder (``prerank.core.storage``)."""

    def fetch(self, *paths: Path) -> None:
        """Have files, or all files below folders, on this disk."""

    def publish(self, path: Path, content: Path) -> None:
        """Make ``content``, a file or a folder, what the store has as ``path``."""

    def forget(self, path: Path) -> None:
        """Take out of the store what it has as ``path``, or below it."""


REMOTES: dict[Path, Remote] = {}
"""Cache folders of homes in object stores that this process uses; empty where all are local."""


def remote_of(path: Path) -> Remote | None:
    """The store that has what is published as ``path``; None for a file of a disk's own."""
    return next((r for root, r in REMOTES.items() if path.is_relative_to(root)), None)


def fetch(*paths: Path) -> None:
    """Have files, or all files below folders, on this disk, where their home is in an object store.

    Those that were there when the store was last looked at, or that tasks of this process wrote.

    Raises:
        PrerankError: the store does not give them.
    """
    for path in paths:
        if (remote := remote_of(path)) is not None:
            remote.fetch(path)


def publish(path: Path, content: Path | None = None) -> None:
    """Publish a file or folder that is whole, where its home is in an object store.

    ``content`` is what will be renamed to ``path``; None where it has its name already.

    Raises:
        PrerankError: the store refuses it, or does not answer; it has what it had before.
    """
    if (remote := remote_of(path)) is not None:
        remote.publish(path, content or path)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below ``folder``, and itself, to disk."""
    walked = [*os.walk(folder)]
    files = [os.path.join(parent, name) for parent, _, names in walked for name in names]
    # Together: a disk takes many files in little more time than one.
    with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
        for _ in pool.map(_sync_file, files):
            pass
    for parent, _, _ in walked:
        sync_folder(Path(parent))


def _sync_file(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, from its store too; nothing happens if there is none."""
    if (remote := remote_of(path)) is not None:
        remote.forget(path)
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def linked(file: Path, target: Path) -> None:
    """Give a file that is never changed a second place; copied where there can be no link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        # Not every file system has links.
        shutil.copy2(file, target)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """One process (and thread) at a time has the lock of ``target``; the others wait.

    The lock is the file ``.<name>.lock`` beside the target, which stays: a process that waits for
    a file that is removed would hold a lock that nobody else sees.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("%s is being written by another process: waiting for it", target)
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def held(target: Path) -> Iterator[bool]:
    """As ``locked``, but nobody waits: gives whether the lock of ``target`` was free."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            # The lock goes with the file, or with the process.
            yield True


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of ``folder`` when the block ends without an error.

    Another process that replaces the same folder waits; it must not be nested for one folder.
    """
    with locked(folder):
        _settle(folder)
        partial = _beside(folder, "partial")
        partial.mkdir()
        try:
            yield partial
            sync_tree(partial)
            publish(folder, partial)
            if os.path.lexists(folder):
                folder.rename(_beside(folder, "old"))
            partial.rename(folder)
            sync_folder(folder.parent)
        finally:
            _settle(folder)


def settled(parent: Path) -> None:
    """End what replacements of folders in ``parent`` left that were killed, as the next ones do."""
    left = [path.name.split(".") for path in parent.glob(f".*.{'?' * 32}.*")]
    for name in sorted({".".join(parts[1:-2]) for parts in left}):
        with locked(parent / name):
            _settle(parent / name)


def removed(folder: Path) -> None:
    """Remove a folder that ``replaced`` writes, and what replacements left beside it."""
    with locked(folder):
        _settle(folder)
        remove(folder)


def _settle(folder: Path) -> None:
    """Remove what a replacement left beside ``folder``; if it took the folder away, put it back."""
    for old in _left(folder, "old"):
        if not os.path.lexists(folder):
            old.rename(folder)
        remove(old)
    for partial in _left(folder, "partial"):
        remove(partial)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON as ``written`` does, into a folder that is made if there is none.

    Raises:
        OSError: the disk refuses; the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as file:
        file.write((json.dumps(data, indent=2, default=str) + "\n").encode())


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A fresh file that takes the place of ``path`` when the block ends without an error.

    A reader sees the old file or the new one, and a crash leaves one of them.

    Raises:
        OSError: the disk refuses; the old file stays.
    """
    _remove_stale(path)
    partial = _beside(path, "tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(path, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: the file is empty, torn, or no JSON object.
    """
    try:
        loaded = json.loads(path.read_bytes())
    except ValueError:
        loaded = None
    if not isinstance(loaded, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object.")
    return loaded


def read_json_or_nothing(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote, for state that can be made again: empty if missing or damaged."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        logger.warning("%s It counts as missing.", error)
        return {}


def _beside(target: Path, kind: str) -> Path:
    """A name in the folder of ``target`` that no other process or thread uses."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.{kind}")


def _left(target: Path, kind: str) -> list[Path]:
    """What ``_beside`` named and is still there."""
    return list(target.parent.glob(f".{target.name}.{'?' * 32}.{kind}"))


def _remove_stale(path: Path) -> None:
    for partial in _left(path, "tmp"):
        try:
            stale = time.time() - partial.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            continue
        if stale:
            partial.unlink(missing_ok=True)
