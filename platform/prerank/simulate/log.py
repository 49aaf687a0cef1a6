"""The log writer: plays the world tick by tick and streams events and hidden scores out.

A tick is a few hours at most and about TICK_REQUESTS requests at most, and every state kept
between ticks is per user, item or query; memory therefore does not grow with the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from prerank.simulate.presets import COUNTRIES, DAY, DEVICE_DECAY, DEVICES, LOG_START
from prerank.simulate.relevance import Batch, Memory, score_impressions
from prerank.simulate.retrieval import Retriever
from prerank.simulate.summary import Marginals, SimulationSummary
from prerank.simulate.world import VARIANTS, World

TICKS_PER_DAY = 8
TICK_REQUESTS = 1_024
PART_REQUESTS = 8_192  # requests gathered before a Parquet part is written
ACTIONS = ("impression", "click", "long_click", "save")
VARIANT_SHARES = (0.86, 0.04, 0.03, 0.02, 0.01, 0.04)  # right, four slips, compound
LONGEST_DELAY = 20 * 3_600.0  # seconds; below a day, so a day's label window sees every action

_TIME = pa.timestamp("us", tz="UTC")
EVENTS_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("request_id", pa.string()),
        ("request_time", _TIME),
        ("event_time", _TIME),
        ("user_id", pa.string()),
        ("query", pa.string()),
        ("item_id", pa.int64()),
        ("action", pa.string()),
        ("position", pa.int32()),
        ("country", pa.string()),
        ("device", pa.string()),
    ]
)
SCORES_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("item_ids", pa.list_(pa.int64())),
        ("oracle_relevance", pa.list_(pa.float64())),
        ("oracle_log", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Outcome:
    """What happened in a tick. items int64 [N, I] (-1: no impression); done bool [4, N, I] by
    ACTIONS; at float64 [4, N, I], event times in seconds, meaningful where done.
    """

    items: NDArray[np.int64]
    done: NDArray[np.bool_]
    at: NDArray[np.float64]


def write_log(world: World, out_dir: Path, requests: int, *, progress: bool) -> SimulationSummary:
    """Write events/, hidden/ and items.parquet under `out_dir` (seconds of work, streamed)."""
    write_items(world, out_dir / "items.parquet")
    retriever, memory, marginals = Retriever(world), Memory(world), Marginals(world)
    names = _Names(world)
    streams = np.random.SeedSequence([world.seed, 1])
    counts, edges = _schedule(world, requests, np.random.default_rng(streams))
    events = _PartWriter(out_dir / "events", EVENTS_SCHEMA)
    scores = _PartWriter(out_dir / "hidden", SCORES_SCHEMA)
    first = 0
    with tqdm(total=requests, unit="request", desc="simulate", disable=not progress) as bar:
        for tick, count in enumerate(counts):
            rng = np.random.default_rng([world.seed, 2, tick])
            memory.advance(edges[tick])
            if count:
                batch, variant = _draw_batch(world, int(count), edges[tick : tick + 2], rng)
                items = retriever.show(batch, memory, rng)
                truth, log_only, guess = score_impressions(world, batch, memory, items)
                outcome = _act(world, batch, items, truth, rng)
                clicks = np.nonzero(outcome.done[1])
                memory.note_touches(outcome.at[1][clicks], batch.user[clicks[0]], items[clicks])
                memory.note_requests(batch, guess)
                ids = names.request_ids(first, int(count))
                events.add(_event_table(world, names, ids, batch, variant, outcome), int(count))
                scores.add(_score_table(world, ids, items, truth, log_only), int(count))
                marginals.add(batch, variant, outcome.items, outcome.done)
                first += int(count)
                bar.update(int(count))
    events.close()
    scores.close()
    return marginals.summary()


def _schedule(
    world: World, requests: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Requests per tick int64 [T] and tick edges float64 [T + 1] in seconds, by time of day."""
    days = world.preset.days
    per_day = max(TICKS_PER_DAY, int(np.ceil(requests / days / TICK_REQUESTS)))
    ticks = days * per_day
    edges = LOG_START + DAY * np.arange(ticks + 1) / per_day
    hour = (np.arange(ticks) % per_day + 0.5) / per_day
    busy = 1.0 - 0.7 * np.cos(2 * np.pi * (hour - 0.1))
    return rng.multinomial(requests, busy / busy.sum()), edges


def _draw_batch(
    world: World, count: int, edges: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Batch, NDArray[np.int64]]:
    """Who searches for what, and the index of the spelling used int64 [N]."""
    # Whole microseconds, so that written times and the oracles' times are one.
    time = np.sort(np.floor(rng.uniform(edges[0], edges[1], size=count) * 1e6)) / 1e6
    activity = world.users.activity
    user = np.minimum(np.searchsorted(activity, rng.random(count)), len(activity) - 1)
    theta = world.interests(user, time)
    topic = (rng.random((count, 1)) > np.cumsum(theta, axis=1)[:, :-1]).sum(axis=1)
    query = np.empty(count, dtype=np.int64)
    draw = rng.random(count)
    for each in np.unique(topic):
        chosen = topic == each
        query[chosen] = np.searchsorted(world.queries.issue[each, :-1], draw[chosen])
    variant = rng.choice(VARIANTS, size=count, p=VARIANT_SHARES)
    return Batch(time, user, query, topic, theta), variant


