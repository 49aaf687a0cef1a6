"""Counts of one shard's keys at every snapshot where they change, as packed rows.

A key's row is rewritten at a snapshot when an event entered one of its windows or left one since
the snapshot before: a row that is not rewritten is still right, so the latest row at or before a
time *is* the row of that time.

Snapshot ``s`` has cutoff ``s * cadence`` and holds events of buckets ``b < s`` (bucket =
floor(event_time / cadence)); a window of ``w`` buckets holds ``s - w <= b < s``. A late event
enters by the bucket in which it became known, and leaves a window by that in which it happened.

The counts at the end of a build are kept, as the *state* of each key. The next build goes on from
them, and needs of the events only those that enter a window or leave one after that: its rows are
those that one build of all events would give, byte for byte, as counts are whole numbers (of parts
of an event, ``states.UNIT``).

Rows come in chunks, so that memory depends on neither the log's length nor one key's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.packed_rows import columns_crc, mass_column, quantise
from interactrank.features.schema import (
    CLICKED,
    ENGAGE,
    EXPECTED,
    SHOWN,
    WINDOWS,
    FeatureSchema,
    Level,
)
from prerank.core.errors import DataError
from prerank.core.times import DAY_US, UTC_US
from prerank.features.counting import build_rows
from prerank.features.keyed import KeyEvents
from prerank.features.states import STATES, States, blocks

NEVER = 1 << 40
PSEUDO = (EXPECTED, CLICKED, SHOWN)
"""Exposure's actions: their codes follow those of the log's own."""
CHUNK_BYTES = 16 << 20
CODED = 1 << 12
"""Counts below this one are looked up in a table of their codes."""


@dataclass(frozen=True)
class LevelPlan:
    """A level's columns in the form the kernel wants.

    ``added`` bool [actions, groups]: which counted actions an event of an action adds to, those of
    exposure last, in the order of ``PSEUDO``. ``columns`` int64 [W, groups]: where a row has their
    counts, -1 for nowhere. ``exposes`` bool [F]: columns of what was shown, of a log with exposure.
    ``windows`` int64 [W]: lengths in buckets, NEVER for "all"; ``stride``: snapshots from one that
    may have rows to the next.
    """

    level: Level
    crc: int
    cap: int
    added: NDArray[np.bool_]
    columns: NDArray[np.int64]
    exposes: NDArray[np.bool_]
    windows: NDArray[np.int64]
    stride: int

    @classmethod
    def of(cls, schema: FeatureSchema, level: Level, cadence_us: int) -> LevelPlan:
        """Plan for ``level`` of ``schema`` at this snapshot cadence (microseconds)."""
        names = schema.columns(level)
        of_column = [name.rpartition(":")[0] for name in names]
        groups = list(dict.fromkeys(of_column))
        actions = (*schema.actions, *PSEUDO * schema.exposure)
        added = np.zeros((len(actions), len(groups)), np.bool_)
        columns = np.full((len(level.windows), len(groups)), -1)
        for at, group in enumerate(groups):
            for code, action in enumerate(actions):
                engaged = group == ENGAGE and action in schema.engagements
                added[code, at] = engaged or group == action
            for w, window in enumerate(level.windows):
                if f"{group}:{window}" in names:
                    columns[w, at] = names.index(f"{group}:{window}")
        shown = {*schema.passive, *PSEUDO} if schema.exposure else set()
        exposes = np.array([group in shown for group in of_column], np.bool_)
        days = [WINDOWS[w] for w in level.windows]
        windows = np.array([NEVER if d is None else d * DAY_US // cadence_us for d in days])
        stride = max(DAY_US // cadence_us, 1) if level.daily else 1
        crc, cap = columns_crc(names), schema.cap(level)
        return cls(level, crc, cap, added, columns, exposes, windows, stride)

    @property
    def moves(self) -> NDArray[np.bool_]:
        """Whether an event of an action changes a count of a window: bool [actions, W]."""
        return self.added @ (self.columns >= 0).T

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
class Chunk:
    """Some of a level's rows, and the states of the keys that they complete (as STATES)."""

    rows: pa.Table
    states: pa.Table


def shard_rows(
    plan: LevelPlan,
    events: KeyEvents,
    states: States,
    span: Span,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[Chunk]:
    """Packed rows of a shard's keys of one level, in tables of about ``chunk_bytes``.

    The rows of a chunk hold until the next one is asked for, which is written over them: memory
    that a process has not used before takes longer to come by than rows take to write.

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
    # With room for a row beyond; memory that is not written costs nothing.
    out = np.empty(chunk_bytes + (1 << 17), np.uint8)
    while at[0] < len(events.names):
        (data, ends, row_key, snapshots), (held, held_ends, held_key), at = build_rows(
            events.starts,
            events.items,
            events.actions,
            events.known,
            events.buckets,
            events.weights,
            states.data,
            states.starts,
            states.ends,
            plan.added,
            plan.columns,
            plan.moves,
            plan.exposes,
            plan.windows,
            coded,
            plan.crc,
            mass_column(plan.level),
            plan.cap,
            plan.stride,
            first,
            last,
            *at,
            chunk_bytes,
            out,
        )
        cutoff = snapshots * span.cadence_us
        rows = pa.table(
            {
                "engagement_key": events.names.take(pa.array(row_key)),
                "event_timestamp": pa.array(cutoff + span.lag_us, pa.int64()).cast(UTC_US),
                "cutoff": pa.array(cutoff, pa.int64()).cast(UTC_US),
                "row": blocks(data, ends),
            }
        )
        of_keys = [events.names.take(pa.array(held_key)), blocks(held, held_ends)]
        yield Chunk(rows, pa.table(of_keys, schema=STATES))
