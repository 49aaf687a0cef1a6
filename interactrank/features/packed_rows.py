"""The packed engagement row: one key's item counts in one binary block (one Feast feature).

This module alone knows where a row's bytes stand. Kernels read a row in place through
``row_shape``, ``row_distinct``, ``row_total``, ``row_totals``,
``row_truncated``, ``row_ids`` and ``row_codes``, which are compiled into them. Each
takes uint8 that begins at the row's first byte and may go on past its last. Numba's cache of a
kernel does not see a change in another file: who changes the layout raises ``schema.ROW_VERSION``
and removes the ``__pycache__`` folders.

Layout, little endian, every part a multiple of 8 bytes::

    u16 version | u16 F | u32 K | u32 crc32(column names) | u32 distinct items
    f32 totals[F] | f32 truncated[F]            C(key; column), and the mass of the items cut off
    i64 item_ids[K]                             ascending
    u16 counts[K, F]                            log-quantised, see quantise()
    zero padding to a multiple of 8

``truncated`` over ``distinct - K`` is what an item absent from a truncated row gets: its smoothed
residual. Whole counts keep a relative error of at most 2e-4, and stop at 8.8 million.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interactrank.features.schema import ROW_VERSION, Level
from interactrank.kernels import kernel

HEADER_BYTES = 16
_VERSION, _WIDTH = 0, 2
"""Bytes at which the header's fields of 16 bits begin."""
_ITEMS, _CRC, _DISTINCT = 4, 8, 12
"""Bytes at which the header's fields of 32 bits begin."""
_SCALE = 4096.0

DECODE: NDArray[np.float32] = np.expm1(np.arange(1 << 16) / _SCALE).astype(np.float32)
"""Count of each uint16 code: float32 [65536]."""


class RowError(ValueError):
    """A packed row has another version, other columns, a damaged length, or damaged counts."""


