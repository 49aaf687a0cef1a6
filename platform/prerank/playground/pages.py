"""What is known of one query, one item or one user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import LEVELS, Level
from interactrank.features.searches import LEVEL_CODE
from prerank.core.times import iso
from prerank.online.reader import OnlineRead
from prerank.playground.explain import by_column, row_counts
from prerank.playground.log_view import LogView
from prerank.serving.answer import Loaded, sound
from prerank.serving.candidates import item_key
from prerank.serving.fields import RequestError, shown
from prerank.serving.items import item_of

Row = dict[str, Any]
MAX_ITEMS = 50
MAX_QUERIES = 20
NOBODY = ""
"""No user has this id: only counts are read."""


def query_page(
    query: str, context: Mapping[str, str], now_us: int, view: LogView, loaded: Loaded
) -> Row:
    """What searchers of a normalised query engaged with, per window, most first."""
    read = loaded.features.read(query, NOBODY, now_us, context)
    table, read = sound(read, lambda inputs: _row(loaded, inputs, LEVELS[LEVEL_CODE["q"]], view))
    return {"query": query, **table, "requests": view.requests(query=query), **_state(read)}


def item_page(id: str, now_us: int, view: LogView, loaded: Loaded) -> Row:
    """An item's attributes, how often everybody engaged with it, and by which queries.

    Raises:
        RequestError: 400 for what can be no id, 404 for an item that nobody knows.
    """
    key = item_key(id, "id", view.manifest.item_ids)
    row = int(view.items.rows(np.array([key]))[0])
    if row < 0:
        raise RequestError("id", f"{shown(id)} is no item of the log or its catalogue", 404)
    try:
        known = item_of(id, loaded)
    except RequestError:
        known = {"indexed": False, "trained": False}
    read = loaded.features.read(
        "", NOBODY, now_us, dict.fromkeys(loaded.limits.schema.segments, "")
    )
    popular = LEVELS[LEVEL_CODE["a"]]

    def counts(inputs: FeatureInputs) -> Row:
        found = row_counts(loaded.limits.schema, inputs, len(inputs.key_block) - 1, popular)
        if found is None or key not in found[0]:
            return {}
        (of_item,) = found[1][found[0] == key]
        return by_column(loaded.limits.schema.columns(popular), of_item)

    own, read = sound(read, counts)
    return {
        **view.items.at(row),
        **view.items.attributes(row),
        "indexed": known["indexed"],
        "trained": known["trained"],
        "counts": own,
        "queries": view.searched_for(key, MAX_QUERIES),
        **_state(read),
    }


def user_page(user_id: str, now_us: int, view: LogView, loaded: Loaded) -> Row:
    """A user's history as rankings read it, newest first, their searches and their segments.

    Raises:
        RequestError: 404 for a user who has neither.
    """
    schema = loaded.limits.schema
    read = loaded.features.read("", user_id, now_us, dict.fromkeys(schema.segments, ""))
    history, requests = read.inputs.histories, view.requests(user_id=user_id)
    if not requests and not len(history.hist_times) and not read.degraded:
        raise RequestError(
            "user_id",
            f"{shown(user_id)} is unknown: no history is online, and the newest events of the log "
            "have no search of theirs. A ranking for them is one for a new user",
            404,
        )
    items = view.items.shown(history.hist_items)
    rows = [
        item
        | {
            "action": schema.actions[action],
            "time": iso(at),
            "query": view.query_text(code) if code else None,
        }
        for item, action, at, code in zip(
            items,
            history.hist_actions.tolist(),
            history.hist_times.tolist(),
            history.hist_queries.tolist(),
            strict=True,
        )
    ]
    return {
        "user_id": user_id,
        "history": rows[::-1],
        "segments": requests[0]["context"] if requests else {},
        "requests": requests,
        **_state(read),
    }


def _row(loaded: Loaded, inputs: FeatureInputs, level: Level, view: LogView) -> Row:
    """The row of the request's first key as a table of items."""
    schema = loaded.limits.schema
    found = row_counts(schema, inputs, 0, level)
    if found is None:
        return {"known": False, "totals": {}, "distinct": 0, "items": []}
    ids, counts, totals = found
    # Of all engagements, over all time.
    mass = counts[:, schema.columns(level).index("engage:all")]
    order = np.argsort(-mass, kind="stable")[:MAX_ITEMS]
    order = order[mass[order] > 0]
    items = view.items.shown(ids[order])
    rows = [
        item | {"counts": by_column(schema.columns(level), own)}
        for item, own in zip(items, counts[order], strict=True)
    ]
    return {
        "known": True,
        "totals": by_column(schema.columns(level), totals),
        "distinct": len(ids),
        "items": rows,
    }


def _state(read: OnlineRead) -> Row:
    return {"degraded": list(read.degraded), "snapshot_cutoff": iso(read.cutoff_us)}
