"""What the cap and flags take off the counts, as late events of negative weight.

An event counts in a row from when it became known until it leaves a window. Two things change that:

    the cap   of a user's engagements of a kind (one key, item and action) the latest ``cap`` count.
              A window that holds n of them counts min(n, cap): in other words, each counts
              min(1, cap / n).
    a flag    all that a user did counts the user's weight from then on (``prerank.core.trust``).

Both are written as further events of the same key, item, action and time, which become known when
the cap or the flag takes effect, and whose weight is what changes. Like any late event, such a
correction enters the windows that its time is still in, and leaves them when the event does. So
whatever counts events knows of neither caps nor flags.

Which engagements count is told by their times, and from when on by when they became known: one that
is told late may be displaced at once, by later ones that are known already.

With a cap, a build leaves to the next what may still count of what each user did (``state/acts``).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.kernels import kernel
from prerank.features.explode import Keyed, explode, groups, reaches, scatter, scattered
from prerank.features.exposure import at_midnight
from prerank.features.flag_steps import FlagSteps
from prerank.features.keyed import ranked
from prerank.features.parts import bounded, latest_of
from prerank.features.shard import MAX_STATES, ShardTask
from prerank.features.snapshots import NEVER
from prerank.features.states import UNIT

BEFORE = -NEVER
"""When what an earlier build counted became known."""
STATE = "state/acts"


@dataclass(frozen=True)
class CorrectionTask:
    """A shard of users whose counts are to be corrected.

    Attributes:
        task: the shard, as the second pass has it.
        cap: engagements of a kind that count, None for all.
        steps: of the shard's flagged users.
    """

    task: ShardTask
    cap: int | None
    steps: FlagSteps

    def reads(self) -> list[Path]:
        """What the shard's users did, and its parts of earlier builds."""
        return [self.task.scratch / "acts" / str(self.task.shard), *self._parts()]

    def writes(self) -> list[Path]:
        """Corrections of each shard that got some, and the shard's parts."""
        name = f"keys/*/corrections-{self.task.shard}.arrow"
        return [*sorted(self.task.scratch.glob(name)), *self._parts()]

    def _parts(self) -> list[Path]:
        return sorted((self.task.out / STATE).glob(f"shard-{self.task.shard:04d}-of-*.parquet"))


@dataclass(frozen=True)
class _Acts:
    """What n events of some users were.

    Attributes:
        names: the users, ascending; ``user`` int64 [n], each event's place among them.
        item, action, bucket, known, weight: int64 [n], as KEYED has them.
        texts: ``query`` and the segment columns, string [n] each.
    """

    names: pa.Array
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    action: NDArray[np.int64]
    bucket: NDArray[np.int64]
    known: NDArray[np.int64]
    weight: NDArray[np.int64]
    texts: dict[str, pa.Array]

    @classmethod
    def of(cls, acts: pa.Table) -> _Acts:
        names, user = ranked(acts["user_id"])
        item, action, bucket, known = (
            acts[name].to_numpy().astype(np.int64)
            for name in ("item_id", "action", "bucket", "known")
        )
        weight = np.full(len(acts), UNIT, np.int64)
        if "weight" in acts.column_names:  # which exposure has, and nothing else
            weight = acts["weight"].fill_null(UNIT).to_numpy()
        texts = {
            name: acts[name].combine_chunks()
            for name in acts.column_names
            if pa.types.is_string(acts.schema.field(name).type) and name != "user_id"
        }
        return cls(names, user, item, action, bucket, known, weight, texts)


def correct_shard(task: CorrectionTask) -> None:
    """Write the corrections of a shard's users beside the events of the first pass."""
    own, cap = task.task, task.cap
    lists = ("item_id", "action", "bucket", "query", *own.schema.segments)
    repeated = ["user_id", *(f"{name}.list.element" for name in lists)]
    table = scattered(own.scratch, "acts", own.shard)
    if table is not None:
        table = table.set_column(0, "user_id", table["user_id"].cast(pa.string()))
        before = None if cap is None else _acts_before(task, table)
        acts = _Acts.of(table if before is None else pa.concat_tables([table, before]))
        engaged = np.isin(acts.action, [*own.schema.history_codes.values()])
        _write_corrections(task, acts, engaged)
        if cap is not None:
            with ExitStack() as stack:
                own.writer(stack, STATE, repeated).write(_state(acts, engaged, cap))
    if cap is not None:
        bounded(own.out / STATE, own.shard, repeated, latest=True, limit=MAX_STATES)