def _act(
    world: World,
    batch: Batch,
    items: NDArray[np.int64],
    truth: NDArray[np.float64],
    rng: np.random.Generator,
) -> Outcome:
    """Examination falls with position; only what is examined can be engaged with."""
    shape = items.shape
    position = np.arange(1, shape[1] + 1)
    decay = np.array(DEVICE_DECAY)[world.users.device[batch.user]][:, None]
    examined = rng.random(shape) < position**-decay
    leaves = rng.random(shape[0]) < world.behaviour.abandon
    depth = np.where(leaves, rng.geometric(0.4, size=shape[0]), shape[1])
    shown = items >= 0
    click = shown & examined & (position <= depth[:, None]) & (rng.random(shape) < truth)
    quality = world.items.quality[items]
    stays = 1 / (1 + np.exp(-(3 * (truth - 0.4) + 0.6 * quality)))
    keeps = 1 / (1 + np.exp(-(2 * (truth - 0.9) + 0.6 * quality)))
    long_click = click & (rng.random(shape) < stays)
    save = click & (rng.random(shape) < keeps)

    seen_at = batch.time[:, None] + 0.2 + 0.1 * position
    click_at = seen_at + position * rng.exponential(1.5, size=shape)
    dwell = 30.0 + rng.lognormal(3.5, 0.8, size=shape)
    reflection = rng.lognormal(4.5, 1.8, size=shape)
    at = np.stack([seen_at, click_at, click_at + dwell, click_at + reflection])
    at = np.minimum(at, (batch.time + LONGEST_DELAY)[:, None])
    return Outcome(items, np.stack([shown, click, long_click, save]), at)


class _Names:
    """Arrow string columns of the log, made once and gathered by index."""

    def __init__(self, world: World) -> None:
        self.users = pa.array([f"u{index:07d}" for index in range(world.preset.users)])
        self.queries = pa.array([text for texts in world.queries.texts for text in texts])
        self.actions = pa.array(ACTIONS)
        self.countries = pa.array(COUNTRIES)
        self.devices = pa.array(DEVICES)

    @staticmethod
    def request_ids(first: int, count: int) -> Any:
        """Arrow strings r0000000001 …, in order of request time."""
        numbers = pa.array(np.arange(first + 1, first + count + 1)).cast(pa.string())
        return pc.binary_join_element_wise("r", pc.utf8_lpad(numbers, 10, "0"), "")


def _event_table(
    world: World,
    names: _Names,
    request_ids: Any,
    batch: Batch,
    variant: NDArray[np.int64],
    outcome: Outcome,
) -> pa.Table:
    """The tick's rows under EVENTS_SCHEMA, by request, position, then action."""
    request, place, action = (
        axis.astype(np.int64) for axis in np.nonzero(outcome.done.transpose(1, 2, 0))
    )
    request_id = request_ids.take(pa.array(request))
    action_name = names.actions.take(pa.array(action))
    position = pa.array((place + 1).astype(np.int32))
    user = batch.user[request]
    event_id = pc.binary_join_element_wise(request_id, position.cast(pa.string()), action_name, "-")
    columns = [
        event_id,
        request_id,
        _microseconds(batch.time[request]),
        _microseconds(outcome.at[action, request, place]),
        names.users.take(pa.array(user)),
        names.queries.take(pa.array(batch.query[request] * VARIANTS + variant[request])),
        pa.array(world.items.ids[outcome.items[request, place]]),
        action_name,
        position,
        names.countries.take(pa.array(world.users.country[user])),
        names.devices.take(pa.array(world.users.device[user])),
    ]
    return pa.table(columns, schema=EVENTS_SCHEMA)


def _score_table(
    world: World,
    request_ids: Any,
    items: NDArray[np.int64],
    truth: NDArray[np.float64],
    log_only: NDArray[np.float64],
) -> pa.Table:
    """The tick's hidden scores under SCORES_SCHEMA, one row per request."""
    shown = items >= 0
    offsets = pa.array(np.r_[0, np.cumsum(shown.sum(axis=1))].astype(np.int32))
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(values))
        for values in (world.items.ids[items[shown]], truth[shown], log_only[shown])
    ]
    return pa.table([request_ids, *lists], schema=SCORES_SCHEMA)


def _microseconds(seconds: NDArray[np.float64]) -> Any:
    return pa.array(np.rint(seconds * 1e6).astype(np.int64)).cast(_TIME)


def write_items(world: World, path: Path) -> None:
    """The catalogue as one Parquet file: item_id, title, category, created_at, price."""
    items = world.items
    pq.write_table(
        pa.table(
            {
                "item_id": pa.array(items.ids),
                "title": pa.array(items.titles),
                "category": pa.array(items.categories),
                "created_at": _microseconds(items.created),
                "price": pa.array(items.price),
            }
        ),
        path,
    )


class _PartWriter:
    """Gathers ticks and writes folder/part-00000.parquet, … of about PART_REQUESTS each."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._schema = folder, schema
        self._tables: list[pa.Table] = []
        self._requests = self._parts = 0

    def add(self, table: pa.Table, requests: int) -> None:
        self._tables.append(table)
        self._requests += requests
        if self._requests >= PART_REQUESTS:
            self.close()

    def close(self) -> None:
        """Write what has been gathered; harmless when nothing has."""
        if not self._tables:
            return
        table = pa.concat_tables(self._tables).combine_chunks()
        pq.write_table(table, self._folder / f"part-{self._parts:05d}.parquet")
        self._tables, self._requests = [], 0
        self._parts += 1
