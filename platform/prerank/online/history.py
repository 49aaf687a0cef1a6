"""A user's online history: its events, how they merge, how Feast holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore

from interactrank.features.schema import HISTORY_LENGTH
from interactrank.features.text import query_code

HISTORY_FIELDS = ("item_ids", "actions", "times", "event_ids", "queries")


FEATURES = [f"user_history:{name}" for name in HISTORY_FIELDS]


Entry = tuple[int, int, int, int, int]
"""(item id, action code, time in microseconds since 1970, event id, code of its query)."""


@dataclass(frozen=True)
class Event:
    """One engagement. ``item_id`` is the int64 key, ``time`` microseconds since 1970; ``query`` is
    the normalised text that led to it, "" where that is not known.
    """

    user_id: str
    item_id: int
    action: str
    time: int
    event_id: int
    query: str = ""

    def entry(self, code: int) -> Entry:
        """The event in a history, with the ``code`` of its action."""
        return self.item_id, code, self.time, self.event_id, query_code(self.query)


def merged(current: Iterable[Entry], new: Iterable[Entry]) -> list[Entry]:
    """The last HISTORY_LENGTH distinct events by (time, event id), oldest first."""
    by_id: dict[int, Entry] = {}
    for entry in (*current, *new):
        known = by_id.setdefault(entry[3], entry)
        # A repeat may tell the query that the first telling left out.
        if entry[4] and not known[4]:
            by_id[entry[3]] = entry
    return sorted(by_id.values(), key=lambda e: (e[2], e[3]))[-HISTORY_LENGTH:]


def history_arrays(entries: Sequence[Entry]) -> dict[str, Any]:
    """Entries as int64 arrays [E], named as in ``FeatureInputs``."""
    places = {"hist_items": 0, "hist_actions": 1, "hist_times": 2, "hist_queries": 4}
    return {name: np.array([e[at] for e in entries], np.int64) for name, at in places.items()}


def read_histories(store: FeatureStore, users: Sequence[str]) -> dict[str, list[Entry]]:
    """Online histories of ``users``, oldest first; empty where there is none."""
    answer = store.get_online_features(FEATURES, [{"user_id": u} for u in users]).proto
    names = list(answer.metadata.feature_names.val)
    columns = [answer.results[names.index(f)].values for f in HISTORY_FIELDS]

    def history(i: int) -> list[Entry]:
        *told, queries = (column[i].int64_list_val.val for column in columns)
        # What was written before histories kept queries tells none.
        return list(zip(*told, queries or [0] * len(told[0]), strict=True))

    return {user: history(i) for i, user in enumerate(users)}


def _frame(histories: Mapping[str, list[Entry]]) -> pd.DataFrame:
    lists = [list(zip(*h, strict=True)) for h in histories.values()]
    last = pd.Series([h[-1][2] + 1 for h in histories.values()], dtype="int64")
    frame = {name: [list(column[i]) for column in lists] for i, name in enumerate(HISTORY_FIELDS)}
    # A row that includes an event at s is stamped s + 1 us, as the feature tables are.
    stamp = last.to_numpy().astype("datetime64[us]")
    return pd.DataFrame(
        {"user_id": list(histories), **frame, "event_timestamp": pd.to_datetime(stamp, utc=True)}
    )
