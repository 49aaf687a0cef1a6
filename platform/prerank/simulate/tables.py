"""A tick as Arrow tables: the events, and the oracles' scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prerank.simulate.acts import ACTIONS, Outcome
from prerank.simulate.presets import COUNTRIES, DEVICES, Preset
from prerank.simulate.relevance import Batch, offered
from prerank.simulate.world import VARIANTS, World

TIME = pa.timestamp("us", tz="UTC")
EVENTS_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("request_id", pa.string()),
        ("request_time", TIME),
        ("event_time", TIME),
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


def events_schema(preset: Preset) -> pa.Schema:
    """Of a log's events: EVENTS_SCHEMA, and the price of the day, the retriever's rank and a full
    ranker's score where the preset has them.
    """
    schema = EVENTS_SCHEMA
    if preset.price:
        schema = schema.append(pa.field("price", pa.float32()))
    if preset.bias:
        schema = schema.append(pa.field("retriever_rank", pa.int32()))
    if preset.full_ranker is not None:
        schema = schema.append(pa.field("l2_score", pa.float32()))
    return schema


class Names:
    """Arrow string columns of the log, made once and gathered by index.

    Where accounts boost items, names are shuffled: they do not tell who does.
    """

    def __init__(self, world: World) -> None:
        count = len(world.users.activity)
        order = np.arange(count)
        if world.spam is not None:
            order = np.random.default_rng([world.seed, 5]).permutation(count)
        self.users = pa.array([f"u{index:07d}" for index in order])
        self.queries = pa.array([text for texts in world.queries.texts for text in texts])
        self.actions = pa.array(ACTIONS)
        self.countries = pa.array(COUNTRIES)
        self.devices = pa.array(DEVICES)

    @staticmethod
    def request_ids(first: int, count: int) -> Any:
        """Arrow strings r0000000001 …, in order of request time."""
        numbers = pa.array(np.arange(first + 1, first + count + 1)).cast(pa.string())
        return pc.binary_join_element_wise("r", pc.utf8_lpad(numbers, 10, "0"), "")


def event_table(
    world: World,
    names: Names,
    request_ids: Any,
    batch: Batch,
    variant: NDArray[np.int64],
    outcome: Outcome,
    l2_scores: NDArray[np.float64] | None,
) -> pa.Table:
    """The tick's rows under `events_schema`, by request, position, then action."""
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
        microseconds(batch.time[request]),
        microseconds(outcome.at[action, request, place]),
        names.users.take(pa.array(user)),
        names.queries.take(pa.array(batch.query[request] * VARIANTS + variant[request])),
        pa.array(world.items.ids[outcome.items[request, place]]),
        action_name,
        position,
        names.countries.take(pa.array(world.users.country[user])),
        names.devices.take(pa.array(world.users.device[user])),
    ]
    if world.preset.price:
        prices = offered(world, batch.time, outcome.items)[request, place]
        columns.append(pa.array(prices.astype(np.float32)))
    if world.preset.bias:
        columns.append(pa.array(place.astype(np.int32)))
    if l2_scores is not None:
        columns.append(pa.array(l2_scores[request, place].astype(np.float32)))
    return pa.table(columns, schema=events_schema(world.preset))


def score_table(
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


def item_table(world: World) -> pa.Table:
    """The catalogue: item_id, title, category, created_at, price."""
    items = world.items
    return pa.table(
        {
            "item_id": pa.array(items.ids),
            "title": pa.array(items.titles),
            "category": pa.array(items.categories),
            "created_at": microseconds(items.created),
            "price": pa.array(items.price),
        }
    )


def microseconds(seconds: NDArray[np.float64]) -> Any:
    """Arrow timestamps of float64 [n] seconds."""
    return pa.array(np.rint(seconds * 1e6).astype(np.int64)).cast(TIME)
