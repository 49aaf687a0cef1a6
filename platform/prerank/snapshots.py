"""Counts of one shard's keys at every snapshot where they change, as packed rows.

A key's row is rewritten at a snapshot when an event entered one of its windows or left one since
the snapshot before: a row that is not rewritten is still right, so the latest row at or before a
time *is* the row of that time.

Snapshot ``s`` has cutoff ``s * cadence`` and holds events of buckets ``b < s`` (bucket =
floor(event_time / cadence)); a window of ``w`` buckets holds ``s - w <= b < s``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.rows import columns_crc, mass_column, pack_into, row_bytes
from interactrank.schema import ENGAGE, WINDOWS, FeatureSchema, Level

DAY_US = 86_400_000_000
NEVER = np.int64(1) << 40


@dataclass(frozen=True)
class LevelPlan:
    """A level's columns in the form the kernel wants.

    ``contribution`` float64 [actions, groups]: what an event of an action adds to each counted
    action; ``windows`` int64 [W]: lengths in buckets, NEVER for "all".
    """

    level: Level
    crc: int
    contribution: NDArray[np.float64]
    windows: NDArray[np.int64]
    stride: int

    @classmethod
    def of(cls, schema: FeatureSchema, level: Level, cadence_us: int) -> LevelPlan:
        """Plan for ``level`` of ``schema`` at this snapshot cadence (microseconds)."""
        groups = schema.counted(level)
        contribution = np.zeros((len(schema.actions), len(groups)))
        for code, action in enumerate(schema.actions):
            for at, group in enumerate(groups):
                engaged = group == ENGAGE and action not in schema.passive
                contribution[code, at] = float(engaged or group == action)
        days = [WINDOWS[w] for w in level.windows]
        windows = np.array([NEVER if d is None else d * DAY_US // cadence_us for d in days])
        stride = max(DAY_US // cadence_us, 1) if level.daily else 1
        return cls(level, columns_crc(schema.columns(level)), contribution, windows, stride)


@nb.njit(cache=True, nogil=True)
def _change_points(
    buckets: NDArray[np.int64], windows: NDArray[np.int64], last: int, stride: int
) -> NDArray[np.int64]:
    points = np.empty(buckets.size * (1 + windows.size), np.int64)
    n = 0
    for b in buckets:
        for w in range(-1, windows.size):
            s = b + 1 if w < 0 else b + windows[w] + 1
            s = (s + stride - 1) // stride * stride
            if s <= last:
                points[n] = s
                n += 1
    return np.unique(points[:n])


@nb.njit(cache=True, nogil=True)
def _grown(buffer: NDArray[np.uint8], need: int) -> NDArray[np.uint8]:
    if need <= buffer.size:
        return buffer
    larger = np.zeros(max(need, 2 * buffer.size), np.uint8)
    larger[: buffer.size] = buffer
    return larger


@nb.njit(cache=True, nogil=True)
def _shift_counts(
    counts: NDArray[np.float64],
    item: int,
    weights: NDArray[np.float64],
    window: int,
    n_windows: int,
    sign: float,
) -> None:
    for group in range(weights.size):
        counts[item, group * n_windows + window] += sign * weights[group]


@nb.njit(cache=True, nogil=True)
def build_rows(  # noqa: D103 - documented in the module; numba needs the flat signature
    starts: NDArray[np.int64],
    items: NDArray[np.int64],
    actions: NDArray[np.int64],
    buckets: NDArray[np.int64],
    contribution: NDArray[np.float64],
    windows: NDArray[np.int64],
    crc: int,
    mass_col: int,
    cap: int,
    stride: int,
    last: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    n_windows, n_cols = windows.size, windows.size * contribution.shape[1]
    out = np.zeros(1 << 20, np.uint8)
    used, n_rows = 0, 0
    ends = np.empty(1024, np.int64)
    row_key = np.empty(1024, np.int64)
    row_snapshot = np.empty(1024, np.int64)
    for key in range(starts.size - 1):
        lo, hi = starts[key], starts[key + 1]
        ids = np.unique(items[lo:hi])
        local = np.searchsorted(ids, items[lo:hi])
        counts = np.zeros((ids.size, n_cols))
        seen = np.zeros(ids.size, np.bool_)
        heads = np.zeros(n_windows + 1, np.int64)
        for s in _change_points(buckets[lo:hi], windows, last, stride):
            while heads[n_windows] < hi - lo and buckets[lo + heads[n_windows]] < s:
                e = heads[n_windows]
                seen[local[e]] = True
                for w in range(n_windows):
                    _shift_counts(counts, local[e], contribution[actions[lo + e]], w, n_windows, 1)
                heads[n_windows] += 1
            for w in range(n_windows):
                while heads[w] < heads[n_windows] and buckets[lo + heads[w]] + windows[w] < s:
                    e = heads[w]
                    _shift_counts(counts, local[e], contribution[actions[lo + e]], w, n_windows, -1)
                    heads[w] += 1
            present = np.flatnonzero(seen)
            size = row_bytes(min(present.size, cap), n_cols)
            out = _grown(out, used + size)
            pack_into(out[used : used + size], crc, ids[present], counts[present], mass_col, cap)
            used += size
            if n_rows == ends.size:
                ends = np.concatenate((ends, np.empty_like(ends)))
                row_key = np.concatenate((row_key, np.empty_like(row_key)))
                row_snapshot = np.concatenate((row_snapshot, np.empty_like(row_snapshot)))
            ends[n_rows], row_key[n_rows], row_snapshot[n_rows] = used, key, s
            n_rows += 1
    return out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]


def shard_rows(
    plan: LevelPlan, events: pa.Table, cadence_us: int, lag_us: int, last_snapshot: int
) -> pa.Table:
    """Packed rows of a shard.

    Args:
        plan: the level's columns.
        events: ``key`` str, ``item_id`` int64, ``action`` int8 code, ``bucket`` int64, sorted by
            (key, bucket).
        cadence_us: snapshot cadence in microseconds.
        lag_us: publication lag in microseconds; a row is available at cutoff + lag.
        last_snapshot: index of the last snapshot to publish.

    Returns:
        ``engagement_key`` str, ``event_timestamp`` and ``cutoff`` timestamp[us, UTC], ``row``
        binary; sorted by key, then time.
    """
    keys = events["key"].combine_chunks()
    encoded = keys.dictionary_encode()
    codes = encoded.indices.to_numpy()
    starts = np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes)).astype(np.int64)
    level = plan.level
    data, ends, row_key, row_snapshot = build_rows(
        starts,
        events["item_id"].to_numpy(),
        events["action"].to_numpy().astype(np.int64),
        events["bucket"].to_numpy(),
        plan.contribution,
        plan.windows,
        plan.crc,
        mass_column(level),
        level.cap,
        plan.stride,
        last_snapshot,
    )
    offsets = np.concatenate((np.zeros(1, np.int64), ends))
    rows = pa.Array.from_buffers(
        pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    cutoff = row_snapshot * cadence_us
    stamp = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "engagement_key": encoded.dictionary.take(pa.array(codes[starts[:-1]][row_key])),
            "event_timestamp": pa.array(cutoff + lag_us, pa.int64()).cast(stamp),
            "cutoff": pa.array(cutoff, pa.int64()).cast(stamp),
            "row": rows,
        }
    )
