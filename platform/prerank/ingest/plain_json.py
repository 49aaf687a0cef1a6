"""JSON lines as programs write them: the same keys in the same order, values that need no parsing.

A value that is a text without a backslash, a number as DuckDB would print it, true, false or null
stands in the line as it is wanted. Such lines are scanned, which takes a third of the time of
reading their keys and then their values. Whatever else there is in a block leaves the whole block
to ``prerank.ingest.json_rows``, which gives the same values.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.kernels import kernel

_QUOTE, _BACKSLASH, _MINUS, _POINT, _ZERO, _NINE = b'"\\-.09'
_OPEN, _CLOSE, _COLON, _COMMA = b"{}:,"
INTEGER_DIGITS, DECIMAL_DIGITS = 18, 15
"""Up to as many digits a number is printed as it was read."""


def plain_columns(data: bytes, ends: NDArray[np.int64]) -> dict[str, pa.Array] | None:
    """Values of each key as string [n]; None unless every line is plain.

    Args:
        data: valid UTF-8, whole lines.
        ends: where each of them ends.
    """
    keys = _keys(data[: ends[0]])
    if not keys:
        return None
    texts = [json.dumps(key, ensure_ascii=False).encode() for key in keys]
    bounds = np.cumsum([0, *map(len, texts)])
    held = np.frombuffer(data, np.uint8)
    starts, stops = np.empty((2, len(keys), len(ends)), np.int64)
    named = np.frombuffer(b"".join(texts), np.uint8)
    if not _scan(held, ends, named, bounds, starts, stops):
        return None
    return {key: _column(held, starts[k], stops[k]) for k, key in enumerate(keys)}


def _keys(line: bytes) -> list[str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return list(found) if isinstance(found, dict) else []


def _column(
    data: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> pa.Array:
    """Parts of ``data`` as string [n]; null where one starts before it."""
    is_valid = starts >= 0
    offsets = np.zeros(len(starts) + 1, np.int32)
    np.cumsum(stops - starts, out=offsets[1:])
    values = _copied(data, starts, offsets)
    valid = None if is_valid.all() else pa.py_buffer(np.packbits(is_valid, bitorder="little"))
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.string(), len(starts), buffers)


@kernel
def _copied(
    data: NDArray[np.uint8], starts: NDArray[np.int64], offsets: NDArray[np.int32]
) -> NDArray[np.uint8]:
    out = np.empty(offsets[-1], np.uint8)
    for row in range(starts.size):
        shift = starts[row] - offsets[row]
        for at in range(offsets[row], offsets[row + 1]):
            out[at] = data[at + shift]
    return out


@kernel
def _scan(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    keys: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
) -> bool:
    """Find the values of each key; whether all lines are plain.

    ``keys`` in quotes, one from each of the ``bounds`` [K + 1] to the next. ``starts`` and
    ``stops`` [K, n] are filled, both with -1 where the value is null.
    """
    begin = 0
    for row in range(ends.size):
        end = ends[row]
        at = _after_blanks(data, begin, end)
        begin = end
        if at == end or data[at] != _OPEN:
            return False
        for key in range(bounds.size - 1):
            at = _after_blanks(data, at + 1, end)
            for place in range(bounds[key], bounds[key + 1]):
                if at == end or data[at] != keys[place]:
                    return False
                at += 1
            at = _after_blanks(data, at, end)
            if at == end or data[at] != _COLON:
                return False
            at = _after_blanks(data, at + 1, end)
            start, stop, at = _value(data, at, end)
            if at < 0:
                return False
            starts[key, row], stops[key, row] = start, stop
            at = _after_blanks(data, at, end)
            if at == end or data[at] != (_COMMA if key < bounds.size - 2 else _CLOSE):
                return False
        if _after_blanks(data, at + 1, end) != end:
            return False
    return True


@kernel(inline="always")
def _after_blanks(data: NDArray[np.uint8], at: int, end: int) -> int:
    while at < end and (data[at] == 32 or 9 <= data[at] <= 10 or data[at] == 13):
        at += 1
    return at


@kernel
def _value(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int, int]:
    """Where a value starts and stops, and where the rest begins; there -1 if it is not plain."""
    if at == end:
        return 0, 0, -1
    if data[at] == _QUOTE:
        stop = at + 1
        while stop < end and data[stop] != _QUOTE:
            if data[stop] == _BACKSLASH or data[stop] < 32:
                return 0, 0, -1
            stop += 1
        return (at + 1, stop, stop + 1) if stop < end else (0, 0, -1)
    if data[at] == _MINUS or _ZERO <= data[at] <= _NINE:
        stop = _number(data, at, end)
        return at, stop, stop
    for word in (b"null", b"true", b"false"):
        same = at + len(word) <= end
        for place in range(len(word)):
            same = same and data[at + place] == word[place]
        if same:
            stop = at + len(word)
            return (-1, -1, stop) if word[0] == b"n"[0] else (at, stop, stop)
    return 0, 0, -1


@kernel
def _number(data: NDArray[np.uint8], at: int, end: int) -> int:
    """Where a number stops that would be printed as it stands; -1 if it would not."""
    first = at + (data[at] == _MINUS)
    at = first
    while at < end and _ZERO <= data[at] <= _NINE:
        at += 1
    digits = at - first
    is_zero = digits == 1 and data[first] == _ZERO
    if not digits or (data[first] == _ZERO and not is_zero):
        return -1
    if at == end or data[at] != _POINT:
        is_other = at < end and (data[at] | 32) == 101  # e or E
        odd = is_other or digits > INTEGER_DIGITS or (is_zero and data[first - 1] == _MINUS)
        return -1 if odd else at
    point = at
    at += 1
    while at < end and _ZERO <= data[at] <= _NINE:
        at += 1
    decimals = at - point - 1
    if not decimals or digits + decimals > DECIMAL_DIGITS:
        return -1
    # 0.50 is printed as 0.5, and a small number with an exponent.
    if (data[at - 1] == _ZERO and decimals > 1) or (is_zero and data[point + 1] == _ZERO):
        return -1
    return -1 if at < end and (data[at] | 32) == 101 else at