def _write_corrections(task: CorrectionTask, acts: _Acts, engaged: NDArray[np.bool_]) -> None:
    own, steps = task.task, task.steps
    place = steps.places(acts.names)[acts.user]
    after = BEFORE if own.span.after is None else own.span.after
    # Few users have more than the cap of a kind: of the others nothing needs keys.
    concerned = np.flatnonzero((place >= 0) | _crowded(acts, engaged, task.cap, after))
    if not len(concerned):
        return
    taken = pa.array(concerned)
    texts = {name: pa.chunked_array([text.take(taken)]) for name, text in acts.texts.items()}
    reach = reaches(own.schema)[acts.action[concerned]]
    rows = explode(texts.pop("query"), texts, reach)
    event = concerned[rows.event]
    until = np.full(len(event), NEVER, np.int64)
    if task.cap is not None:
        of = np.flatnonzero(engaged[event])
        until[of] = _until(acts, event[of], rows.code[of], task.cap)
    row, known, weight = _deltas(acts.known[event], until, acts.weight[event], place[event], steps)
    new = np.flatnonzero((after <= known) & (known < own.span.last) & (weight != 0))
    row = row[new]
    action, bucket, known = acts.action[event[row]], acts.bucket[event[row]], known[new]
    exposed, cadence = action >= len(own.schema.actions), own.span.cadence_us
    columns = {
        "item_id": acts.item[event[row]],
        "action": action.astype(np.int8),
        "bucket": np.where(exposed, at_midnight(bucket, cadence), bucket),
        "known": np.where(exposed, at_midnight(known, cadence), known),
        "weight": weight[new].astype(np.int16),
    }
    found = Keyed(rows.names, rows.code[row], np.arange(len(row)))
    scatter(own.scratch / "keys", f"corrections-{own.shard}", own.shards, "key", found, columns)


def _crowded(
    acts: _Acts, engaged: NDArray[np.bool_], cap: int | None, after: int
) -> NDArray[np.bool_]:
    """Engagements [n] of a user with an item by an action, where they are more than the cap and
    some of them are new.
    """
    crowded = np.zeros(len(engaged), bool)
    if cap is None:
        return crowded
    rows = np.flatnonzero(engaged)
    kind = groups(acts.user[rows], acts.item[rows], acts.action[rows])
    many = np.bincount(kind) > cap
    renewed = np.bincount(kind, acts.known[rows] >= after) > 0
    crowded[rows] = (many & renewed)[kind]
    return crowded


def _until(
    acts: _Acts, event: NDArray[np.int64], key: NDArray[np.integer], cap: int
) -> NDArray[np.int64]:
    """From when on each row [n], an event under a key, is displaced; NEVER where it is not."""
    kind = groups(acts.user[event], acts.item[event], acts.action[event], key.astype(np.int64))
    order = np.lexsort((acts.bucket[event], kind))
    starts = np.append(np.flatnonzero(np.diff(kind[order], prepend=-1)), len(order))
    found = np.empty(len(order), np.int64)
    found[order] = _displaced(starts, acts.known[event[order]], cap)
    return found


@kernel
def _displaced(starts: NDArray[np.int64], known: NDArray[np.int64], cap: int) -> NDArray[np.int64]:
    """When ``cap`` later ones of its kind are known, for each event of kinds in order of time."""
    found = np.full(known.size, NEVER)
    # When those after the event became known, the earliest first.
    soonest = np.empty(cap, np.int64)
    for kind in range(starts.size - 1):
        held = 0
        for e in range(starts[kind + 1] - 1, starts[kind] - 1, -1):
            if held == cap:
                found[e] = max(known[e], soonest[cap - 1])
                if known[e] >= soonest[cap - 1]:
                    continue
            at = min(held, cap - 1)
            while at > 0 and soonest[at - 1] > known[e]:
                soonest[at] = soonest[at - 1]
                at -= 1
            soonest[at] = known[e]
            held = min(held + 1, cap)
    return found


