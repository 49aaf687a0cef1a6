"""A user's online history: its events, how they merge, how Feast holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore
from numpy.typing import NDArray

from interactrank.features.inputs import Histories, HistoryError
from interactrank.features.schema import HISTORY_LENGTH, FeatureSchema
from interactrank.features.text import query_code
from prerank.online.layout import numbers
from prerank.online.values import OnlineValues, Wanted

HISTORY_FIELDS = ("item_ids", "actions", "times", "event_ids", "queries")
"""Lists of a feature view of user histories, in the order of ``History``."""


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


@dataclass(frozen=True, eq=False)
class History:
    """Engagements of one user as columns, int64 [E] each; online they stand oldest first.

    ``actions`` are codes, ``times`` microseconds since 1970, ``queries`` the codes of the queries
    that led to each (text.query_code), 0 for none.
    """

    item_ids: NDArray[np.int64]
    actions: NDArray[np.int64]
    times: NDArray[np.int64]
    event_ids: NDArray[np.int64]
    queries: NDArray[np.int64]

    @classmethod
    def of(cls, events: Sequence[Event], codes: Mapping[str, int]) -> History:
        """``events`` in their order, with the ``codes`` of their actions."""
        return cls(
            np.array([e.item_id for e in events], np.int64),
            np.array([codes[e.action] for e in events], np.int64),
            np.array([e.time for e in events], np.int64),
            np.array([e.event_id for e in events], np.int64),
            np.array([query_code(e.query) for e in events], np.int64),
        )

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]]) -> History:
        """A history from the lists of ``HISTORY_FIELDS``, in their order."""
        return cls(*(np.fromiter(column, np.int64, len(column)) for column in lists))

    @property
    def columns(self) -> tuple[NDArray[np.int64], ...]:
        """The columns, in the order of ``HISTORY_FIELDS``."""
        return self.item_ids, self.actions, self.times, self.event_ids, self.queries

    def take(self, at: NDArray[np.int64] | NDArray[np.bool_]) -> History:
        """The entries at positions ``at``, or where ``at`` [E] is true."""
        return History(*(column[at] for column in self.columns))

    def __len__(self) -> int:
        return len(self.times)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and all(map(np.array_equal, self.columns, other.columns))


@dataclass(frozen=True)
class HistoryTable:
    """The online histories of all schemas that give engagement actions the same codes.

    Attributes:
        view: the feature view.
        codes: of each engagement action; an event with any other enters no history.
    """

    view: str
    codes: Mapping[str, int]

    @classmethod
    def of(cls, schema: FeatureSchema) -> HistoryTable:
        """The table of a schema."""
        return cls(schema.history_view, schema.history_codes)

    def histories(self, events: Iterable[Event]) -> dict[str, History]:
        """The engagements among ``events``, by user."""
        found: dict[str, list[Event]] = {}
        for e in events:
            if e.action in self.codes:
                found.setdefault(e.user_id, []).append(e)
        return {user: History.of(own, self.codes) for user, own in found.items()}


def online_tables(states: Iterable[Mapping[str, Any]]) -> list[HistoryTable]:
    """Tables of the schemas whose ``states`` are given (``prerank.online.store.states_here``)."""
    tables = {s["views"]["user_history"]: s["history_codes"] for s in states}
    return [HistoryTable(view, codes) for view, codes in tables.items()]


NO_HISTORY = History(*(np.zeros(0, np.int64) for _ in HISTORY_FIELDS))


def merged(current: History, new: History) -> History:
    """The last HISTORY_LENGTH distinct events by (time, event id), oldest first."""
    pairs = zip(current.columns, new.columns, strict=True)
    both = History(*(np.concatenate(pair) for pair in pairs))
    # The first telling of an event counts; a repeat may tell the query that it left out.
    order = np.lexsort((both.queries == 0, both.event_ids))
    ids = both.event_ids[order]
    first = order[np.diff(ids, prepend=ids[:1] - 1) != 0]
    by_time = np.lexsort((both.event_ids[first], both.times[first]))
    return both.take(first[by_time[-HISTORY_LENGTH:]])


def as_histories(histories: Sequence[History]) -> Histories:
    """Histories of B requests end to end, in the form that features are made from."""
    lengths = np.array([len(h) for h in histories], np.int64)

    def flat(columns: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.concatenate((NO_HISTORY.times, *columns))

    return Histories(
        hist_items=flat(h.item_ids for h in histories),
        hist_actions=flat(h.actions for h in histories),
        hist_times=flat(h.times for h in histories),
        hist_queries=flat(h.queries for h in histories),
        hist_offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
    )


def wanted_histories(view: str, users: Sequence[str]) -> Wanted:
    """The histories of users in a feature view; ``stored_history`` reads each."""
    return Wanted(view, HISTORY_FIELDS, users)


def stored_history(values: Sequence[bytes | None]) -> History:
    """The history of one user from its serialised ``HISTORY_FIELDS``; empty where there is none.

    Raises:
        HistoryError: it is damaged.
    """
    *told, queries = map(numbers, values)
    # What was written before histories kept queries tells none.
    history = History(*(*told, queries if len(queries) else np.zeros_like(told[0])))
    if len(set(map(len, history.columns))) > 1:
        raise HistoryError("the lists of an online history have different lengths")
    return history


def read_histories(store: FeatureStore, view: str, users: Sequence[str]) -> dict[str, History]:
    """Histories of ``users`` in a feature view, oldest first; empty where there is none.

    The view (``FeatureSchema.history_view``) says what the codes of actions mean.
    """
    (values,) = OnlineValues.of(store).read([wanted_histories(view, users)])
    return {user: stored_history(own) for user, own in zip(users, values, strict=True)}


def as_frame(histories: Mapping[str, History]) -> pd.DataFrame:
    """Non-empty histories by user, as rows of a feature view."""
    columns = zip(*(h.columns for h in histories.values()), strict=True)
    lists = {
        name: [column.tolist() for column in of_users]
        for name, of_users in zip(HISTORY_FIELDS, columns, strict=True)
    }
    # A row that includes an event at s is stamped s + 1 us, as the feature tables are.
    last = np.array([h.times[-1] + 1 for h in histories.values()], np.int64)
    stamp = pd.to_datetime(last.astype("datetime64[us]"), utc=True)
    return pd.DataFrame({"user_id": list(histories), **lists, "event_timestamp": stamp})
