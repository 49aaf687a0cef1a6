"""The compiled part of ``prerank.features.snapshots``: keys' events to packed rows and states.

A key's events are walked once, in the order in which they enter and leave its windows. Counts,
their codes and their sums change with each event; a row is then a copy of codes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.packed_rows import quantise, row_bytes, write_chosen
from interactrank.kernels import kernel
from prerank.features.states import UNIT, append_state, grown, state_items


@kernel
def _change_points(
    known: NDArray[np.int64],
    buckets: NDArray[np.int64],
    actions: NDArray[np.int8],
    moves: NDArray[np.bool_],
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
            if w >= 0 and not moves[actions[e], w]:
                continue
            changes = known[e] if w < 0 else buckets[e] + windows[w]
            s = (changes + stride) // stride * stride
            if first <= changes and s <= last:
                points[n] = s
                n += 1
    return np.unique(points[:n])


@kernel
def _longer(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``numbers``, with room for one more than ``count``."""
    return numbers if count < numbers.size else np.concatenate((numbers, np.empty_like(numbers)))


@kernel(inline="always")
def _code(count: int, coded: NDArray[np.uint16]) -> int:
    whole = count // UNIT
    if 0 <= whole < coded.size and whole * UNIT == count:
        return coded[whole]
    # Below zero for as long as what is taken away was not added.
    return quantise(np.full(1, max(count, 0) / UNIT))[0]


@kernel(inline="always")
def _mass(count: int, total: int, shown: int) -> float:
    """What ``packed_rows.kept_items`` sorts items by. What was ``shown``, a part of the total, is
    worth less, so that no item stands in a row for it in the place of one that was engaged.
    """
    return -float(count) - 1e-6 * float(total - shown) - 1e-12 * float(shown)


@kernel
def _shift(
    item: int,
    added: NDArray[np.bool_],
    columns: NDArray[np.int64],
    weight: int,
    exposes: NDArray[np.bool_],
    counts: NDArray[np.int64],
    codes: NDArray[np.uint16],
    coded: NDArray[np.uint16],
    totals: NDArray[np.int64],
    sums: NDArray[np.int64],
    shown: NDArray[np.int64],
    mass: NDArray[np.float64],
    mass_col: int,
) -> None:
    for group in range(added.size):
        column = columns[group]
        if added[group] and column >= 0:
            counts[item, column] += weight
            codes[item, column] = _code(counts[item, column], coded)
            totals[column] += weight
            sums[item] += weight
            if exposes[column]:
                shown[item] += weight
    mass[item] = _mass(counts[item, mass_col], sums[item], shown[item])


@kernel
def _kept(
    mass: NDArray[np.float64], present: NDArray[np.int64], limit: NDArray[np.float64], cap: int
) -> NDArray[np.int64]:
    """Of the items ``present`` those that ``packed_rows.kept_items`` keeps, without sorting all.

    ``limit`` [1] is the greatest mass that was kept of the row before. It mostly still is.
    """
    below = equal = 0
    for i in present:
        below += mass[i] < limit[0]
        equal += mass[i] == limit[0]
    if not below < cap <= below + equal:
        limit[0] = np.partition(mass[present], cap - 1)[cap - 1]
        below = 0
        for i in present:
            below += mass[i] < limit[0]
    room = cap - below
    kept = np.empty(cap, np.int64)
    n = 0
    for i in present:
        if mass[i] < limit[0] or (mass[i] == limit[0] and room > 0):
            room -= mass[i] == limit[0]
            kept[n] = i
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
    mass: NDArray[np.float64],
    limit: NDArray[np.float64],
    present: NDArray[np.int64],
    cap: int,
) -> tuple[NDArray[np.uint8], int]:
    n_cols = totals.size
    size = row_bytes(min(present.size, cap), n_cols)
    out = grown(out, used + size)
    truncated = np.zeros(n_cols, np.int64)
    chosen = present
    if present.size > cap:
        chosen = _kept(mass, present, limit, cap)
        truncated[:] = totals
        for i in chosen:
            for column in range(n_cols):
                truncated[column] -= counts[i, column]
    row = out[used : used + size]
    masses, cut = totals / UNIT, truncated / UNIT
    write_chosen(row, crc, present.size, masses, cut, ids, codes, chosen)
    return out, used + size


