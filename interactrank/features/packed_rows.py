"""The packed engagement row: one key's item counts in one binary block (one Feast feature).

Layout, little endian, every part a multiple of 8 bytes so that kernels may read it in place::

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

import numba as nb
import numpy as np
from numpy.typing import NDArray

from interactrank.features.schema import ROW_VERSION, Level

HEADER_BYTES = 16
_SCALE = 4096.0

DECODE: NDArray[np.float32] = np.expm1(np.arange(1 << 16) / _SCALE).astype(np.float32)
"""Count of each uint16 code: float32 [65536]."""


class RowError(ValueError):
    """A packed row has another version, other columns, or a damaged length."""


@nb.njit(cache=True, nogil=True)
def quantise(counts: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Counts >= 0 to log codes; whole numbers below 2,000 come back within rounding."""
    return np.minimum(np.rint(np.log1p(counts) * _SCALE), 65535.0).astype(np.uint16)


def columns_crc(columns: tuple[str, ...]) -> int:
    """Identity of a row's columns, kept in its header."""
    return zlib.crc32("\n".join(columns).encode())


@nb.njit(cache=True)
def row_bytes(items: int, columns: int) -> int:
    """Size of a row in bytes."""
    size = 16 + 8 * columns + 8 * items + 2 * items * columns
    return (size + 7) & ~7


@nb.njit(cache=True, nogil=True)
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
    head = out[:16].view(np.uint32)
    head[0] = np.uint32(ROW_VERSION) | (np.uint32(f) << np.uint32(16))
    head[1] = n
    head[2] = crc
    head[3] = distinct
    at = 16
    out[at : at + 4 * f].view(np.float32)[:] = totals.astype(np.float32)
    at += 4 * f
    out[at : at + 4 * f].view(np.float32)[:] = truncated.astype(np.float32)
    at += 4 * f
    out[at : at + 8 * n].view(np.int64)[:] = ids
    at += 8 * n
    codes = out[at : at + 2 * n * f].view(np.uint16)
    codes[:] = quantise(counts).ravel()


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


@nb.njit(cache=True, nogil=True)
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


@nb.njit(cache=True, nogil=True)
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
    """Invert :func:`pack`.

    Raises:
        RowError: the block is of another version or of other columns, or has a wrong length.
    """
    if len(block) < HEADER_BYTES:
        raise RowError(f"packed row of {len(block)} bytes is shorter than its header")
    version, f = (int(v) for v in np.frombuffer(block, "<u2", 2))
    n, crc, distinct = (int(v) for v in np.frombuffer(block, "<u4", 3, 4))
    if version != ROW_VERSION:
        raise RowError(f"packed row has version {version}, this code reads {ROW_VERSION}")
    if crc != columns_crc(columns) or f != len(columns):
        raise RowError(f"packed row was written with other columns than {columns}")
    if len(block) != row_bytes(n, f):
        raise RowError(f"packed row has {len(block)} bytes, its header says {row_bytes(n, f)}")
    at = HEADER_BYTES
    totals = np.frombuffer(block, "<f4", f, at)
    truncated = np.frombuffer(block, "<f4", f, at + 4 * f)
    ids = np.frombuffer(block, "<i8", n, at + 8 * f)
    codes = np.frombuffer(block, "<u2", n * f, at + 8 * f + 8 * n)
    return Row(ids, DECODE[codes].reshape(n, f), totals, truncated, distinct)
