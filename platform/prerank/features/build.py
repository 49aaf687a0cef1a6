"""Feature tables from canonical events: packed engagement rows and user histories.

Two passes of Ray Data tasks. The first reads event files and writes, for each hash shard, which
key met which item when; the second turns one shard into packed rows at every snapshot where they
change (``prerank.features.snapshots``) and into user histories. No task holds more than a shard.

What was published stays: a longer log gives every earlier row again
(``prerank.ingest.existing``), and the last cutoff never moves back. The tables of another schema
are left alone: a live model may need them (``prerank.core.feature_sets``).
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.schema import LEVELS, FeatureSchema
from interactrank.features.searches import Searches
from prerank.core.errors import ConfigError, DataError
from prerank.core.feature_sets import described, published_us
from prerank.core.files import replaced, write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import ray_map
from prerank.core.shards import LazyParquet, shard_file, shard_of
from prerank.core.times import HOUR_US
from prerank.features.histories import user_histories
from prerank.features.searches import distinct_searches
from prerank.features.snapshots import LevelPlan, shard_rows

HOURLY_BELOW_ROWS = 10_000_000
EVENTS_PER_SHARD = 2_000_000


@dataclass(frozen=True)
class FeatureConfig:
    """How snapshots are taken.

    Attributes:
        cadence_hours: hours from one snapshot to the next: a divisor of 24, or whole days. Null
            means 1 for a log of fewer than ten million events, else 24.
        lag_minutes: minutes from a snapshot's cutoff to its publication.
    """

    cadence_hours: int | None = None
    lag_minutes: int = 0

    def __post_init__(self) -> None:
        if self.cadence_hours is not None and (
            self.cadence_hours < 1 or (24 % self.cadence_hours and self.cadence_hours % 24)
        ):
            raise ConfigError(
                f"config features.cadence_hours: {self.cadence_hours} must divide a day, or be "
                "whole days."
            )
        if self.lag_minutes < 0:
            raise ConfigError(
                f"config features.lag_minutes: {self.lag_minutes} would publish a snapshot before "
                "its cutoff, and so leak the future. Give 0 or more."
            )


@dataclass(frozen=True)
class TablePlan:
    """What all tasks of a build share.

    Attributes:
        schema: of the log.
        cadence_us, lag_us: microseconds between cutoffs, and from a cutoff to its publication.
        last: the last cutoff, in cadences since 1970.
        shards: how many there are.
        out: where the tables go.
    """

    schema: FeatureSchema
    cadence_us: int
    lag_us: int
    last: int
    shards: int
    out: Path

    @property
    def scratch(self) -> Path:
        """What the first pass hands to the second."""
        return self.out / "scratch"


@dataclass(frozen=True)
class FilesTask:
    """Event files for the first pass; ``number`` is the task's own."""

    plan: TablePlan
    number: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class ShardTask:
    """A shard for the second pass."""

    plan: TablePlan
    shard: int


@dataclass(frozen=True)
class ShardCounts:
    """Rows and bytes of one shard's tables."""

    engagement_rows: int
    engagement_bytes: int
    history_rows: int


