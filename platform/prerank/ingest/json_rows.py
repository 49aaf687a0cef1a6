"""JSON lines, one object a line, to rows of text.

A value is the text that it is or that JSON writes for it: 12, true, {"a": 1}. What is null, NaN or
left out is null. A column whose name has dots, as the mapping may say, is looked for inside
objects: ``event_attributes.object.object_id``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prerank.core.errors import DataError
from prerank.core.sql import connection
from prerank.ingest.lines import LINE, NOT_UTF8, Block, Opener, Rejected, as_text
from prerank.ingest.plain_json import plain_columns

BLOCK_BYTES = 8 << 20
NO_OBJECT = "the line is not a JSON object"
BROKEN = "the line is broken JSON"


def json_blocks(opener: Opener, name: str, nested: Collection[str] = ()) -> Iterator[Block]:
    """The rows of a file, block by block; later blocks may have more columns.

    Args:
        opener: opens the file.
        name: what messages call it.
        nested: names with dots, of values inside objects.

    Raises:
        DataError: the file is one JSON array, or not UTF-8 as a whole.
        OSError: the file ends too early, or cannot be read.
    """
    first = 1
    with opener() as stream, connection() as db:
        values = _Values(db, nested)
        for data in _whole_lines(stream):
            if first == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
                _check_beginning(data, name)
            ends = _ends(data)
            yield _block(values, data, ends, first)
            first += len(ends)


def _whole_lines(stream: pa.NativeFile) -> Iterator[bytes]:
    """A file in blocks that end where a line does."""
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        data = rest + chunk
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if end:
            yield data[:end]
    if rest:
        yield rest


def _ends(data: bytes) -> NDArray[np.int64]:
    """Where the lines end, each with its break: [n]."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    return ends if data.endswith(b"\n") else np.append(ends, len(data))


def _check_beginning(data: bytes, name: str) -> None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name} is UTF-16: write it as UTF-8.")
    if data.partition(b"\n")[0].lstrip().startswith(b"["):
        raise DataError(
            f"{name} is one JSON array: write one object a line, for example with `jq -c '.[]'`."
        )


def _block(values: _Values, data: bytes, ends: NDArray[np.int64], first: int) -> Block:
    """Rows of the lines that end at ``ends``, the first of which is line ``first``."""
    offsets = np.concatenate((np.zeros(1, np.int32), ends), dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    lines = pa.Array.from_buffers(pa.binary(), len(ends), buffers)
    text, bad = as_text(lines)
    numbers = np.arange(first, first + len(lines))
    if not bad and (plain := values.of_plain(data, ends)) is not None:
        return Block(pa.table(plain | {LINE: pa.array(numbers)}), [])
    begin = pc.utf8_ltrim_whitespace(text)
    is_object = pc.starts_with(begin, "{").fill_null(False)
    rejected = [
        Rejected(first + at, NOT_UTF8, _without_break(lines[at].as_py().decode(errors="replace")))
        for at in bad
    ]
    if not pc.all(is_object).as_py():
        odd = pc.and_(pc.invert(is_object), pc.not_equal(begin, "").fill_null(False))
        rejected += _rejected(text, numbers, odd, NO_OBJECT)
        text, numbers = text.filter(is_object), numbers[np.asarray(is_object)]
    if b"NaN" in data or b"Infinity" in data:
        text = _without_nan(text)
    try:
        rows = values.of(text)
    except (duckdb.Error, UnicodeDecodeError):  # of a message that cuts a line within a letter
        valid = values.are_valid(text)
        rejected += _rejected(text, numbers, pc.invert(valid), BROKEN)
        text, numbers = text.filter(valid), numbers[np.asarray(valid)]
        rows = values.of(text)
    return Block(pa.table(rows | {LINE: pa.array(numbers)}), sorted(rejected))


def _without_nan(text: pa.Array) -> pa.Array:
    """Objects whose NaN and Infinity, which are no JSON but what Python writes, are null."""
    which = pc.or_(pc.match_substring(text, "NaN"), pc.match_substring(text, "Infinity"))
    found = []
    for line in text.filter(which).to_pylist():
        try:
            found.append(json.dumps(json.loads(line, parse_constant=lambda _: None)))
        except ValueError:
            found.append(line)
    return pc.replace_with_mask(text, which, pa.array(found, pa.string()))


def _rejected(
    text: pa.Array, numbers: NDArray[np.int64], which: pa.Array, why: str
) -> list[Rejected]:
    found = zip(numbers[np.asarray(which)].tolist(), text.filter(which).to_pylist(), strict=True)
    return [Rejected(line, why, _without_break(said)) for line, said in found]


def _without_break(line: str) -> str:
    return line.removesuffix("\n")


class _Values:
    """The values of a file's objects, by column.

    Args:
        db: that reads them.
        nested: names with dots, of values inside objects.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection, nested: Collection[str]) -> None:
        self._db, self._nested = db, nested
        self._pointers: dict[str, str] = {}

    def of_plain(self, data: bytes, ends: NDArray[np.int64]) -> dict[str, pa.Array] | None:
        """``of`` the lines of ``data``, if all are plain (``prerank.ingest.plain_json``)."""
        found = None if self._nested else plain_columns(data, ends)
        if found is None:
            return None
        self._know(found)
        nulls = pa.nulls(len(ends), pa.string())
        return {name: found.get(name, nulls) for name in self._pointers}

    def of(self, text: pa.Array) -> dict[str, pa.Array]:
        """Columns of some objects, those of earlier ones included.

        Raises:
            duckdb.Error: a line is no valid JSON.
        """
        block, pointers = self._block(text), self._pointers
        keys = block.project("unnest(json_keys(line)) AS key").distinct().fetchall()
        self._know({key for (key,) in keys})
        pointers |= {n: "/" + n.replace(".", "/") for n in self._nested if n not in pointers}
        # No object has a key, and one list at least is wanted.
        paths = list(pointers.values()) or ["/"]
        wanted = ", ".join(map(_quoted, paths))
        values = block.project(f"json_extract_string(line, [{wanted}]) AS value").to_arrow_table()
        flat = values.column(0).combine_chunks().flatten()
        found = {
            name: flat.take(pa.array(np.arange(at, len(flat), len(paths))))
            for at, name in enumerate(pointers)
        }
        return {n: v for n, v in found.items() if n not in self._nested or v.null_count < len(v)}

    def are_valid(self, text: pa.Array) -> pa.Array:
        """Which lines are JSON: bool [n]."""
        valid = self._block(text).project("json_valid(line)").to_arrow_table()
        return valid.column(0).combine_chunks()

    def _know(self, keys: Collection[str]) -> None:
        new = sorted({*keys} - set(self._pointers))
        self._pointers |= {k: "/" + k.replace("~", "~0").replace("/", "~1") for k in new}

    def _block(self, text: pa.Array) -> duckdb.DuckDBPyRelation:
        return self._db.from_arrow(pa.table({"line": text}))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
