"""An append-only JSONL file whose records are on disk when ``append`` returns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

REPLAY_BATCH = 1_000


class Journal:
    """One process appends to one journal; a torn last line (a crash) is closed and skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Sequence[dict[str, Any]]) -> int:
        """Append and sync; returns the file's length in bytes.

        Raises:
            OSError: the disk refuses; the records are not acknowledged.
        """
        data = b"".join(orjson.dumps(r) + b"\n" for r in records)
        created = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    data = b"\n" + data
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            end = file.seek(0, os.SEEK_END)
        if created:
            _sync_folder(self.path.parent)
        return end


def _sync_folder(folder: Path) -> None:
    # A new file's name is on disk only when its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replay(path: Path, start: int = 0) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Batches of whole records from byte ``start`` on, each with the byte where it ends."""
    with path.open("rb") as file:
        file.seek(start)
        batch: list[dict[str, Any]] = []
        end = start
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                batch.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                # A line torn by a crash was never acknowledged.
                continue
            if len(batch) == REPLAY_BATCH:
                yield batch, end
                batch = []
        if batch:
            yield batch, end
