"""Counts of one shard's keys at every snapshot where they change, as packed rows.

A key's row is rewritten at a snapshot when an event entered one of its windows or left one since
the snapshot before: a row that is not rewritten is still right, so the latest row at or before a
time *is* the row of that time.

Snapshot ``s`` has cutoff ``s * cadence`` and holds events of buckets ``b < s`` (bucket =
floor(event_time / cadence)); a window of ``w`` buckets holds ``s - w <= b < s``. A late event
enters by the bucket in which it became known, and leaves a window by that in which it happened.

The counts at the end of a build are kept, as the *state* of each key. The next build goes on from
them, and needs of the events only those that enter a window or leave one after that: its rows are
those that one build of all events would give, byte for byte, as counts are whole numbers.

Rows come in chunks, so that memory depends on neither the log's length nor one key's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.packed_rows import (
    columns_crc,
    mass_column,
    quantise,
    row_bytes,
    write_chosen,
)
from interactrank.features.schema import ENGAGE, WINDOWS, FeatureSchema, Level
from interactrank.kernels import kernel
from prerank.core.errors import DataError
from prerank.core.times import DAY_US, UTC_US
from prerank.features.keyed import KeyEvents

NEVER = 1 << 40
CHUNK_BYTES = 16 << 20
CODED = 1 << 12
"""Counts below this one are looked up in a table of their codes."""
STATES = pa.schema({"key": pa.string(), "state": pa.large_binary()})


@dataclass(frozen=True)
class LevelPlan:
    """A level's columns in the form the kernel wants.

    ``added`` int64 [actions, groups]: what an event of an action adds to each counted action;
    ``windows`` int64 [W]: lengths in buckets, NEVER for "all"; ``stride``: snapshots from one that
    may have rows to the next.
    """

    level: Level
    crc: int
    added: NDArray[np.int64]
    windows: NDArray[np.int64]
    stride: int

    @classmethod
    def of(cls, schema: FeatureSchema, level: Level, cadence_us: int) -> LevelPlan:
        """Plan for ``level`` of ``schema`` at this snapshot cadence (microseconds)."""
        groups = schema.counted(level)
        added = np.zeros((len(schema.actions), len(groups)), np.int64)
        for code, action in enumerate(schema.actions):
            for at, group in enumerate(groups):
                engaged = group == ENGAGE and action not in schema.passive
                added[code, at] = engaged or group == action
        days = [WINDOWS[w] for w in level.windows]
        windows = np.array([NEVER if d is None else d * DAY_US // cadence_us for d in days])
        stride = max(DAY_US // cadence_us, 1) if level.daily else 1
        return cls(level, columns_crc(schema.columns(level)), added, windows, stride)

    def settled(self, snapshot: int | None) -> int:
        """The snapshot that the level's states are of after a build up to ``snapshot``.

        A daily level's is the last midnight's. None (no build yet) is a time before all events.
        """
        return -NEVER if snapshot is None else snapshot // self.stride * self.stride


@dataclass(frozen=True)
class Span:
    """What a build publishes: snapshots later than ``after`` (None: all) and up to ``last``.

    ``cadence_us`` from one to the next, ``lag_us`` from a cutoff to when its rows are available,
    both in microseconds.
    """

    after: int | None
    last: int
    cadence_us: int
    lag_us: int


@dataclass(frozen=True)
class States:
    """The states of some keys [k]: ``data`` uint8 holds that of key ``i`` from ``starts[i]`` to
    ``ends[i]``, two equal ones where it has none.

    A state is ``i64 item_ids[n]`` ascending, ``u32 counts[n, F]``, and zeros to a multiple of 8.
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, names: pa.Array, held: pa.Table) -> States:
        """States of the keys ``names``, of a table as STATES."""
        column = held["state"].cast(pa.large_binary()).combine_chunks()
        if not len(column):
            none = np.zeros(len(names), np.int64)
            return cls(np.zeros(0, np.uint8), none, none)
        _, offsets, data = column.buffers()
        at = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        where = pc.index_in(names, held["key"].combine_chunks())
        there = where.is_valid().to_numpy(zero_copy_only=False)
        row = where.fill_null(0).to_numpy()
        starts, ends = np.where(there, at[row], 0), np.where(there, at[row + 1], 0)
        return cls(np.frombuffer(data, np.uint8), starts, ends)


