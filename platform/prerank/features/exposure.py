"""What requests showed, as events that keys count: expected, engaged, and shown at all.

An item that a request showed is one exposure, however many rows say so: it is known when the first
of its impressions is, and weighs what that one's position says (``prerank.features.examination``).
It counts as engaged, once, when an engagement of the same request and item is known as well. So an
engagement of an item that was not shown is none here, and no account raises an item by clicking it
again and again; ``features.user_cap`` does not apply. A flag weighs all three.

Both stand at the time of the impression, so that they leave a window together. They enter and leave
at midnights, as exposure changes a key's row with every request: rows of many keys would be written
each hour for what shows in a ratio after days.

As a request's rows may be in any file of its day, a task reads whole days.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.schema import FeatureSchema
from prerank.core.files import remove
from prerank.core.sql import connection
from prerank.core.times import DAY_US
from prerank.features.examination import MEMORY, NO_POSITION, Examination
from prerank.features.explode import Keyed, explode, groups, reaches, scatter
from prerank.features.snapshots import Span
from prerank.features.states import UNIT

BATCH_ROWS = 250_000
NEVER_US = 1 << 62
MAX_WEIGHT = 127 * UNIT
"""Of an event, whose weight is an int16; what weighs more is several."""
PAIRS = """
    SELECT user_id, query, item_id, shown.known AS known, shown.time AS time,
        shown.position::BIGINT AS position, coalesce(engaged, $never) AS engaged
    FROM (
        SELECT min(user_id) AS user_id, min(query) AS query, item_id,
            min(CASE WHEN action = 'impression' THEN {
                'known': epoch_us(known_time), 'time': epoch_us(event_time),
                'position': coalesce(position, $none)} END) AS shown,
            min(epoch_us(known_time)) FILTER (list_contains($engagements, action)) AS engaged
        FROM read_parquet($files, hive_partitioning = false)
        WHERE NOT $past OR list_contains($changed, user_id)
        GROUP BY request_id, item_id)
    WHERE shown IS NOT NULL"""


@dataclass(frozen=True)
class DaysTask:
    """Whole days of events whose exposure is to be counted.

    Attributes:
        schema, span, shards, scratch, flagged, changed: as in ``FilesTask``.
        number: the task's own.
        files: all event files of these days.
        examination: what positions weigh.
        past: nothing of these days is new, and what matters is what users ``changed`` did.
    """

    schema: FeatureSchema
    span: Span
    shards: int
    scratch: Path
    flagged: pa.Array
    changed: pa.Array
    number: int = 0
    files: tuple[str, ...] = ()
    examination: Examination = field(default_factory=Examination)
    past: bool = False

    @property
    def name(self) -> str:
        """Of what it writes, before the number of a batch."""
        return f"{'past-' * self.past}shown-{self.number}"

    def reads(self) -> list[Path]:
        """The event files."""
        return [Path(file) for file in self.files]

    def writes(self) -> list[Path]:
        """Files of each shard that got some."""
        return sorted(self.scratch.glob(f"*/*/{self.name}-*.arrow"))


@dataclass(frozen=True)
class ExposureCounts:
    """Exposures that a task counted, and how many of them say no position."""

    shown: int = 0
    without_position: int = 0

    def __add__(self, other: ExposureCounts) -> ExposureCounts:
        return ExposureCounts(
            self.shown + other.shown, self.without_position + other.without_position
        )


def at_midnight(bucket: NDArray[np.int64], cadence_us: int) -> NDArray[np.int64]:
    """The last bucket of the day of each one, in cadences since 1970."""
    stride = max(DAY_US // cadence_us, 1)
    return bucket // stride * stride + stride - 1


def expose_days(task: DaysTask) -> ExposureCounts:
    """Write the exposure of a task's days by shard."""
    counts = ExposureCounts()
    for number, pairs in enumerate(_pairs(task)):
        counts += _expose(task, f"{task.name}-{number}", pairs)
    return counts


def _pairs(task: DaysTask) -> Iterator[pa.Table]:
    """What requests showed: a row for each request and item, as PAIRS has them."""
    spill = task.scratch / f"spill-{task.name}"
    asked = {
        "never": NEVER_US,
        "none": NO_POSITION,
        "engagements": list(task.schema.engagements),
        "files": list(task.files),
        "past": task.past,
        "changed": task.changed.to_pylist() if task.past else [""],
    }
    spill.mkdir(parents=True, exist_ok=True)
    with connection(memory=MEMORY, spill=spill) as db:
        for batch in db.sql(PAIRS, params=asked).to_arrow_reader(BATCH_ROWS):
            yield pa.Table.from_batches([batch])
    remove(spill)


