"""User histories: a user's last engagements after each of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.schema import HISTORY_LENGTH
from interactrank.kernels import kernel

STAMP = pa.timestamp("us", tz="UTC")
CHUNK_EVENTS = 20_000
"""Events a chunk of histories is made of; each may carry a hundred others."""


@kernel
def _states(
    users: NDArray[np.int64],
    known: NDArray[np.int64],
    times: NDArray[np.int64],
    ids: NDArray[np.int64],
    length: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Events [T] held by each state, bounds [S + 1] and the last known event [S] of the states.

    A state is written where what is known of a user changed. An event that was late takes its
    place among the older ones, as ``prerank.online.history.merged`` puts it online.
    """
    n = users.size
    flat = np.empty(n * length, np.int64)
    bounds = np.zeros(n + 1, np.int64)
    last = np.empty(n, np.int64)
    held = np.empty(length, np.int64)
    kept = used = states = 0
    changed = False
    for e in range(n):
        if e == 0 or users[e] != users[e - 1]:
            kept = 0
        at = kept
        while at > 0 and (times[held[at - 1]], ids[held[at - 1]]) > (times[e], ids[e]):
            at -= 1
        if kept < length:
            for i in range(kept, at, -1):
                held[i] = held[i - 1]
            held[at] = e
            kept += 1
            changed = True
        elif at > 0:
            for i in range(at - 1):
                held[i] = held[i + 1]
            held[at - 1] = e
            changed = True
        if changed and (e + 1 == n or users[e + 1] != users[e] or known[e + 1] != known[e]):
            flat[used : used + kept] = held[:kept]
            used += kept
            last[states] = e
            states += 1
            bounds[states] = used
            changed = False
    return flat[:used], bounds[: states + 1], last[:states]


def user_histories(events: pa.Table, chunk: int = CHUNK_EVENTS) -> Iterator[pa.Table]:
    """A user's last 100 engagements after each of them, in tables of some users.

    Args:
        events: ``user_id``, ``item_id``, ``action`` int8, ``time`` and ``known`` int64 microseconds
            (when it happened, and from when on it counts), ``event_id`` and ``query`` int64 (the
            query's code), sorted by (user_id, known, time, event_id).
        chunk: events that make a table; one user's stay together.

    Yields:
        ``user_id``, ``event_timestamp`` = when the last event became known + 1 us, and lists
        ``item_ids``, ``actions``, ``times`` (microseconds since 1970), ``event_ids``, ``queries``,
        oldest first.
    """
    users = events["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.append(np.flatnonzero(np.diff(users, prepend=-1)), len(users))
    at = 0
    while at < len(users):
        # The first user's beginning that is a chunk away, else the end.
        after = int(np.searchsorted(starts, at + chunk))
        stop = int(starts[min(after, len(starts) - 1)])
        yield _histories(events.slice(at, stop - at), users[at:stop].astype(np.int64))
        at = stop


def _histories(events: pa.Table, users: NDArray[np.int64]) -> pa.Table:
    known, time, ids = (events[n].to_numpy() for n in ("known", "time", "event_id"))
    flat, bounds, last = _states(users, known, time, ids, HISTORY_LENGTH)
    offsets, held = pa.array(bounds.astype(np.int32)), pa.array(flat)

    def lists(column: str) -> pa.Array:
        values = events[column].combine_chunks().take(held).cast(pa.int64())
        return pa.ListArray.from_arrays(offsets, values)

    return pa.table(
        {
            "user_id": events["user_id"].combine_chunks().take(pa.array(last)),
            "event_timestamp": pa.array(known[last] + 1, pa.int64()).cast(STAMP),
            "item_ids": lists("item_id"),
            "actions": lists("action"),
            "times": lists("time"),
            "event_ids": lists("event_id"),
            "queries": lists("query"),
        }
    )