@kernel
def quantise(counts: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Counts >= 0 to log codes; whole numbers below 2,000 come back within rounding."""
    return np.minimum(np.rint(np.log1p(counts) * _SCALE), 65535.0).astype(np.uint16)


def columns_crc(columns: tuple[str, ...]) -> int:
    """Identity of a row's columns, kept in its header."""
    return zlib.crc32("\n".join(columns).encode())


@kernel(inline="always")
def _truncated_at(columns: int) -> int:
    return HEADER_BYTES + 4 * columns


@kernel(inline="always")
def _ids_at(columns: int) -> int:
    return HEADER_BYTES + 8 * columns


@kernel(inline="always")
def _codes_at(items: int, columns: int) -> int:
    return HEADER_BYTES + 8 * columns + 8 * items


@kernel
def row_bytes(items: int, columns: int) -> int:
    """Size of a row in bytes."""
    return (_codes_at(items, columns) + 2 * items * columns + 7) & ~7


@kernel(inline="always")
def _u16(row: NDArray[np.uint8], at: int) -> int:
    # From its bytes: a view costs more than the read, in a kernel that reads many headers.
    value: int = np.int64(row[at]) | np.int64(row[at + 1]) << 8  # type: ignore[assignment]
    return value


@kernel(inline="always")
def _u32(row: NDArray[np.uint8], at: int) -> int:
    return _u16(row, at) | _u16(row, at + 2) << 16


@kernel(inline="always")
def row_shape(row: NDArray[np.uint8]) -> tuple[int, int]:
    """K and F of a row."""
    return _u32(row, _ITEMS), _u16(row, _WIDTH)


@kernel(inline="always")
def row_distinct(row: NDArray[np.uint8]) -> int:
    """Distinct items of the key, those that were cut off included."""
    return _u32(row, _DISTINCT)


@kernel(inline="always")
def row_total(blocks: NDArray[np.uint8], start: int, column: int) -> float:
    """C(key; ``column``) of the row that begins at ``start``: ``row_totals(row)[column]``."""
    at = start + HEADER_BYTES + 4 * column
    return blocks[at : at + 4].view(np.float32)[0]


@kernel(inline="always")
def row_totals(row: NDArray[np.uint8]) -> NDArray[np.float32]:
    """C(key; column): float32 [F], a view."""
    _, f = row_shape(row)
    return row[HEADER_BYTES : _truncated_at(f)].view(np.float32)


@kernel(inline="always")
def row_truncated(row: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mass of the items cut off, by column: float32 [F], a view."""
    _, f = row_shape(row)
    return row[_truncated_at(f) : _ids_at(f)].view(np.float32)


@kernel(inline="always")
def row_ids(row: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Item ids: int64 [K] ascending, a view."""
    n, f = row_shape(row)
    return row[_ids_at(f) : _codes_at(n, f)].view(np.int64)


@kernel(inline="always")
def row_codes(row: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Quantised counts, item by item: uint16 [K * F], a view; ``DECODE`` gives the counts."""
    n, f = row_shape(row)
    at = _codes_at(n, f)
    return row[at : at + 2 * n * f].view(np.uint16)


@kernel(inline="always")
def row_fits(row: NDArray[np.uint8], columns: int, crc: int) -> bool:
    """Whether ``row`` (its bytes alone) is of this version, of F ``columns`` with this ``crc``, as
    long as its header says, and its counts can be (``counts_can_be``).
    """
    if row.size < HEADER_BYTES:
        return False
    n, f = row_shape(row)
    known = _u16(row, _VERSION) == ROW_VERSION and _u32(row, _CRC) == crc and f == columns
    return known and row.size == row_bytes(n, f) and counts_can_be(row)


@kernel
def counts_can_be(row: NDArray[np.uint8]) -> bool:
    """Whether the masses of a row that is as long as its header says are finite and not negative,
    and its items are among the distinct ones.
    """
    totals, truncated = row_totals(row), row_truncated(row)
    for column in range(totals.size):
        for mass in (totals[column], truncated[column]):
            if not 0.0 <= mass < np.inf:  # which NaN is not either
                return False
    return row_shape(row)[0] <= row_distinct(row)


@kernel
def write_row(
    out: NDArray[np.uint8],
    crc: int,
    distinct: int,
    totals: NDArray[np.float64],
    truncated: NDArray[np.float64],
    ids: NDArray[np.int64],
    counts: NDArray[np.float64],
) -> None:
    """Write one row into ``out`` (zeroed, exactly row_bytes long). ``counts`` is [K, F]."""
    n, f = counts.shape
    _write_header(out, crc, n, f, distinct)
    row_totals(out)[:] = totals.astype(np.float32)
    row_truncated(out)[:] = truncated.astype(np.float32)
    row_ids(out)[:] = ids
    row_codes(out)[:] = quantise(counts).ravel()


@kernel
def _write_header(
    out: NDArray[np.uint8], crc: int, items: int, columns: int, distinct: int
) -> None:
    for at, value in ((_VERSION, ROW_VERSION), (_WIDTH, columns)):
        out[at : at + 2].view(np.uint16)[0] = value
    for at, value in ((_ITEMS, items), (_CRC, crc), (_DISTINCT, distinct)):
        out[at : at + 4].view(np.uint32)[0] = value


@kernel
def write_chosen(
    out: NDArray[np.uint8],
    crc: int,
    distinct: int,
    totals: NDArray[np.float64],
    truncated: NDArray[np.float64],
    ids: NDArray[np.int64],
    codes: NDArray[np.uint16],
    chosen: NDArray[np.int64],
) -> None:
    """``write_row`` of counts that are coded already: of ``ids`` [n] and ``codes`` [n, F]
    the entries ``chosen`` [K], in ascending order. ``out`` may hold anything before.
    """
    k, f = chosen.size, totals.size
    _write_header(out, crc, k, f, distinct)
    for at in range(_codes_at(k, f) + 2 * k * f, out.size):
        out[at] = 0
    masses, cut = row_totals(out), row_truncated(out)
    for column in range(f):
        masses[column], cut[column] = totals[column], truncated[column]
    held, coded = row_ids(out), row_codes(out)
    if k == ids.size:
        # All of them: a copy of memory, which most of the time of many rows goes into.
        held[:] = ids
        coded[:] = codes.ravel()
        return
    for i in range(k):
        own = chosen[i]
        held[i] = ids[own]
        for column in range(f):
            coded[i * f + column] = codes[own, column]


@dataclass(frozen=True)
class Row:
    """A packed row, unpacked.

    ``ids`` int64 [K] ascending, ``counts`` float32 [K, F], ``totals`` and ``truncated`` [F].
    """

    ids: NDArray[np.int64]
    counts: NDArray[np.float32]
    totals: NDArray[np.float32]
    truncated: NDArray[np.float32]
    distinct: int


@kernel
def kept_items(counts: NDArray[np.float64], mass_column: int, cap: int) -> NDArray[np.int64]:
    """Rows of ``counts`` [n, F] that a row capped at ``cap`` keeps, in ascending order.

    Most mass first: the count in ``mass_column``, then the sum over columns, then the lower id
    (``counts`` is in ascending order of item id).
    """
    n = counts.shape[0]
    if n <= cap:
        return np.arange(n)
    mass = np.empty(n, np.float64)
    for i in range(n):
        mass[i] = -counts[i, mass_column] - 1e-6 * counts[i].sum()
    return np.sort(np.argsort(mass, kind="mergesort")[:cap])


@kernel
def pack_into(
    out: NDArray[np.uint8],
    crc: int,
    ids: NDArray[np.int64],
    counts: NDArray[np.float64],
    mass_column: int,
    cap: int,
) -> None:
    """Cap ``ids`` [n] (ascending) and ``counts`` [n, F], and write the row into ``out``."""
    kept = kept_items(counts, mass_column, cap)
    totals = counts.sum(axis=0)
    chosen = counts[kept]
    truncated = np.maximum(totals - chosen.sum(axis=0), 0.0)
    write_row(out, crc, len(ids), totals, truncated, ids[kept], chosen)


def pack(
    ids: NDArray[np.int64], counts: NDArray[np.float64], columns: tuple[str, ...], level: Level
) -> bytes:
    """Pack ``ids`` int64 [n], ascending, with ``counts`` [n, F], capped as ``level`` says."""
    out = np.zeros(row_bytes(min(len(ids), level.cap), counts.shape[1]), dtype=np.uint8)
    pack_into(out, columns_crc(columns), ids, counts, mass_column(level), level.cap)
    return out.tobytes()


def mass_column(level: Level) -> int:
    """Index of the column whose counts decide what a capped row keeps: all engagement, all time."""
    return len(level.windows) - 1


def unpack(block: bytes, columns: tuple[str, ...]) -> Row:
    """Invert ``pack``.

    Raises:
        RowError: the block is of another version or of other columns, has a wrong length, or holds
            counts that cannot be.
    """
    row = np.frombuffer(block, np.uint8)
    if len(row) < HEADER_BYTES:
        raise RowError(f"packed row of {len(row)} bytes is shorter than its header")
    version, (n, f) = _u16(row, _VERSION), row_shape(row)
    if version != ROW_VERSION:
        raise RowError(f"packed row has version {version}, this code reads {ROW_VERSION}")
    if _u32(row, _CRC) != columns_crc(columns) or f != len(columns):
        raise RowError(f"packed row was written with other columns than {columns}")
    if len(row) != row_bytes(n, f):
        raise RowError(f"packed row has {len(row)} bytes, its header says {row_bytes(n, f)}")
    if not counts_can_be(row):
        raise RowError("packed row holds counts that cannot be: negative, no numbers, or too few")
    counts = DECODE[row_codes(row)].reshape(n, f)
    return Row(row_ids(row), counts, row_totals(row), row_truncated(row), row_distinct(row))