def _expose(task: DaysTask, name: str, pairs: pa.Table) -> ExposureCounts:
    known_us, time, position, engaged = (
        pairs[column].to_numpy() for column in ("known", "time", "position", "engaged")
    )
    shown = np.arange(len(pairs))
    clicked = np.flatnonzero(engaged < NEVER_US)
    weight = task.examination.weights(known_us, position)
    one = np.full(len(pairs), UNIT, np.int64)
    # In the order of PSEUDO: expected, clicked, shown.
    pair = np.concatenate((shown, clicked, shown))
    action = np.repeat(np.arange(3), (len(shown), len(clicked), len(shown)))
    clicked_us = np.maximum(known_us, engaged)[clicked]
    cadence, first = task.span.cadence_us, len(task.schema.actions)
    rows = pa.table(
        {
            "user_id": pairs["user_id"].take(pa.array(pair)),
            "query": pairs["query"].take(pa.array(pair)),
            "item_id": pairs["item_id"].to_numpy()[pair],
            "action": (first + action).astype(np.int8),
            "bucket": time[pair] // cadence,
            "known": np.concatenate((known_us, clicked_us, known_us)) // cadence,
            "weight": np.concatenate((weight, one[clicked], one)),
        }
    )
    known, after = rows["known"].to_numpy(), task.span.after
    before = np.zeros(len(known), bool) if after is None else known < after
    new = ~before & (known < task.span.last) & (not task.past)
    acts = new & pc.is_in(rows["user_id"], task.flagged).to_numpy()
    acts |= before & pc.is_in(rows["user_id"], task.changed).to_numpy()
    _write_acts(task, name, rows.filter(pa.array(acts)))
    _write(task, name, rows.filter(pa.array(new)))
    counted = new[-len(pairs) :] if len(pairs) else new
    return ExposureCounts(int(counted.sum()), int((counted & (position == NO_POSITION)).sum()))


def _write(task: DaysTask, name: str, rows: pa.Table) -> None:
    """Write events by key; those that keys cannot tell apart are one, of their weight."""
    if not len(rows):
        return
    texts = rows["query"].combine_chunks().dictionary_encode()
    item, action, bucket, known = (
        rows[column].to_numpy().astype(np.int64)
        for column in ("item_id", "action", "bucket", "known")
    )
    bucket, known = (at_midnight(of, task.span.cadence_us) for of in (bucket, known))
    group = groups(texts.indices.to_numpy().astype(np.int64), item, action, bucket, known)
    _, row = np.unique(group, return_index=True)
    weight = np.zeros(len(row), np.int64)
    np.add.at(weight, group, rows["weight"].to_numpy())
    parts = np.maximum(-(-weight // MAX_WEIGHT), 1)
    of = np.repeat(np.arange(len(row)), parts)
    part = np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts)
    weight, row = np.minimum(weight[of] - part * MAX_WEIGHT, MAX_WEIGHT), row[of]
    query = pa.chunked_array([rows["query"].combine_chunks().take(pa.array(row))])
    keyed = explode(query, {}, reaches(task.schema)[action[row]])
    columns = {
        "item_id": item[row],
        "action": action[row].astype(np.int8),
        "bucket": bucket[row],
        "known": known[row],
        "weight": weight.astype(np.int16),
    }
    scatter(task.scratch / "keys", name, task.shards, "key", keyed, columns)


def _write_acts(task: DaysTask, name: str, rows: pa.Table) -> None:
    """Write what users did whose counts may be corrected, by user."""
    if not len(rows):
        return
    users = rows["user_id"].combine_chunks().dictionary_encode()
    named = Keyed(users.dictionary.to_pylist(), users.indices.to_numpy(), np.arange(len(rows)))
    columns = {
        **{n: rows[n].to_numpy() for n in ("item_id", "action", "bucket", "known")},
        "query": rows["query"].combine_chunks(),
        **{name: pa.nulls(len(rows), pa.string()) for name in task.schema.segments},
        "weight": rows["weight"].to_numpy(),
    }
    scatter(task.scratch / "acts", name, task.shards, "user_id", named, columns)
