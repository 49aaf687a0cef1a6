"""The second pass of a build: one shard's rows, histories and states.

    engagement/     packed rows, by key and time             one part a build, which no later one
    user_history/   histories, by user and time              changes (``prerank.features.parts``)
    state/keys/     counts of each key at the last cutoff    a part a build: the newest row counts
    state/users/    latest history of each user              likewise
    state/events/   events that are still in some window     a part a build, until they left it
    state/acts/     what counts of each capped user          by ``prerank.features.corrections``

Of the states, a build reads those of the keys and users whose rows it writes; of the events, those
that leave a window before its last cutoff.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.schema import LEVELS, FeatureSchema
from prerank.core.shards import LazyParquet, Part, parts_of
from prerank.core.times import DAY_US, HOUR_US
from prerank.features.explode import scattered
from prerank.features.histories import entries, user_histories
from prerank.features.keyed import KeyEvents
from prerank.features.parts import MAX_PARTS, bounded, latest_of, newest
from prerank.features.snapshots import NEVER, LevelPlan, Span, shard_rows
from prerank.features.states import STATES, States

USERS = ["user_id", "actions.list.element"]
"""Columns of histories that hold the same values again and again. Items and queries do too, but in
runs that repeat from row to row, which zstd finds in plain values."""
MAX_STATES = 4
"""Parts of a shard's states that are left as they are: each of them is looked into."""


@dataclass(frozen=True)
class ShardTask:
    """A shard for the second pass.

    Attributes:
        schema: of the log.
        span: the snapshots to publish.
        shard, shards: which one of how many.
        scratch: where the first pass put the new events.
        out: folder of the tables; it holds the parts of earlier builds.
    """

    schema: FeatureSchema
    span: Span
    shard: int
    shards: int
    scratch: Path
    out: Path

    def reads(self) -> list[Path]:
        """The shard's new events, and its parts of earlier builds."""
        new = [self.scratch / kind / str(self.shard) for kind in ("keys", "users")]
        return [*new, *self.writes()]

    def writes(self) -> list[Path]:
        """The shard's parts, which a task adds to and merges."""
        parts = f"shard-{self.shard:04d}-of-*.parquet"
        return sorted(path for path in self.out.rglob(parts) if self.scratch not in path.parents)

    @property
    def part(self) -> Part:
        """What this build adds to each table."""
        hours = self.span.cadence_us // HOUR_US
        return Part(self.shard, self.shards, (self.span.after or 0) * hours, self.span.last * hours)

    def writer(
        self,
        stack: ExitStack,
        table: str,
        names: Sequence[str],
        steps: Sequence[str] = (),
        level: int = 3,
    ) -> LazyParquet:
        """Writes this build's part of a table, with columns and level as ``LazyParquet`` has it."""
        return LazyParquet(stack, self.out / table / self.part.file, names, steps, level)


@dataclass(frozen=True)
class ShardCounts:
    """Rows that a task added to a shard's tables, and bytes of the packed ones."""

    engagement_rows: int
    engagement_bytes: int
    history_rows: int


def build_shard(task: ShardTask) -> ShardCounts:
    """Add what ``task.span`` publishes to the tables of a shard."""
    rows, size = _engagement(task)
    return ShardCounts(rows, size, _histories(task))


def _engagement(task: ShardTask) -> tuple[int, int]:
    """Write packed rows, and the states and events for the next build; rows and their bytes."""
    window = _Windows.of(task)
    new = scattered(task.scratch, "keys", task.shard)
    folder = task.out / "state" / "events"
    old = [] if task.span.after is None else [*window.moving(folder, task.shard)]
    rows = size = 0
    if new is not None or old:
        events = KeyEvents.of(pa.concat_tables([*old, *([] if new is None else [new])]))
        for chunk in _chunks(task, events):
            rows += chunk.num_rows
            size += chunk.nbytes
        del events
    if new is not None:
        _write_events(task, window.staying(new))
    window.bound(task, folder)
    bounded(task.out / "engagement", task.shard, ["engagement_key"])
    bounded(task.out / "state" / "keys", task.shard, ["key"], latest=True, limit=MAX_STATES)
    return rows, size


def _chunks(task: ShardTask, events: KeyEvents) -> Iterator[pa.Table]:
    """Write rows and states of the keys of ``events``; yields the rows."""
    held = latest_of(task.out / "state" / "keys", task.shard, "key", events.names)
    held = STATES.empty_table() if held is None else held
    with ExitStack() as stack:
        rows = task.writer(stack, "engagement", ["engagement_key"])
        # Level 1: states are numbers without long repeats.
        states = task.writer(stack, "state/keys", ["key"], level=1)
        # By prefix, so that the keys of the whole file ascend.
        for level in sorted(LEVELS, key=lambda level: level.prefix):
            plan = LevelPlan.of(task.schema, level, task.span.cadence_us)
            own = events.with_prefix(f"{level.prefix}:")
            for chunk in shard_rows(plan, own, States.of(own.names, held), task.span):
                rows.write(chunk.rows)
                states.write(chunk.states)
                yield chunk.rows


