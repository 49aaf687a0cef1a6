"""The compiled part of ``prerank.features.snapshots``: keys' events to packed rows and states.

A key's events are walked once, in the order in which they enter and leave its windows. Counts,
their codes and their sums change with each event; a row is then a copy of codes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.packed_rows import quantise, row_bytes, write_chosen
from interactrank.kernels import kernel
from prerank.features.changes import by_bucket, longer, missed, next_change, union
from prerank.features.states import UNIT, append_state, grown, state_items


@kernel
def _rare_code(count: int) -> int:
    # Below zero for as long as what is taken away was not added.
    return quantise(np.full(1, max(count, 0) / UNIT))[0]


@kernel(inline="always")
def _code(count: int, coded: NDArray[np.uint16]) -> int:
    whole = count // UNIT
    if 0 <= whole < coded.size and whole * UNIT == count:
        return coded[whole]
    return _rare_code(count)


@kernel(inline="always")
def _mass(count: int, total: int, shown: int) -> float:
    """What ``packed_rows.kept_items`` sorts items by. What was ``shown``, a part of the total, is
    worth less, so that no item stands in a row for it in the place of one that was engaged.
    """
    return -float(count) - 1e-6 * float(total - shown) - 1e-12 * float(shown)


@kernel
def _shift(
    moved: NDArray[np.int64],
    sign: int,
    first_window: int,
    end_window: int,
    items: NDArray[np.int64],
    actions: NDArray[np.int8],
    known: NDArray[np.int64],
    buckets: NDArray[np.int64],
    weights: NDArray[np.int16],
    added: NDArray[np.bool_],
    columns: NDArray[np.int64],
    exposes: NDArray[np.bool_],
    windows: NDArray[np.int64],
    coded: NDArray[np.uint16],
    counts: NDArray[np.int64],
    codes: NDArray[np.uint16],
    totals: NDArray[np.int64],
    sums: NDArray[np.int64],
    shown: NDArray[np.int64],
    mass: NDArray[np.float64],
    mass_col: int,
) -> bool:
    """Let events enter some windows, or leave them; whether an item came or went with it.

    All at once: each call of a kernel counts the references to its arrays, which for one event
    takes longer than its work.
    """
    came = False
    for e in moved:
        item, weight = items[e], sign * np.int64(weights[e])
        was = sums[item] > 0
        for window in range(first_window, end_window):
            if missed(known[e], buckets[e], windows[window]):
                continue
            for group in range(added.shape[1]):
                column = columns[window, group]
                if added[actions[e], group] and column >= 0:
                    counts[item, column] += weight
                    codes[item, column] = _code(counts[item, column], coded)
                    totals[column] += weight
                    sums[item] += weight
                    if exposes[column]:
                        shown[item] += weight
        mass[item] = _mass(counts[item, mass_col], sums[item], shown[item])
        came |= was != (sums[item] > 0)
    return came


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
    masses: NDArray[np.float64],
    cut: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], int]:
    """Write a row after ``used`` bytes; ``masses`` and ``cut`` [F] are room to work in."""
    size = row_bytes(min(present.size, cap), totals.size)
    if used + size > out.size:
        out = grown(out, used + size)
    cut[:] = 0.0
    chosen = present
    if present.size > cap:
        chosen = _kept(mass, present, limit, cap)
        for column in range(totals.size):
            left = totals[column]
            for i in chosen:
                left -= counts[i, column]
            cut[column] = left / UNIT
    for column in range(totals.size):
        masses[column] = totals[column] / UNIT
    row = out[used : used + size]
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
    out: NDArray[np.uint8],
) -> tuple[
    tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]],
    tuple[int, int],
]:
    n_windows, n_cols = windows.size, exposes.size
    masses, cut = np.empty(n_cols), np.empty(n_cols)
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
        own_known, own_buckets = known[lo:hi], buckets[lo:hi]
        own_actions, own_weights = actions[lo:hi], weights[lo:hi]
        # What entered before the state's snapshot is in it, and so is what left before.
        entered = np.searchsorted(own_known, first)
        leaving = by_bucket(own_buckets)
        left = np.empty(n_windows, np.int64)
        for w in range(n_windows):
            left[w] = np.searchsorted(own_buckets[leaving], first - windows[w])
        change = next_change(
            entered, left, own_known, own_buckets, leaving, own_actions, moves, windows
        )
        if change >= last:
            continue
        s = (change + stride) // stride * stride
        state = states[state_starts[key] : state_ends[key]]
        before, numbers = state_items(state, n_cols)
        ids = union(before, np.unique(items[lo:hi]))
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
        order, at = np.arange(hi - lo), -1
        while s <= last:
            at += 1
            more = False
            # All windows are entered at once; each is left by itself.
            for w in range(-1, n_windows):
                if w < 0:
                    begun = entered
                    while entered < hi - lo and own_known[entered] < s:
                        entered += 1
                    end = entered
                else:
                    begun = left[w]
                    while left[w] < hi - lo and own_buckets[leaving[left[w]]] + windows[w] < s:
                        left[w] += 1
                    end = left[w]
                if end > begun:
                    more |= _shift(
                        order[begun:end] if w < 0 else leaving[begun:end],
                        1 if w < 0 else -1,
                        max(w, 0),
                        n_windows if w < 0 else w + 1,
                        local,
                        own_actions,
                        own_known,
                        own_buckets,
                        own_weights,
                        added,
                        columns,
                        exposes,
                        windows,
                        coded,
                        counts,
                        codes,
                        totals,
                        sums,
                        shown,
                        mass,
                        mass_col,
                    )
            if more:
                present = np.flatnonzero(sums)
            cutoff = s
            change = next_change(
                entered, left, own_known, own_buckets, leaving, own_actions, moves, windows
            )
            s = last + 1 if change >= last else (change + stride) // stride * stride
            if key == first_key and at < first_point:
                continue  # written in an earlier chunk
            out, used = _append_row(
                out,
                used,
                crc,
                ids,
                counts,
                codes,
                totals,
                mass,
                limit,
                present,
                cap,
                masses,
                cut,
            )
            ends, row_key = longer(ends, n_rows), longer(row_key, n_rows)
            row_snapshot = longer(row_snapshot, n_rows)
            ends[n_rows], row_key[n_rows], row_snapshot[n_rows] = used, key, cutoff
            n_rows += 1
            if used >= budget and s <= last:
                rows = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
                done = held[:held_used], held_ends[:n_held], held_key[:n_held]
                return rows, done, (key, at + 1)
        held, held_used = append_state(held, held_used, ids, counts, present)
        held_ends, held_key = longer(held_ends, n_held), longer(held_key, n_held)
        held_ends[n_held], held_key[n_held] = held_used, key
        n_held += 1
        if used >= budget:
            rows = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
            done = held[:held_used], held_ends[:n_held], held_key[:n_held]
            return rows, done, (key + 1, 0)
    rows = out[:used], ends[:n_rows], row_key[:n_rows], row_snapshot[:n_rows]
    done = held[:held_used], held_ends[:n_held], held_key[:n_held]
    return rows, done, (starts.size - 1, 0)
