"""The first pass of a build: which key met which item when, by shard.

A task reads some event files and writes, for each shard, the events of its keys and those of its
users, as Arrow files that the second pass reads once. What ``prerank.features.corrections`` looks
at stands in a third folder, by user: engagements where they are capped, and what flagged users did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.schema import CLICKED, EXPECTED, LEVELS, SHOWN, FeatureSchema
from interactrank.features.text import engagement_keys, query_code, segment_key
from prerank.core.shards import shard_of
from prerank.features.snapshots import Span
from prerank.features.states import UNIT

SEGMENT_COLUMNS = next(level.max_keys for level in LEVELS if level.segmented)
NO_KEY, QUERY, EXPOSED, RATED, EVERY = range(5)
"""Which keys an event enters: none, that of the exact query, those that count exposure, those of
them that count it over all time, or all."""
PREFIXES = {
    NO_KEY: frozenset[str](),
    QUERY: frozenset(level.prefix for level in LEVELS if level.per_action),
    EXPOSED: frozenset(level.prefix for level in LEVELS if level.exposed),
    RATED: frozenset(level.prefix for level in LEVELS if level.rated),
    EVERY: frozenset(level.prefix for level in LEVELS),
}


@dataclass(frozen=True)
class FilesTask:
    """Event files for the first pass.

    Attributes:
        number: the task's own.
        files: Parquet.
        schema: of the log.
        span: events that became known before ``span.after`` were counted by the build before, and
            those known from ``span.last`` on are left to the next.
        shards: how many there are.
        scratch: where the events go, to ``keys/<shard>``, ``users/<shard>`` and ``acts/<shard>``.
        capped: whether engagements are.
        flagged: users who have a flag, as text.
        changed: those of them whose weight changes in ``span``, and with it what they did before.
    """

    number: int
    files: tuple[str, ...]
    schema: FeatureSchema
    span: Span
    shards: int
    scratch: Path
    capped: bool
    flagged: pa.Array
    changed: pa.Array

    @property
    def columns(self) -> list[str]:
        """What is read of the events."""
        names = ["user_id", "query", "item_id", "action", "event_time", "known_time", "event_id"]
        return [*names, *self.schema.segments]

    def reads(self) -> list[Path]:
        """The event files."""
        return [Path(file) for file in self.files]

    def writes(self) -> list[Path]:
        """Files of each shard that got some."""
        acts = self.scratch.glob(f"acts/*/new-{self.number}.arrow")
        return sorted([*self.scratch.glob(f"*/*/{self.number}.arrow"), *acts])

    def writes_past(self) -> list[Path]:
        """Those of ``past_acts``."""
        return sorted(self.scratch.glob(f"acts/*/past-{self.number}.arrow"))


@dataclass(frozen=True)
class EventCounts:
    """Events of a task's files: known to the build before, and counted by this one."""

    before: int
    counted: int


def explode_files(task: FilesTask) -> EventCounts:
    """Write the events of a task's files by shard."""
    events = pa.concat_tables(
        pq.read_table(f, columns=task.columns, partitioning=None) for f in task.files
    )
    known = events["known_time"].cast(pa.int64()).to_numpy() // task.span.cadence_us
    before = np.zeros(len(known), bool) if task.span.after is None else known < task.span.after
    wanted = ~before & (known < task.span.last)
    if task.capped or len(task.flagged):
        acts = wanted & _any_of(events["user_id"], task.flagged)
        acts |= before & _any_of(events["user_id"], task.changed)
        if task.capped:
            acts |= wanted & _any_of(events["action"], pa.array(task.schema.engagements))
        _write_acts(task, f"new-{task.number}", events.filter(pa.array(acts)))
    if not wanted.all():
        events = events.filter(pa.array(wanted))
    if len(events):
        _write(task, events)
    return EventCounts(int(before.sum()), len(events))


def past_acts(task: FilesTask) -> None:
    """Write what the users ``task.changed`` did, of files with nothing that is new."""
    found = []
    for file in task.files:
        users = pq.read_table(file, columns=["user_id"], partitioning=None)["user_id"]
        theirs = _any_of(users, task.changed)
        if theirs.any():
            events = pq.read_table(file, columns=task.columns, partitioning=None)
            found.append(events.filter(pa.array(theirs)))
    if found:
        _write_acts(task, f"past-{task.number}", pa.concat_tables(found))