@kernel
def build_rows(  # noqa: D103 - see shard_rows; numba needs the flat signature
    starts: NDArray[np.int64],
    items: NDArray[np.int64],
    actions: NDArray[np.int8],
    known: NDArray[np.int64],
    buckets: NDArray[np.int64],
    weights: NDArray[np.int16],
    states: NDArray[np.uint8],
    state_starts: NDArray[np.int64],
    state_ends: NDArray[np.int64],
    added: NDArray[np.bool_],
    columns: NDArray[np.int64],
    moves: NDArray[np.bool_],
    exposes: NDArray[np.bool_],
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
    n_windows, n_cols = windows.size, exposes.size
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
        points = _change_points(
            known[lo:hi], buckets[lo:hi], actions[lo:hi], moves, windows, first, last, stride
        )
        if not points.size:
            continue
        state = states[state_starts[key] : state_ends[key]]
        before, numbers = state_items(state, n_cols)
        ids = np.unique(np.concatenate((before, items[lo:hi])))
        local = np.searchsorted(ids, items[lo:hi])
        counts = np.zeros((ids.size, n_cols), np.int64)
        codes = np.zeros((ids.size, n_cols), np.uint16)
        totals, sums = np.zeros(n_cols, np.int64), np.zeros(ids.size, np.int64)
        shown = np.zeros(ids.size, np.int64)
        mass, limit = np.zeros(ids.size), np.zeros(1)
        at_id = 0
        for i in range(before.size):
            while ids[at_id] != before[i]:
                at_id += 1
            for column in range(n_cols):
                count = numbers[i * n_cols + column]
                counts[at_id, column] = count
                codes[at_id, column] = _code(count, coded)
                totals[column] += count
                sums[at_id] += count
                if exposes[column]:
                    shown[at_id] += count
            mass[at_id] = _mass(counts[at_id, mass_col], sums[at_id], shown[at_id])
        present = np.flatnonzero(sums)
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
                i = local[entered]
                was = sums[i] > 0
                for w in range(n_windows):
                    if buckets[e] + windows[w] > known[e]:
                        own = added[actions[e]]
                        _shift(
                            i,
                            own,
                            columns[w],
                            np.int64(weights[e]),
                            exposes,
                            counts,
                            codes,
                            coded,
                            totals,
                            sums,
                            shown,
                            mass,
                            mass_col,
                        )
                if was != (sums[i] > 0):
                    more = True
                entered += 1
            for w in range(n_windows):
                while left[w] < hi - lo and in_order[left[w]] + windows[w] < s:
                    e = lo + leaving[left[w]]
                    if buckets[e] + windows[w] > known[e]:
                        own = added[actions[e]]
                        i = local[e - lo]
                        was = sums[i] > 0
                        _shift(
                            i,
                            own,
                            columns[w],
                            -np.int64(weights[e]),
                            exposes,
                            counts,
                            codes,
                            coded,
                            totals,
                            sums,
                            shown,
                            mass,
                            mass_col,
                        )
                        # What was only shown is in no row once its last window is over.
                        if was != (sums[i] > 0):
                            more = True
                    left[w] += 1
            if more:
                present = np.flatnonzero(sums)
            if key == first_key and at < first_point:
                continue  # written in an earlier chunk
            out, used = _append_row(
                out, used, crc, ids, counts, codes, totals, mass, limit, present, cap
            )
            ends, row_key = _longer(ends, n_rows), _longer(row_key, n_rows)
            row_snapshot = _longer(row_snapshot, n_rows)
            ends[n_rows], row_key[n_rows], row_snapshot[n_rows] = used, key, s
            n_rows += 1
            if used >= budget and at + 1 < points.size:
                rows = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
                done = held[:held_used], held_ends[:n_held], held_key[:n_held]
                return rows, done, (key, at + 1)
        held, held_used = append_state(held, held_used, ids, counts, present)
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