def build_features(home: Home, config: FeatureConfig = FeatureConfig()) -> dict[str, Any]:
    """Build every feature table of the ingested log; returns (and writes) the features manifest.

    Raises:
        StateError: nothing was ingested, or by another version.
        DataError: the log holds no engagement at all.
    """
    home = home.pin()
    manifest = LogManifest.load(home)
    schema = manifest.schema
    if not schema.engagements:
        raise DataError(
            f"the log's actions {list(schema.actions)} are all passive: there is nothing to count. "
            "Declare at least one engagement action, or shorten `passive` in the mapping."
        )
    hours = config.cadence_hours or (1 if manifest.events < HOURLY_BELOW_ROWS else 24)
    files = sorted(str(p) for p in home.events.glob("day=*/*.parquet"))
    shards = max(2, -(-manifest.events * 12 // EVENTS_PER_SHARD))
    cadence = hours * HOUR_US
    end = manifest.last_us
    with replaced(home.features_of(schema.hash())) as out:
        # In here, where nobody else publishes, and what a killed build took away is back.
        last = max(end // cadence + 1, -(-published_us(home) // cadence))
        plan = TablePlan(schema, cadence, config.lag_minutes * 60_000_000, last, shards, out)
        groups = np.array_split(np.array(files), min(len(files), 2 * shards))
        tasks = [FilesTask(plan, i, tuple(map(str, g))) for i, g in enumerate(groups)]
        ray_map(_explode_files, tasks, "keys")
        done = ray_map(_build_shard, [ShardTask(plan, i) for i in range(shards)], "snapshots")
        shutil.rmtree(plan.scratch, ignore_errors=True)
        features = {
            **described(schema),
            "cadence_hours": hours,
            "lag_minutes": config.lag_minutes,
            "last_cutoff_us": last * cadence,
            "fingerprint": manifest.fingerprint,
            "log_id": home.log_id,
            "rows": {f.name: sum(getattr(d, f.name) for d in done) for f in fields(ShardCounts)},
            "caps": {lv.prefix: lv.cap for lv in LEVELS},
        }
        write_json(out / "manifest.json", features)
    # Of homes of earlier releases, whose tables had no folder per schema.
    (home.features / "manifest.json").unlink(missing_ok=True)
    for name in ("engagement", "user_history"):
        shutil.rmtree(home.features / name, ignore_errors=True)
    return features


def _explode_files(task: FilesTask) -> None:
    plan, schema = task.plan, task.plan.schema
    columns = ["user_id", "query", "item_id", "action", "event_time", "known_time", "event_id"]
    columns += schema.segments
    events = pa.concat_tables(
        pq.read_table(f, columns=columns, partitioning=None) for f in task.files
    )
    codes = pc.index_in(events["action"], pa.array(schema.actions)).combine_chunks()
    action = codes.to_numpy().astype(np.int8)
    engaged = np.isin(action, [schema.actions.index(a) for a in schema.engagements])
    time, known = (
        events[name].cast(pa.int64()).to_numpy() for name in ("event_time", "known_time")
    )
    searches = distinct_searches(events["query"], {c: events[c] for c in schema.segments})
    keyed = explode(
        searches,
        events["item_id"].to_numpy(),
        action,
        engaged,
        time // plan.cadence_us,
        known // plan.cadence_us,
        per_action=len(schema.actions) > 1,
    )
    _scatter(keyed, "key", plan.scratch / "keys", task)
    users = events.select(["user_id", "item_id", "event_id"])
    users = users.append_column("action", pa.array(action)).append_column("time", pa.array(time))
    users = users.append_column("known", pa.array(known))
    users = users.append_column("query", pa.array(searches.query_codes()))
    _scatter(users.filter(pa.array(engaged)), "user_id", plan.scratch / "users", task)


def explode(
    searches: Searches,
    items: NDArray[np.int64],
    actions: NDArray[np.int8],
    engaged: NDArray[np.bool_],
    buckets: NDArray[np.int64],
    known: NDArray[np.int64],
    per_action: bool,
) -> pa.Table:
    """One row per event and engagement key: ``key``, ``item_id``, ``action`` and two buckets.

    ``bucket`` is when it happened, ``known`` from when on it counts.

    Passive events enter only the exact query's row, the one level that counts them. A segment is
    the one that the event's own row names.
    """
    keys, search = searches.keys, searches.code
    counts = np.array([len(k) for k in keys], dtype=np.int64)
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    lengths = np.where(engaged, counts[search], int(per_action))
    event = np.repeat(np.arange(len(search)), lengths)
    within = np.arange(len(event)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    names = pa.array([k for ks in keys for k in ks], pa.string()).dictionary_encode()
    return pa.table(
        {
            "key": names.take(pa.array(starts[search[event]] + within)),
            "item_id": items[event],
            "action": actions[event],
            "bucket": buckets[event],
            "known": known[event],
        }
    )


def _scatter(table: pa.Table, column: str, folder: Path, task: FilesTask) -> None:
    encoded = table[column].combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    shard = np.array([shard_of(n, task.plan.shards) for n in encoded.dictionary.to_pylist()])
    of_row = shard[encoded.indices.to_numpy()] if table.num_rows else np.zeros(0, np.int64)
    table = table.set_column(
        table.schema.get_field_index(column), column, encoded.cast(pa.string())
    )
    for s in range(task.plan.shards):
        target = folder / str(s)
        target.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(pa.array(of_row == s)), target / f"{task.number}.parquet")


def _build_shard(task: ShardTask) -> ShardCounts:
    plan = task.plan
    engagement_rows = engagement_bytes = history_rows = 0
    with ExitStack() as stack:
        writer = _shard_writer(stack, plan.out / "engagement", task)
        events = pq.read_table(plan.scratch / "keys" / str(task.shard)).sort_by(
            [("key", "ascending"), ("known", "ascending"), ("item_id", "ascending")]
        )
        for level in LEVELS:
            of_level = LevelPlan.of(plan.schema, level, plan.cadence_us)
            own = events.filter(pc.starts_with(events["key"], f"{level.prefix}:"))
            for rows in shard_rows(of_level, own, plan.cadence_us, plan.lag_us, plan.last):
                writer.write(rows)
                engagement_rows += rows.num_rows
                engagement_bytes += rows.nbytes
        del events, own
        writer = _shard_writer(stack, plan.out / "user_history", task)
        users = pq.read_table(plan.scratch / "users" / str(task.shard)).sort_by(
            [(name, "ascending") for name in ("user_id", "known", "time", "event_id")]
        )
        for histories in user_histories(users):
            writer.write(histories)
            history_rows += histories.num_rows
    return ShardCounts(engagement_rows, engagement_bytes, history_rows)


def _shard_writer(stack: ExitStack, folder: Path, task: ShardTask) -> LazyParquet:
    folder.mkdir(parents=True, exist_ok=True)
    return LazyParquet(stack, folder / shard_file(task.shard, task.plan.shards))
