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

from prerank.core.errors import DataError
from prerank.core.sql import connection
from prerank.ingest.lines import LINE, NOT_UTF8, Block, Opener, Rejected, as_text

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
    columns: dict[str, str] = {}
    first = 1
    with opener() as stream, connection() as db:
        for lines in _line_blocks(stream):
            if first == 1:
                lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
                _check_beginning(lines[0], name)
            yield _block(db, lines, first, columns, nested)
            first += len(lines)


def _line_blocks(stream: pa.NativeFile) -> Iterator[list[bytes]]:
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


def _check_beginning(line: bytes, name: str) -> None:
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name} is UTF-16: write it as UTF-8.")
    if line.lstrip().startswith(b"["):
        raise DataError(
            f"{name} is one JSON array: write one object a line, for example with `jq -c '.[]'`."
        )


def _block(
    db: duckdb.DuckDBPyConnection,
    lines: list[bytes],
    first: int,
    columns: dict[str, str],
    nested: Collection[str],
) -> Block:
    """Rows of ``lines``; ``columns`` (name -> JSON pointer) grows by the keys that are new."""
    text, bad = as_text(pa.array(lines, pa.binary()))
    numbers = np.arange(first, first + len(lines))
    begin = pc.utf8_ltrim_whitespace(text)
    is_object = pc.starts_with(begin, "{").fill_null(False)
    rejected = [Rejected(first + at, NOT_UTF8, lines[at].decode(errors="replace")) for at in bad]
    if not pc.all(is_object).as_py():
        odd = pc.and_(pc.invert(is_object), pc.not_equal(begin, "").fill_null(False))
        rejected += _rejected(text, numbers, odd, NO_OBJECT)
        text, numbers = text.filter(is_object), numbers[np.asarray(is_object)]
    text = _without_nan(text)
    try:
        rows = _extracted(db, text, columns, nested)
    except duckdb.Error:
        block = _registered(db, text)
        valid = block.project("json_valid(line)").to_arrow_table().column(0).combine_chunks()
        rejected += _rejected(text, numbers, pc.invert(valid), BROKEN)
        text, numbers = text.filter(valid), numbers[np.asarray(valid)]
        rows = _extracted(db, text, columns, nested)
    return Block(pa.table(rows | {LINE: pa.array(numbers)}), sorted(rejected))


def _without_nan(text: pa.Array) -> pa.Array:
    """Objects whose NaN and Infinity, which are no JSON but what Python writes, are null."""
    which = pc.or_(pc.match_substring(text, "NaN"), pc.match_substring(text, "Infinity"))
    if not pc.any(which).as_py():
        return text
    found = []
    for line in text.filter(which).to_pylist():
        try:
            found.append(json.dumps(json.loads(line, parse_constant=lambda _: None)))
        except ValueError:
            found.append(line)
    return pc.replace_with_mask(text, which, pa.array(found, pa.string()))


def _rejected(
    text: pa.Array, numbers: np.ndarray[tuple[int], np.dtype[np.int64]], which: pa.Array, why: str
) -> list[Rejected]:
    found = zip(numbers[np.asarray(which)].tolist(), text.filter(which).to_pylist(), strict=True)
    return [Rejected(line, why, said) for line, said in found]


def _registered(db: duckdb.DuckDBPyConnection, text: pa.Array) -> duckdb.DuckDBPyRelation:
    return db.from_arrow(pa.table({"line": text}))


def _extracted(
    db: duckdb.DuckDBPyConnection,
    text: pa.Array,
    columns: dict[str, str],
    nested: Collection[str],
) -> dict[str, pa.Array]:
    """The values of each object, by column.

    Raises:
        duckdb.Error: a line is no valid JSON.
    """
    block = _registered(db, text)
    keys = block.project("unnest(json_keys(line)) AS key").distinct().fetchall()
    new = sorted({key for (key,) in keys} - set(columns))
    columns |= {key: "/" + key.replace("~", "~0").replace("/", "~1") for key in new}
    columns |= {n: "/" + n.replace(".", "/") for n in nested if n not in columns}
    # No object has a key, and one list at least is wanted.
    paths = list(columns.values()) or ["/"]
    quoted = ", ".join("'" + p.replace("'", "''") + "'" for p in paths)
    values = block.project(f"json_extract_string(line, [{quoted}]) AS value").to_arrow_table()
    flat = values.column(0).combine_chunks().flatten()
    found = {
        name: flat.take(pa.array(np.arange(at, len(flat), len(paths))))
        for at, name in enumerate(columns)
    }
    return {n: v for n, v in found.items() if n not in nested or v.null_count < len(v)}
