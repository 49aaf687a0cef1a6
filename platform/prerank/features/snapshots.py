"""Counts of one shard's keys at every snapshot where they change, as packed rows.

A key's row is rewritten at a snapshot when an event entered one of its windows or left one since
the snapshot before: a row that is not rewritten is still right, so the latest row at or before a
time *is* the row of that time.

Snapshot ``s`` has cutoff ``s * cadence`` and holds events of buckets ``b < s`` (bucket =
floor(event_time / cadence)); a window of ``w`` buckets holds ``s - w <= b < s``. A late event
enters by the bucket in which it became known, and leaves a window by that in which it happened.

Rows come in chunks, so that memory depends on neither the log's length nor one key's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.packed_rows import columns_crc, mass_column, pack_into, row_bytes
from interactrank.features.schema import ENGAGE, WINDOWS, FeatureSchema, Level
from interactrank.kernels import kernel
from prerank.core.errors import DataError
from prerank.core.times import DAY_US

NEVER = np.int64(1) << 40
CHUNK_BYTES = 16 << 20


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


@kernel
def _change_points(
    known: NDArray[np.int64],
    buckets: NDArray[np.int64],
    windows: NDArray[np.int64],
    last: int,
    stride: int,
) -> NDArray[np.int64]:
    points = np.empty(buckets.size * (1 + windows.size), np.int64)
    n = 0
    for e in range(buckets.size):
        for w in range(-1, windows.size):
            s = known[e] + 1 if w < 0 else buckets[e] + windows[w] + 1
            s = (s + stride - 1) // stride * stride
            # A late event may have missed a window: it neither enters nor leaves it.
            if s <= last and (w < 0 or buckets[e] + windows[w] > known[e]):
                points[n] = s
                n += 1
    return np.unique(points[:n])


@kernel
def _grown(buffer: NDArray[np.uint8], need: int) -> NDArray[np.uint8]:
    if need <= buffer.size:
        return buffer
    larger = np.zeros(max(need, 2 * buffer.size), np.uint8)
    larger[: buffer.size] = buffer
    return larger


@kernel
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


@kernel
def build_rows(  # noqa: D103 - documented in the module; numba needs the flat signature
    starts: NDArray[np.int64],
    items: NDArray[np.int64],
    actions: NDArray[np.int64],
    known: NDArray[np.int64],
    buckets: NDArray[np.int64],
    contribution: NDArray[np.float64],
    windows: NDArray[np.int64],
    crc: int,
    mass_col: int,
    cap: int,
    stride: int,
    last: int,
    first_key: int,
    first_point: int,
    budget: int,
) -> tuple[
    NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], tuple[int, int]
]:
    n_windows, n_cols = windows.size, windows.size * contribution.shape[1]
    out = np.zeros(1 << 20, np.uint8)
    used, n_rows = 0, 0
    ends = np.empty(1024, np.int64)
    row_key = np.empty(1024, np.int64)
    row_snapshot = np.empty(1024, np.int64)
    for key in range(first_key, starts.size - 1):
        lo, hi = starts[key], starts[key + 1]
        ids = np.unique(items[lo:hi])
        local = np.searchsorted(ids, items[lo:hi])
        counts = np.zeros((ids.size, n_cols))
        seen = np.zeros(ids.size, np.bool_)
        entered = 0
        leaving = np.argsort(buckets[lo:hi], kind="mergesort")
        left = np.zeros(n_windows, np.int64)
        points = _change_points(known[lo:hi], buckets[lo:hi], windows, last, stride)
        for at in range(points.size):
            s = points[at]
            while entered < hi - lo and known[lo + entered] < s:
                e = lo + entered
                seen[local[entered]] = True
                for w in range(n_windows):
                    if buckets[e] + windows[w] > known[e]:
                        _shift_counts(
                            counts, local[entered], contribution[actions[e]], w, n_windows, 1
                        )
                entered += 1
            for w in range(n_windows):
                while left[w] < hi - lo and buckets[lo + leaving[left[w]]] + windows[w] < s:
                    e = lo + leaving[left[w]]
                    if buckets[e] + windows[w] > known[e]:
                        _shift_counts(
                            counts, local[e - lo], contribution[actions[e]], w, n_windows, -1
                        )
                    left[w] += 1
            if key == first_key and at < first_point:
                continue  # written in an earlier chunk
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
            if used >= budget:
                done = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
                return *done, (key, at + 1)
    done = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
    return *done, (starts.size - 1, 0)


def shard_rows(
    plan: LevelPlan,
    events: pa.Table,
    cadence_us: int,
    lag_us: int,
    last_snapshot: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[pa.Table]:
    """Packed rows of a shard, in tables of about ``chunk_bytes``.

    Args:
        plan: the level's columns.
        events: ``key`` str, ``item_id`` int64, ``action`` int8 code, ``bucket`` and ``known``
            int64 (buckets in which it happened and became known), sorted by (key, known).
        cadence_us: snapshot cadence in microseconds.
        lag_us: publication lag in microseconds; a row is available at cutoff + lag.
        last_snapshot: index of the last snapshot to publish.

    Raises:
        DataError: an action's code is none of the log's.

    Yields:
        ``engagement_key`` str, ``event_timestamp`` and ``cutoff`` timestamp[us, UTC], ``row``
        binary; sorted by key, then time.
    """
    keys = events["key"].combine_chunks()
    encoded = keys.dictionary_encode()
    codes = encoded.indices.to_numpy()
    starts = np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes)).astype(np.int64)
    names = encoded.dictionary.take(pa.array(codes[starts[:-1]]))
    columns = (
        events["item_id"].to_numpy(),
        events["action"].to_numpy().astype(np.int64),
        events["known"].to_numpy(),
        events["bucket"].to_numpy(),
    )
    mass_col, cap = mass_column(plan.level), plan.level.cap
    # The kernel looks the codes up without a check.
    if len(events) and not 0 <= columns[1].min() <= columns[1].max() < len(plan.contribution):
        raise DataError(f"an action's code is not below {len(plan.contribution)}: ingest again")
    at = (0, 0)
    while at[0] < len(starts) - 1:
        data, ends, row_key, row_snapshot, at = build_rows(
            starts,
            *columns,
            plan.contribution,
            plan.windows,
            plan.crc,
            mass_col,
            cap,
            plan.stride,
            last_snapshot,
            at[0],
            at[1],
            chunk_bytes,
        )
        offsets = np.concatenate((np.zeros(1, np.int64), ends))
        rows = pa.Array.from_buffers(
            pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        )
        cutoff = row_snapshot * cadence_us
        stamp = pa.timestamp("us", tz="UTC")
        yield pa.table(
            {
                "engagement_key": names.take(pa.array(row_key)),
                "event_timestamp": pa.array(cutoff + lag_us, pa.int64()).cast(stamp),
                "cutoff": pa.array(cutoff, pa.int64()).cast(stamp),
                "row": rows,
            }
        )