def _histories(task: ShardTask) -> int:
    """Write histories and the users' states; number of histories."""
    new = scattered(task.scratch, "users", task.shard)
    count = 0
    if new is not None:
        at = new.schema.get_field_index("user_id")
        new = new.set_column(at, "user_id", new["user_id"].cast(pa.string()))
        users = new["user_id"].unique().sort()
        held = latest_of(task.out / "state" / "users", task.shard, "user_id", users)
        events = [new] if held is None else [new, entries(held)]
        with ExitStack() as stack:
            rows = task.writer(stack, "user_history", USERS)
            states = task.writer(stack, "state/users", USERS)
            waiting: pa.Table | None = None
            for histories in user_histories(pa.concat_tables(events, promote_options="permissive")):
                rows.write(histories)
                count += len(histories)
                latest = newest(histories, "user_id")
                if waiting is not None and len(latest):
                    # Of a user whose histories went on in this table, the last is here.
                    goes_on = waiting["user_id"][-1] == latest["user_id"][0]
                    states.write(waiting.slice(0, len(waiting) - goes_on))
                waiting = latest if len(latest) else waiting
            if waiting is not None:
                states.write(waiting)
    bounded(task.out / "user_history", task.shard, USERS)
    bounded(task.out / "state" / "users", task.shard, USERS, latest=True, limit=MAX_STATES)
    return count


@dataclass(frozen=True)
class _Windows:
    """Which events a build needs besides the new ones, and which the next will.

    Attributes:
        lengths: of the windows that end, in cadences.
        daily: prefixes of the keys that change at midnight only.
        after, settled: the last cutoff of before, and the last midnight's before it.
        last, left: the last cutoff of this build, and the last midnight's before it.
    """

    lengths: NDArray[np.int64]
    daily: tuple[str, ...]
    after: int
    settled: int
    last: int
    left: int

    @classmethod
    def of(cls, task: ShardTask) -> _Windows:
        plans = [LevelPlan.of(task.schema, level, task.span.cadence_us) for level in LEVELS]
        windows = np.unique(np.concatenate([plan.windows for plan in plans]))
        after, last = task.span.after, task.span.last
        return cls(
            windows[windows < NEVER],
            tuple(f"{plan.level.prefix}:" for plan in plans if plan.level.daily),
            -NEVER if after is None else after,
            min(plan.settled(after) for plan in plans),
            last,
            min(plan.settled(last) for plan in plans),
        )

    def moving(self, folder: Path, shard: int) -> Iterator[pa.Table]:
        """Events of earlier builds that enter or leave a window in this one, as KEYED."""
        for part in parts_of(folder, shard):
            with pq.ParquetFile(folder / part.file, read_dictionary=["key"]) as file:
                groups = [g for g in range(file.num_row_groups) if self._may_move(file, g)]
                if not groups:
                    continue
                events = file.read_row_groups(groups, use_threads=False)
            # What was shown counts from the next midnight on, which may be after the build.
            moves = self._moves(events, self.after) | (events["known"].to_numpy() >= self.after)
            names = events["key"].unify_dictionaries().combine_chunks()
            daily = np.zeros(len(names.dictionary), bool)
            for prefix in self.daily:
                daily |= pc.starts_with(names.dictionary, prefix).to_numpy(zero_copy_only=False)
            pending = self._moves(events, self.settled)
            pending |= events["known"].to_numpy() >= self.settled
            yield events.filter(pa.array(moves | (pending & daily[names.indices.to_numpy()])))

    def _moves(self, events: pa.Table, after: int) -> NDArray[np.bool_]:
        buckets = events["bucket"].to_numpy()
        ends = buckets[:, None] + self.lengths
        moves: NDArray[np.bool_] = ((after <= ends) & (ends < self.last)).any(axis=1)
        return moves

    def _may_move(self, file: pq.ParquetFile, group: int) -> bool:
        low, high = _bounds(file, group, "bucket")
        ends = (high + self.lengths >= self.settled) & (low + self.lengths < self.last)
        return bool(ends.any()) or _bounds(file, group, "known")[1] >= self.settled

    def staying(self, events: pa.Table) -> pa.Table:
        """Those of ``events`` that a later build needs."""
        ends = events["bucket"].to_numpy() + self.lengths.max()
        stays = (ends >= self.left) | (events["known"].to_numpy() >= self.left)
        return events.filter(pa.array(stays))

    def bound(self, task: ShardTask, folder: Path) -> None:
        """Remove parts that no later build needs; of too many, make one."""
        for part in parts_of(folder, task.shard):
            with pq.ParquetFile(folder / part.file) as file:
                groups = range(file.num_row_groups)
                bucket, known = (
                    max(_bounds(file, g, c)[1] for g in groups) for c in ("bucket", "known")
                )
            if bucket + self.lengths.max() < self.left and known < self.left:
                (folder / part.file).unlink()
        parts = parts_of(folder, task.shard)
        if len(parts) > MAX_PARTS:
            files = [folder / part.file for part in parts]
            events = pa.concat_tables(pq.read_table(f, read_dictionary=["key"]) for f in files)
            for file in files:
                file.unlink()
            _write_events(task, self.staying(events))


def _bounds(file: pq.ParquetFile, group: int, column: str) -> tuple[int, int]:
    """The least and the greatest value of a column in a row group."""
    at = file.schema_arrow.names.index(column)
    found = file.metadata.row_group(group).column(at).statistics
    return found.min, found.max


def _write_events(task: ShardTask, events: pa.Table) -> None:
    """Write events by day, so that those of a day stand in few row groups."""
    day = events["bucket"].to_numpy() * task.span.cadence_us // DAY_US
    rows = events.take(pa.array(np.argsort(day, kind="stable")))
    with ExitStack() as stack:
        repeated, steps = ["key", "action", "weight"], ["bucket", "known"]
        task.writer(stack, "state/events", repeated, steps).write(rows)