@dataclass(frozen=True)
class Chunk:
    """Some of a level's rows, and the states of the keys that they complete (as STATES)."""

    rows: pa.Table
    states: pa.Table


@kernel
def _change_points(
    known: NDArray[np.int64],
    buckets: NDArray[np.int64],
    windows: NDArray[np.int64],
    first: int,
    last: int,
    stride: int,
) -> NDArray[np.int64]:
    points = np.empty(buckets.size * (1 + windows.size), np.int64)
    n = 0
    for e in range(buckets.size):
        for w in range(-1, windows.size):
            # A late event may have missed a window: it neither enters nor leaves it.
            if w >= 0 and buckets[e] + windows[w] <= known[e]:
                continue
            changes = known[e] if w < 0 else buckets[e] + windows[w]
            s = (changes + stride) // stride * stride
            if first <= changes and s <= last:
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
def _longer(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``numbers``, with room for one more than ``count``."""
    return numbers if count < numbers.size else np.concatenate((numbers, np.empty_like(numbers)))


@kernel(inline="always")
def _code(count: int, coded: NDArray[np.uint16]) -> int:
    if count < coded.size:
        return coded[count]
    return quantise(np.full(1, float(count)))[0]


@kernel
def _shift(
    item: int,
    added: NDArray[np.int64],
    window: int,
    n_windows: int,
    sign: int,
    counts: NDArray[np.int64],
    codes: NDArray[np.uint16],
    coded: NDArray[np.uint16],
    totals: NDArray[np.int64],
    sums: NDArray[np.int64],
) -> None:
    for group in range(added.size):
        if added[group]:
            column = group * n_windows + window
            counts[item, column] += sign * added[group]
            codes[item, column] = _code(counts[item, column], coded)
            totals[column] += sign * added[group]
            sums[item] += sign * added[group]


@kernel
def _kept(
    counts: NDArray[np.int64],
    sums: NDArray[np.int64],
    present: NDArray[np.int64],
    mass_col: int,
    cap: int,
) -> NDArray[np.int64]:
    """Of the items ``present`` those that ``packed_rows.kept_items`` keeps, without sorting all."""
    mass = np.empty(present.size, np.float64)
    for i in range(present.size):
        mass[i] = -float(counts[present[i], mass_col]) - 1e-6 * float(sums[present[i]])
    limit = np.partition(mass, cap - 1)[cap - 1]
    equal = cap - (mass < limit).sum()
    kept = np.empty(cap, np.int64)
    n = 0
    for i in range(present.size):
        if mass[i] < limit or (mass[i] == limit and equal > 0):
            equal -= mass[i] == limit
            kept[n] = present[i]
            n += 1
    return kept


@kernel
def _append_row(
    out: NDArray[np.uint8],
    used: int,
    crc: int,
    ids: NDArray[np.int64],
    counts: NDArray[np.int64],
    codes: NDArray[np.uint16],
    totals: NDArray[np.int64],
    sums: NDArray[np.int64],
    present: NDArray[np.int64],
    mass_col: int,
    cap: int,
) -> tuple[NDArray[np.uint8], int]:
    n_cols = totals.size
    size = row_bytes(min(present.size, cap), n_cols)
    out = _grown(out, used + size)
    truncated = np.zeros(n_cols, np.int64)
    chosen = present
    if present.size > cap:
        chosen = _kept(counts, sums, present, mass_col, cap)
        truncated[:] = totals
        for i in chosen:
            for column in range(n_cols):
                truncated[column] -= counts[i, column]
    row = out[used : used + size]
    write_chosen(row, crc, present.size, totals, truncated, ids, codes, chosen)
    return out, used + size


@kernel
def _append_state(
    out: NDArray[np.uint8],
    used: int,
    ids: NDArray[np.int64],
    counts: NDArray[np.int64],
    present: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], int]:
    n, n_cols = present.size, counts.shape[1]
    size = (8 * n + 4 * n * n_cols + 7) & ~7
    out = _grown(out, used + size)
    held = out[used : used + 8 * n].view(np.int64)
    numbers = out[used + 8 * n : used + 8 * n + 4 * n * n_cols].view(np.uint32)
    for i in range(n):
        held[i] = ids[present[i]]
        for column in range(n_cols):
            numbers[i * n_cols + column] = counts[present[i], column]
    return out, used + size


@kernel
def build_rows(  # noqa: D103 - documented in the module; numba needs the flat signature
    starts: NDArray[np.int64],
    items: NDArray[np.int64],
    actions: NDArray[np.int8],
    known: NDArray[np.int64],
    buckets: NDArray[np.int64],
    states: NDArray[np.uint8],
    state_starts: NDArray[np.int64],
    state_ends: NDArray[np.int64],
    added: NDArray[np.int64],
    windows: NDArray[np.int64],
    coded: NDArray[np.uint16],
    crc: int,
    mass_col: int,
    cap: int,
    stride: int,
    first: int,
    last: int,
    first_key: int,
    first_point: int,
    budget: int,
) -> tuple[
    tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]],
    tuple[int, int],
]:
    n_windows, n_cols = windows.size, windows.size * added.shape[1]
    # Room for a chunk and a row; memory that is not written costs nothing.
    out = np.zeros(budget + (1 << 17), np.uint8)
    used, n_rows = 0, 0
    ends, row_key, row_snapshot = (
        np.empty(1024, np.int64),
        np.empty(1024, np.int64),
        np.empty(1024, np.int64),
    )
    held = np.zeros(1 << 16, np.uint8)
    held_used, n_held = 0, 0
    held_ends, held_key = np.empty(1024, np.int64), np.empty(1024, np.int64)
    for key in range(first_key, starts.size - 1):
        lo, hi = starts[key], starts[key + 1]
        points = _change_points(known[lo:hi], buckets[lo:hi], windows, first, last, stride)
        if not points.size:
            continue
        state = states[state_starts[key] : state_ends[key]]
        n_before = state.size // (8 + 4 * n_cols)
        before = state[: 8 * n_before].view(np.int64)
        numbers = state[8 * n_before : (8 + 4 * n_cols) * n_before].view(np.uint32)
        ids = np.unique(np.concatenate((before, items[lo:hi])))
        local = np.searchsorted(ids, items[lo:hi])
        counts = np.zeros((ids.size, n_cols), np.int64)
        codes = np.zeros((ids.size, n_cols), np.uint16)
        totals, sums = np.zeros(n_cols, np.int64), np.zeros(ids.size, np.int64)
        seen = np.zeros(ids.size, np.bool_)
        at_id = 0
        for i in range(n_before):
            while ids[at_id] != before[i]:
                at_id += 1
            seen[at_id] = True
            for column in range(n_cols):
                count = np.int64(numbers[i * n_cols + column])
                counts[at_id, column] = count
                codes[at_id, column] = _code(count, coded)
                totals[column] += count
                sums[at_id] += count
        present = np.flatnonzero(seen)
        # What entered before the state's snapshot is in it, and so is what left before.
        entered = np.searchsorted(known[lo:hi], first)
        leaving = np.argsort(buckets[lo:hi], kind="mergesort")
        in_order = buckets[lo:hi][leaving]
        left = np.empty(n_windows, np.int64)
        for w in range(n_windows):
            left[w] = np.searchsorted(in_order, first - windows[w])
        for at in range(points.size):
            s = points[at]
            more = False
            while entered < hi - lo and known[lo + entered] < s:
                e = lo + entered
                if not seen[local[entered]]:
                    seen[local[entered]] = more = True
                for w in range(n_windows):
                    if buckets[e] + windows[w] > known[e]:
                        own = added[actions[e]]
                        i = local[entered]
                        _shift(i, own, w, n_windows, 1, counts, codes, coded, totals, sums)
                entered += 1
            for w in range(n_windows):
                while left[w] < hi - lo and in_order[left[w]] + windows[w] < s:
                    e = lo + leaving[left[w]]
                    if buckets[e] + windows[w] > known[e]:
                        own = added[actions[e]]
                        i = local[e - lo]
                        _shift(i, own, w, n_windows, -1, counts, codes, coded, totals, sums)
                    left[w] += 1
            if more:
                present = np.flatnonzero(seen)
            if key == first_key and at < first_point:
                continue  # written in an earlier chunk
            out, used = _append_row(
                out, used, crc, ids, counts, codes, totals, sums, present, mass_col, cap
            )
            ends, row_key = _longer(ends, n_rows), _longer(row_key, n_rows)
            row_snapshot = _longer(row_snapshot, n_rows)
            ends[n_rows], row_key[n_rows], row_snapshot[n_rows] = used, key, s
            n_rows += 1
            if used >= budget and at + 1 < points.size:
                rows = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
                done = held[:held_used], held_ends[:n_held], held_key[:n_held]
                return rows, done, (key, at + 1)
        held, held_used = _append_state(held, held_used, ids, counts, present)
        held_ends, held_key = _longer(held_ends, n_held), _longer(held_key, n_held)
        held_ends[n_held], held_key[n_held] = held_used, key
        n_held += 1
        if used >= budget:
            rows = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
            done = held[:held_used], held_ends[:n_held], held_key[:n_held]
            return rows, done, (key + 1, 0)
    rows = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
    done = held[:held_used], held_ends[:n_held], held_key[:n_held]
    return rows, done, (starts.size - 1, 0)


def _blocks(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> pa.Array:
    """Bytes end to end as an Arrow column, without a copy."""
    offsets = np.concatenate((np.zeros(1, np.int64), ends))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(ends), buffers)


def shard_rows(
    plan: LevelPlan,
    events: KeyEvents,
    states: States,
    span: Span,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[Chunk]:
    """Packed rows of a shard's keys of one level, in tables of about ``chunk_bytes``.

    Args:
        plan: the level's columns.
        events: of these keys, at least those that enter or leave a window in ``span``.
        states: of the same keys, at ``plan.settled(span.after)``.
        span: the snapshots to publish.
        chunk_bytes: of rows, roughly.

    Raises:
        DataError: an action's code is none of the log's.

    Yields:
        Chunks whose rows are ``engagement_key`` str, ``event_timestamp`` and ``cutoff``
        timestamp[us, UTC], and ``row`` binary; sorted by key, then time.
    """
    # The kernel looks the codes up without a check.
    actions = events.actions[events.starts[0] : events.starts[-1]]
    if len(actions) and not 0 <= actions.min() <= actions.max() < len(plan.added):
        raise DataError(f"an action's code is not below {len(plan.added)}: ingest again")
    coded = quantise(np.arange(CODED, dtype=np.float64))
    first, last = plan.settled(span.after), plan.settled(span.last)
    at = (0, 0)
    while at[0] < len(events.names):
        (data, ends, row_key, snapshots), (held, held_ends, held_key), at = build_rows(
            events.starts,
            events.items,
            events.actions,
            events.known,
            events.buckets,
            states.data,
            states.starts,
            states.ends,
            plan.added,
            plan.windows,
            coded,
            plan.crc,
            mass_column(plan.level),
            plan.level.cap,
            plan.stride,
            first,
            last,
            *at,
            chunk_bytes,
        )
        cutoff = snapshots * span.cadence_us
        rows = pa.table(
            {
                "engagement_key": events.names.take(pa.array(row_key)),
                "event_timestamp": pa.array(cutoff + span.lag_us, pa.int64()).cast(UTC_US),
                "cutoff": pa.array(cutoff, pa.int64()).cast(UTC_US),
                "row": _blocks(data, ends),
            }
        )
        of_keys = [events.names.take(pa.array(held_key)), _blocks(held, held_ends)]
        yield Chunk(rows, pa.table(of_keys, schema=STATES))
