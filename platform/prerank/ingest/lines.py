"""What CSV and JSON lines are read into: rows of text with the lines at which they begin."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

LINE = "__line"
"""Column beside a team's own: the line of the file, from 1, at which the row begins."""

FILE = "__file"
"""Column of a table that was joined of several files: the name of the file that LINE counts in."""

NOT_UTF8 = "the line is not valid UTF-8"

Opener = Callable[[], AbstractContextManager[pa.NativeFile]]
"""Opens a file's text, decompressed, from its beginning."""


class Rejected(NamedTuple):
    """A line that is no row: its number from 1, why, and its text as far as it is text."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Block:
    """Some lines of a file, in its order.

    Attributes:
        rows: columns string, null where a row has no value, and LINE int64.
        rejected: the lines among them that are no rows.
    """

    rows: pa.Table
    rejected: list[Rejected]


def as_text(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """Bytes as string, and the positions of what is not UTF-8, which becomes null."""
    try:
        return array.cast(pa.string()), []
    except pa.ArrowInvalid:
        pass
    values: list[str | None] = []
    bad = []
    for at, value in enumerate(array.to_pylist()):
        try:
            values.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            values.append(None)
            bad.append(at)
    return pa.array(values, pa.string()), bad
