"""Users taken out of a file of the served log, by lines or by rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from prerank.core.files import written
from prerank.core.forgotten import Forgotten


def count_of(file: Path, forgotten: Forgotten) -> int:
    """How many lines, or rows of a Parquet file with a column ``user_id``, are of users."""
    if file.suffix == ".parquet":
        users = pq.read_table(file, columns=["user_id"], partitioning=None)[0]
        return len(forgotten.rows(users))
    with file.open("rb") as lines:
        return sum(is_of(line, forgotten) for line in lines)


def write_without(file: Path, target: Path, forgotten: Forgotten) -> int:
    """Write the rest of a file as ``target``, and publish it; how many lines or rows are left.

    Where none is, and where all are of a file that is its own target, nothing is written. Lines of
    blanks (``blank``) are none.
    """
    if file.suffix == ".parquet":
        rows = pq.read_table(file, partitioning=None)
        gone = set(forgotten.rows(rows["user_id"]))
        left = rows.filter(pa.array([at not in gone for at in range(len(rows))], pa.bool_()))
        if len(left) and (gone or target != file):
            with written(target) as out:
                pq.write_table(left, out, compression="zstd")
        return len(left)
    lines = file.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.strip() and not is_of(line, forgotten)]
    if kept and (len(kept) < len(lines) or target != file):
        with written(target) as out:
            out.write(b"".join(kept))
    return len(kept)


def blank(file: Path, forgotten: Forgotten) -> int:
    """Make lines of users blanks of their length, while others append to the file; how many.

    No line of another user moves.
    """
    found = at = 0
    with file.open("r+b") as lines:
        places: list[tuple[int, int]] = []
        for line in lines:
            if is_of(line, forgotten):
                places.append((at, len(line.rstrip(b"\n"))))
            at += len(line)
        for place, length in places:
            lines.seek(place)
            lines.write(b" " * length)
            found += 1
    return found


def is_of(line: bytes, forgotten: Forgotten) -> bool:
    """Whether a line, of JSON or not, names one of the users."""
    return bool(line.strip()) and forgotten.named_in(_parsed(line))


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return line.decode(errors="replace")
