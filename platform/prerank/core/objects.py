"""Objects below a URI: listed, read, written, removed, each tried again while the store fails."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pyarrow.fs as pafs

from prerank.core.conditions import Conditions, conditions_of
from prerank.core.object_stores import COPY_BYTES, is_missing, opened, retried

T = TypeVar("T")


@dataclass(frozen=True)
class Listed:
    """An object: its name below the URI, its size in bytes, and when it changed.

    ``mtime_s`` is seconds since 1970, in most stores whole ones; None where a store does not say.
    """

    name: str
    size: int
    mtime_s: float | None


class Objects:
    """What lies below ``uri``. Nothing is asked of the store before it is needed.

    Every method raises ConfigError where access is refused, naming the variables; StateError where
    the store is full; NotReadyError where it does not answer.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._heeded: bool | None = None

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str]:
        system, base = opened(self.uri)
        return system, base.rstrip("/")

    @cached_property
    def _conditions(self) -> Conditions | None:
        return conditions_of(self.uri)

    @property
    def system(self) -> pafs.FileSystem:
        """The store's file system, in which ``path`` gives paths."""
        return self._opened[0]

    def path(self, name: str) -> str:
        """Path of an object in the store's file system."""
        base = self._opened[1]
        return f"{base}/{name}" if name else base

    def listed(self, folder: str, deep: bool = False) -> list[Listed]:
        """Objects of a folder, with all below it where ``deep`` says so; none of one without."""
        skip = len(self.path("").strip("/")) + 1
        chosen = pafs.FileSelector(self.path(folder), recursive=deep, allow_not_found=True)
        found = self._tried(folder, lambda: self.system.get_file_info(chosen))
        files = [info for info in found if info.type == pafs.FileType.File]
        return [
            Listed(
                info.path.strip("/")[skip:],
                info.size or 0,
                None if info.mtime_ns is None else info.mtime_ns / 1e9,
            )
            for info in files
        ]

    def read(self, name: str) -> bytes | None:
        """Content of an object; None where there is none."""

        def read() -> bytes | None:
            try:
                with self.system.open_input_stream(self.path(name)) as stream:
                    content: bytes = stream.read()
                    return content
            except OSError as error:
                if is_missing(error):
                    return None
                raise

        return self._tried(name, read)

    def write(self, name: str, data: bytes) -> None:
        """Make ``data`` the content of an object."""

        def write() -> None:
            with self.system.open_output_stream(self.path(name)) as stream:
                stream.write(data)

        self._tried(name, write, "written")

    def swap(self, name: str, data: bytes, before: bytes | None) -> bool:
        """Make ``data`` the content of an object that has ``before`` (None: that is not there).

        False where it has another content. Where the store has conditional puts, and a client for
        them is installed (``prerank.core.conditions``), nobody can come between. Else it is looked
        at before and after: of two who come at once, both may be told that they were late.
        """
        if (conditions := self._conditions) is not None and self._heeded is not False:
            path = self.path(name)
            now, tag = self._tried(name, lambda: conditions.read(path))
            if now not in (before, data):
                return False
            if not self._tried(name, lambda: conditions.write(path, data, tag), "written"):
                # Perhaps by a try of ours, whose answer was lost.
                return self._tried(name, lambda: conditions.read(path))[0] == data
            if self._heeded is None:
                # Of what is there, no store that heeds them makes another one.
                self._heeded = not self._tried(name, lambda: conditions.write(path, data, None))
            if self._heeded:
                return True
        elif self.read(name) not in (before, data):
            return False
        else:
            self.write(name, data)
        return self.read(name) == data

    def send(self, file: Path, name: str) -> None:
        """Make the content of a file that of an object."""

        def send() -> None:
            with file.open("rb") as read, self.system.open_output_stream(self.path(name)) as stream:
                while chunk := read.read(COPY_BYTES):
                    stream.write(chunk)

        self._tried(name, send, "written")

    def bring(self, name: str, size: int, mtime_ns: int, to: Path) -> None:
        """Make the content of an object that of a file, which takes its place when it is whole.

        The file gets the time ``mtime_ns``. An object of another size is not whole.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = to.with_name(f".{to.name}.{uuid.uuid4().hex}.tmp")

        def bring() -> None:
            with (
                self.system.open_input_stream(self.path(name)) as stream,
                partial.open("wb") as out,
            ):
                shutil.copyfileobj(stream, out, COPY_BYTES)
                if out.tell() != size:
                    raise OSError(f"{out.tell():,} of {size:,} bytes came")

        try:
            self._tried(name, bring)
            os.utime(partial, ns=(mtime_ns, mtime_ns))
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""

        def remove(name: str) -> None:
            try:
                self.system.delete_file(self.path(name))
            except OSError as error:
                if not is_missing(error):
                    raise

        for name in names:
            self._tried(name, lambda name=name: remove(name), "removed")  # type: ignore[misc]

    def _tried(self, name: str, call: Callable[[], T], done: str = "read") -> T:
        return retried(call, f"{self.uri}/{name}", done)
