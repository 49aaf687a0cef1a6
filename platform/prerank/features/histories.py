"""User histories: a user's last engagements after each of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.schema import HISTORY_LENGTH
from interactrank.kernels import kernel
from prerank.core.times import UTC_US
from prerank.features.keyed import ranked

CHUNK_EVENTS = 5_000
"""Events a chunk of histories is made of; each may carry a hundred others."""
BEFORE = -1
"""When an event became known that an earlier build put into its user's history."""
LISTS = {
    "item_id": "item_ids",
    "action": "actions",
    "time": "times",
    "event_id": "event_ids",
    "query": "queries",
}
"""Column of an event -> the column of a history that lists it."""
EVENT_COLUMNS = (*LISTS, "known")


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
        events: ``user_id`` (string, or dictionary of them), ``item_id``, ``action`` int8, ``time``
            and ``known`` int64 microseconds (when it happened, and from when on it counts; BEFORE
            for those of ``entries``), ``event_id`` and ``query`` int64 (the query's code), in any
            order.
        chunk: events that make a table, about. A user's stay together, but for those of more than
            two chunks: their histories go on in the next table.

    Yields:
        ``user_id``, ``event_timestamp`` = when the last event became known + 1 us, and lists
        ``item_ids``, ``actions``, ``times`` (microseconds since 1970), ``event_ids``, ``queries``,
        oldest first; by user, ascending, and time.
    """
    names, code = ranked(events["user_id"])
    columns = {name: events[name].to_numpy() for name in EVENT_COLUMNS}
    order = np.lexsort((columns["event_id"], columns["time"], columns["known"], code))
    users = code[order]
    columns = {name: values[order] for name, values in columns.items()}
    new_user = np.diff(users, prepend=-1) != 0
    begins = np.flatnonzero(np.append(new_user, True))
    edges = np.flatnonzero(np.append(new_user | (np.diff(columns["known"], prepend=0) != 0), True))
    at, held = 0, {name: values[:0] for name, values in columns.items()}
    while at < len(users):
        stop = _first(begins, at + chunk)
        if stop > at + 2 * chunk:
            stop = _first(edges, at + chunk)
        own = {name: np.concatenate((held[name], v[at:stop])) for name, v in columns.items()}
        who = np.concatenate((np.full(len(held["known"]), users[at]), users[at:stop]))
        histories, last = _histories(names, who, own)
        yield histories
        goes_on = stop < len(users) and not new_user[stop]
        held = {name: values[last if goes_on else last[:0]] for name, values in own.items()}
        held["known"] = np.full(len(held["known"]), BEFORE)
        at = stop


def _first(edges: NDArray[np.int64], at: int) -> int:
    """The first of the ascending ``edges`` from ``at`` on, else the last."""
    return int(edges[min(int(np.searchsorted(edges, at)), len(edges) - 1)])


def entries(histories: pa.Table) -> pa.Table:
    """The events of some users' latest histories, for ``user_histories`` to go on from."""
    lengths = pc.list_value_length(histories["item_ids"]).to_numpy()
    users = histories["user_id"].take(pa.array(np.repeat(np.arange(len(histories)), lengths)))
    flat = {name: pc.list_flatten(histories[column]) for name, column in LISTS.items()}
    known = np.full(len(users), BEFORE)
    return pa.table({"user_id": users, "known": known, **flat})


def _histories(
    names: pa.Array, users: NDArray[np.int64], events: dict[str, NDArray[np.int64]]
) -> tuple[pa.Table, NDArray[np.int64]]:
    """Histories of some users, and the events that the last of them holds in the end."""
    known, time, ids = (events[name] for name in ("known", "time", "event_id"))
    flat, bounds, last = _states(users, known, time, ids, HISTORY_LENGTH)
    new = np.flatnonzero(known[last] != BEFORE)
    held = flat[bounds[-2] : bounds[-1]]
    flat = flat[_ranges(bounds[new], bounds[new + 1])]
    lengths, last = np.diff(bounds)[new], last[new]
    offsets = pa.array(np.concatenate((np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32))))
    lists = {
        column: pa.ListArray.from_arrays(offsets, events[name][flat].astype(np.int64))
        for name, column in LISTS.items()
    }
    stamps = pa.array(known[last] + 1, pa.int64()).cast(UTC_US)
    who = names.take(pa.array(users[last]))
    return pa.table({"user_id": who, "event_timestamp": stamps, **lists}), held


def _ranges(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each start to before its end, one after the other."""
    lengths = ends - starts
    shift = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    return shift + np.arange(lengths.sum())