def _any_of(column: pa.ChunkedArray, values: pa.Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_in(column, values).to_numpy()
    return found


def _write(task: FilesTask, events: pa.Table) -> None:
    schema = task.schema
    action = action_codes(schema, events)
    reach = reaches(schema)[action]
    time, known = _times(events)
    segments = {column: events[column] for column in schema.segments}
    keyed = explode(events["query"], segments, reach)
    of_keys = {
        "item_id": events["item_id"].to_numpy(),
        "action": action,
        "bucket": time // task.span.cadence_us,
        "known": known // task.span.cadence_us,
        "weight": np.full(len(events), UNIT, np.int16),
    }
    scatter(task.scratch / "keys", str(task.number), task.shards, "key", keyed, of_keys)
    rows = np.flatnonzero(reach == EVERY)
    users = events["user_id"].combine_chunks().take(pa.array(rows)).dictionary_encode()
    of_user = Keyed(users.dictionary.to_pylist(), users.indices.to_numpy(), rows)
    texts = events["query"].combine_chunks().dictionary_encode()
    query = np.array([query_code(q) for q in texts.dictionary.to_pylist()], np.int64)
    of_users = {
        "item_id": of_keys["item_id"],
        "event_id": events["event_id"].to_numpy(),
        "action": action,
        "time": time,
        "known": known,
        "query": query[texts.indices.to_numpy()],
    }
    scatter(task.scratch / "users", str(task.number), task.shards, "user_id", of_user, of_users)


def _write_acts(task: FilesTask, name: str, events: pa.Table) -> None:
    if not len(events):
        return
    time, known = _times(events)
    users = events["user_id"].combine_chunks().dictionary_encode()
    rows = Keyed(users.dictionary.to_pylist(), users.indices.to_numpy(), np.arange(len(events)))
    columns = {
        "item_id": events["item_id"].to_numpy(),
        "action": action_codes(task.schema, events),
        "bucket": time // task.span.cadence_us,
        "known": known // task.span.cadence_us,
        **{text: events[text].combine_chunks() for text in ("query", *task.schema.segments)},
    }
    scatter(task.scratch / "acts", name, task.shards, "user_id", rows, columns)


def action_codes(schema: FeatureSchema, events: pa.Table) -> NDArray[np.int8]:
    """Code of each event's action."""
    codes = pc.index_in(events["action"], pa.array(schema.actions)).combine_chunks()
    found: NDArray[np.int8] = codes.to_numpy().astype(np.int8)
    return found


def reaches(schema: FeatureSchema) -> NDArray[np.int8]:
    """Which keys an event enters, by the code of its action, exposure's included."""
    passive = QUERY if len(schema.actions) > 1 else NO_KEY
    own = [EVERY if action in schema.engagements else passive for action in schema.actions]
    exposure = {EXPECTED: EXPOSED, CLICKED: EXPOSED, SHOWN: RATED}
    return np.array([*own, *exposure.values()], np.int8)


def groups(*columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of each row's [n] combination of values: [n]."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, place = np.unique(column, return_inverse=True)
        # Compact after every column, so that the product of the sizes cannot overflow.
        code = np.unique(code * max(len(values), 1) + place, return_inverse=True)[1]
    return code


def _times(events: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When each event happened and when it became known, microseconds."""
    time, known = (
        events[name].cast(pa.int64()).to_numpy() for name in ("event_time", "known_time")
    )
    return time, known


@dataclass(frozen=True)
class Keyed:
    """Rows of named things: the name's place in ``names`` and the event, both int [n]."""

    names: list[str]
    code: NDArray[np.integer]
    event: NDArray[np.int64]


def explode(
    queries: pa.ChunkedArray, segments: dict[str, pa.ChunkedArray], reach: NDArray[np.int8]
) -> Keyed:
    """One row per event and engagement key of it.

    ``reach`` int8 [n] says which keys each event enters. A segment is the one that the event's own
    row names; an event has it that enters all keys.
    """
    names: dict[str, int] = {}
    texts = queries.combine_chunks().fill_null("").dictionary_encode()
    query = texts.indices.to_numpy()
    distinct: list[str] = texts.dictionary.to_pylist()
    # By text: however many contexts a query has, its own keys are made once.
    keys = [engagement_keys(text) for text in distinct]
    found = [_coded(own, names) for own in keys]
    lengths = np.zeros((len(PREFIXES), len(distinct)), np.int64)
    flat: list[int] = []
    starts = np.zeros_like(lengths)
    for kind in np.unique(reach).tolist():
        for text, (own, codes) in enumerate(zip(keys, found, strict=True)):
            entered = [
                code
                for key, code in zip(own, codes, strict=True)
                if key.partition(":")[0] in PREFIXES[kind]
            ]
            starts[kind, text], lengths[kind, text] = len(flat), len(entered)
            flat += entered
    count = lengths[reach, query]
    event = np.repeat(np.arange(len(query)), count)
    within = np.arange(len(event)) - np.repeat(np.cumsum(count) - count, count)
    at = starts[reach, query][event] + within
    coded, events = [np.array(flat, np.int32)[at]], [event]
    rows = np.flatnonzero(reach == EVERY)
    for column, values in list(segments.items())[:SEGMENT_COLUMNS]:
        encoded = values.combine_chunks().fill_null("").dictionary_encode()
        value, of = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()[rows]
        pairs, place = np.unique(query[rows] * np.int64(len(value)) + of, return_inverse=True)
        made = [
            _coded([segment_key(column, value[v], distinct[q])], names)[0] if value[v] else -1
            for q, v in zip(*divmod(pairs, max(len(value), 1)), strict=True)
        ]
        code = np.array(made, np.int32)[place]
        coded.append(code[code >= 0])
        events.append(rows[code >= 0])
    return Keyed(list(names), np.concatenate(coded), np.concatenate(events))


def _coded(keys: Iterable[str], names: dict[str, int]) -> list[int]:
    return [names.setdefault(key, len(names)) for key in keys]


def scatter(
    folder: Path,
    name: str,
    shards: int,
    column: str,
    rows: Keyed,
    of: Mapping[str, NDArray[np.generic] | pa.Array],
) -> None:
    """Write rows to ``folder/<shard>/<name>.arrow``, each to the shard of what it is named by.

    Args:
        folder: of a kind of rows.
        name: of the files, one for each shard that has rows.
        shards: how many there are.
        column: of the rows' names, in the files.
        rows: to write.
        of: columns of the events that they are of, by name.
    """
    shard = np.array([shard_of(each, shards) for each in rows.names], np.int32)
    # A shard's names stand together, and then so do its rows.
    order = np.argsort(shard, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    names = pa.array(rows.names, pa.string()).take(pa.array(order))
    bounds = np.searchsorted(shard[order], np.arange(shards + 1))
    by_shard = np.argsort(shard[rows.code].astype(np.uint16), kind="stable")
    code, event = place[rows.code[by_shard]], rows.event[by_shard]
    sizes = np.bincount(shard[rows.code], minlength=shards)
    at = 0
    for s, size in enumerate(sizes.tolist()):
        own, rest = slice(at, at + size), event[at : at + size]
        at += size
        if not size:
            continue
        codes = pa.array(code[own] - bounds[s], pa.int32())
        of_shard = names[bounds[s] : bounds[s + 1]]
        arrays = [pa.DictionaryArray.from_arrays(codes, of_shard)]
        taken = pa.array(rest)
        arrays += [
            values.take(taken) if isinstance(values, pa.Array) else pa.array(values[rest])
            for values in of.values()
        ]
        table = pa.table(arrays, names=[column, *of])
        target = folder / str(s)
        target.mkdir(parents=True, exist_ok=True)
        with pa.ipc.new_file(str(target / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)


def scattered(scratch: Path, kind: str, shard: int) -> pa.Table | None:
    """What the first pass wrote for a shard; None if nothing."""
    files = sorted((scratch / kind / str(shard)).glob("*.arrow"))
    if not files:
        return None
    tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
    return pa.concat_tables(tables, promote_options="default")
