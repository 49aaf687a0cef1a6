"""An append-only JSONL file whose records are on disk when ``append`` returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from prerank.core.files import sync_folder, written

REPLAY_BATCH = 1_000


class Journal:
    """One process appends to one journal; a torn last line (a crash) is closed and skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Sequence[Mapping[str, Any]]) -> int:
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
            sync_folder(self.path.parent)
        return end


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Put a file of ``lines`` in the place of ``path``, whole or not at all; its length in bytes.

    Raises:
        OSError: the disk refuses; ``path`` is as it was.
    """
    with written(path) as file:
        file.writelines(lines)
        return file.tell()


def replay(file: BinaryIO, start: int = 0) -> Iterator[tuple[list[Any], int]]:
    """Batches of records from byte ``start`` to the file's present end, each with its end.

    A record is what its line holds; a line torn by a crash was never acknowledged and is skipped.
    """
    stop = file.seek(0, os.SEEK_END)
    # A file that is shorter than what was read of it is another one.
    end = start if start <= stop else 0
    file.seek(end)
    batch: list[Any] = []
    for line in file:
        if not line.endswith(b"\n") or end >= stop:
            break
        end += len(line)
        try:
            batch.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
        if len(batch) == REPLAY_BATCH:
            yield batch, end
            batch = []
    if end > start or batch:
        yield batch, end