def _deltas(
    known: NDArray[np.int64],
    until: NDArray[np.int64],
    whole: NDArray[np.int64],
    place: NDArray[np.int64],
    steps: FlagSteps,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """How the weights of rows change: number of the row, when, and by how much, int64 [m] each.

    Args:
        known, until: int64 [n], when a row became known, and when it ends.
        whole: int64 [n], its weight where its user has no flag.
        place: int64 [n], of the row's user in ``steps``, -1 for none.
        steps: how the weights of users change.
    """
    flagged = np.flatnonzero(place >= 0)
    lengths = np.diff(steps.starts)[place[flagged]]
    row = np.repeat(flagged, lengths)
    step = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    step += np.repeat(steps.starts[place[flagged]], lengths)
    at = np.maximum(steps.bucket[step], known[row])
    # By what each change leaves of the whole, so that what is rounded does not add up.
    trust = UNIT + steps.sums[step]
    before = trust - steps.delta[step]
    delta = (whole[row] * trust + UNIT // 2) // UNIT - (whole[row] * before + UNIT // 2) // UNIT
    counts = np.flatnonzero(at < until[row])
    row, at, delta = row[counts], at[counts], delta[counts]
    weight = whole.copy()
    np.add.at(weight, row, delta)
    ends = np.flatnonzero(until < NEVER)
    return (
        np.concatenate((row, ends)),
        np.concatenate((at, until[ends])),
        np.concatenate((delta, -weight[ends])),
    )


def _acts_before(task: CorrectionTask, new: pa.Table) -> pa.Table | None:
    """What the build before left of the users in ``new``, but of those all of whose acts are there.

    None where it left nothing.
    """
    own, after = task.task, task.task.span.after
    if after is None:
        return None
    users = new["user_id"].unique()
    users = users.filter(pc.invert(pc.is_in(users, task.steps.changed(after))))
    users = users.take(pc.sort_indices(users))
    held = latest_of(own.out / STATE, own.shard, "user_id", users)
    if held is None:
        return None
    lengths = pc.list_value_length(held["item_id"]).to_numpy()
    flat = {name: pc.list_flatten(held[name]) for name in held.column_names[1:]}
    columns = {
        "user_id": held["user_id"].take(pa.array(np.repeat(np.arange(len(held)), lengths))),
        **flat,
        "known": pa.chunked_array([pa.array(np.full(int(lengths.sum()), BEFORE))]),
        "weight": pa.chunked_array([pa.array(np.full(int(lengths.sum()), UNIT))]),
    }
    found = pa.table(columns).select(new.column_names)
    return found.cast(new.schema)


def _state(acts: _Acts, engaged: NDArray[np.bool_], cap: int) -> pa.Table:
    """What may still count of the users' engagements: the latest ``cap`` of a kind by one search.

    A row for each user, ascending, with lists of what is to be known of them.
    """
    rows = np.flatnonzero(engaged)
    texts = [
        text.take(pa.array(rows)).dictionary_encode().indices.fill_null(-1).to_numpy()
        for text in acts.texts.values()
    ]
    kind = groups(acts.user[rows], acts.item[rows], acts.action[rows], *texts)
    order = np.lexsort((acts.bucket[rows], kind))
    ends = np.searchsorted(kind[order], kind[order], side="right")
    rows = rows[order[ends - np.arange(len(order)) <= cap]]
    rows = rows[np.lexsort((acts.bucket[rows], acts.item[rows], acts.user[rows]))]
    users, first = np.unique(acts.user[rows], return_index=True)
    offsets = pa.array(np.append(first, len(rows)).astype(np.int32))
    taken = pa.array(rows)
    columns = {
        "item_id": pa.array(acts.item[rows]),
        "action": pa.array(acts.action[rows].astype(np.int8)),
        "bucket": pa.array(acts.bucket[rows]),
        **{name: text.take(taken) for name, text in acts.texts.items()},
    }
    lists = {name: pa.ListArray.from_arrays(offsets, flat) for name, flat in columns.items()}
    return pa.table({"user_id": acts.names.take(pa.array(users)), **lists})
