"""The features of one live request: its packed rows and its user's history, in one round trip.

They become features as those of ``prerank.features.offline.offline_inputs`` do: the same
constructor, the same kernels. How many keys are read depends on the query's text alone, never on
the candidates.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from feast import FeatureStore
from numpy.typing import NDArray

from interactrank.features.inputs import MISSING_BLOCK, FeatureInputs, KeyRows
from interactrank.features.schema import (
    HISTORY_TTL_DAYS,
    MAX_BYTES_PER_REQUEST,
    MAX_KEYS_PER_REQUEST,
    FeatureSchema,
)
from interactrank.features.searches import Searches
from interactrank.features.text import NO_CONTEXT
from prerank.core.errors import NotReadyError
from prerank.core.graphs import GRAPH, Graphs, read_graph, read_vectors
from prerank.core.home import Home
from prerank.core.times import DAY_US
from prerank.online.breaker import AWAY, Breaker
from prerank.online.history import (
    HISTORY_FIELDS,
    NO_HISTORY,
    History,
    as_histories,
    stored_history,
    wanted_histories,
)
from prerank.online.layout import packed_row
from prerank.online.sentinel import KEY, wanted_rows
from prerank.online.store import Patience, check_views, open_store
from prerank.online.values import OnlineValues, Values
from prerank.online.watch import StoreWatch

TTL_US = HISTORY_TTL_DAYS * DAY_US
BYTES_BUDGET = MAX_BYTES_PER_REQUEST
TIMEOUT_S = 0.1
FAIR_SHARE = 0.5
"""A read that had less than this of the time-out, and did not end, says nothing of the store."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnlineRead:
    """Inputs of one request, and what reading them cost.

    Attributes:
        keys: keys read, the user's included, the sentinel's not.
        bytes: bytes of packed rows and history; the budget is ``BYTES_BUDGET``.
        cutoff_us: cutoff of the snapshot online, microseconds since 1970; None if unknown.
        degraded: which features are missing because the store failed, and ``online_store`` where
            the store is not what was materialised; empty when all is well.
    """

    inputs: FeatureInputs
    keys: int
    bytes: int
    cutoff_us: int | None
    degraded: tuple[str, ...]


class OnlineFeatures:
    """Reader of one schema's features in the online store of ``home``.

    Safe to share between threads. A request asks the store once, no longer than its time-out, and
    not at all while the store is known to be away (``prerank.online.breaker``).

    Args:
        home: where they were materialised.
        schema: of the model that reads them.
        store: as opened for a reader; opened here where left out.
        timeout_s: of one read, connection and reply together.

    Raises:
        NotReadyError: nothing was materialised, or not this schema.
        ConfigError: the online store, or the Feast that is installed, is none that can be read.
    """

    def __init__(
        self,
        home: Home,
        schema: FeatureSchema,
        store: FeatureStore | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if store is None:
            # Opened anew for each schema: an open store learns of new views a minute late.
            store = open_store(home, Patience(timeout_s, timeout_s))
        self._view, self._history_view = views = schema.engagement_view, schema.history_view
        check_views(store, *views)
        self.store, self._timeout_s = store, timeout_s
        self._home, self._schema = home, schema
        self._published: tuple[int, Graphs] = (-1, Graphs((), np.zeros(0, np.int64)))
        self._values = OnlineValues.of(store)
        for view in views:
            self._values.layout(view)
        self._watch = StoreWatch(home, schema)
        self._breaker = Breaker(self._look)
        self._problem = ""

    def read(
        self,
        query: str,
        user_id: str,
        now_us: int,
        context: Mapping[str, str] = NO_CONTEXT,
        deadline: float = math.inf,
    ) -> OnlineRead:
        """Features of a request made now.

        Args:
            query: normalised text.
            user_id: may be unknown.
            now_us: the request's time, microseconds since 1970; events at or after it are unseen.
            context: value of every segment column in the schema's order, "" where missing.
            deadline: ``time.monotonic()`` at which a read that has not ended is given up; never
                later than after the time-out of one read.
        """
        searches = Searches.one(query, context)
        (keys,) = searches.keys
        # The user's and the sentinel's come on top.
        assert len(keys) + 2 <= MAX_KEYS_PER_REQUEST, (
            "schema.LEVELS allow more keys than the budget"
        )
        rows, history, degraded = self._stored(keys, user_id, deadline)
        inputs = FeatureInputs.of(
            searches,
            np.array([now_us], np.int64),
            _key_rows(rows),
            as_histories([visible(history, now_us)]),
        )
        inputs, lost = self._with_near(inputs)
        degraded += lost
        size = len(inputs.blocks) + 8 * len(HISTORY_FIELDS) * len(history)
        return OnlineRead(inputs, len(keys) + 1, size, self.cutoff_us(), degraded)

    def look(self) -> None:
        """See whether the store is there and whole, off the request path; never raises."""
        try:
            if not self._breaker.open:
                self._breaker.call(self._look)
        except Exception as error:
            logger.exception("the online store could not be looked at")
            self._problem = f"the online store cannot be read: {type(error).__name__}."
        try:
            self._open_graph()
        except Exception as error:
            _log("the item graph", error)

    @property
    def problem(self) -> str:
        """What is wrong with the store, with the remedy; empty if nothing is."""
        if self._breaker.open:
            return f"{AWAY}: requests are answered without its features. Start it again."
        return self._problem

    @property
    def away(self) -> bool:
        """Whether the store is known not to answer, and is not asked."""
        return self._breaker.open

    def close(self) -> None:
        """End the thread that waits for a store that is away."""
        self._breaker.close()

    def cutoff_us(self) -> int | None:
        """Cutoff of the snapshot online, microseconds since 1970; None if nothing is."""
        state = self._watch.state()
        return int(state["cutoff_us"]) if state else None

    def _with_near(self, inputs: FeatureInputs) -> tuple[FeatureInputs, tuple[str, ...]]:
        """The inputs with what is near to the request, and what of that failed."""
        state = self._watch.state()
        if not self._schema.graph or not state:
            return inputs, ()
        try:
            return self._graphs(state).with_near(self._schema, inputs), ()
        except Exception as error:
            _log("the item graph", error)
            return inputs, (GRAPH,)

    def _graphs(self, state: Mapping[str, Any]) -> Graphs:
        """Snapshots of the item graph, up to the one that is online."""
        known, found = self._published
        cutoff, lag_minutes = int(state["cutoff_us"]), int(state["lag_minutes"])
        if known != cutoff:
            tables = self._home.features_of(self._schema.hash())
            self._home.fetch(tables / GRAPH)
            published = cutoff + lag_minutes * 60_000_000
            found = Graphs.of(tables, lag_minutes).published_by(published)
            self._published = cutoff, found
        return found

    def _look(self) -> None:
        self._problem = self._watch.look(self.store)

    def _open_graph(self) -> None:
        """Have the latest snapshot mapped, looked over and indexed before a request needs it."""
        state = self._watch.state()
        if self._schema.graph and state and (files := self._graphs(state).files):
            _ = read_graph(files[-1]).table, read_vectors(files[-1]).table

    def _stored(
        self, keys: list[str], user_id: str, deadline: float
    ) -> tuple[list[bytes], History, tuple[str, ...]]:
        """Packed row of each key, empty where it has none, the user's history, and what failed.

        A ranking without counts beats no ranking; the answer and the metric say so.
        """
        rows, history, degraded = [b""] * len(keys), NO_HISTORY, []
        try:
            stored, (own,) = self._breaker.call(lambda: self._read(keys, user_id, deadline))
        except Exception as error:
            _log("the online store", error)
            return rows, history, ("engagement", "user_history")
        try:
            *rows, sentinel = [packed_row(row) for (row,) in stored]
            if self._watch.problem(sentinel):
                degraded.append("online_store")
        except Exception as error:
            _log("engagement rows", error)
            degraded.append("engagement")
        try:
            history = stored_history(own)
        except Exception as error:
            _log("the user's history", error)
            degraded.append("user_history")
        return rows, history, tuple(degraded)

    def _read(self, keys: list[str], user_id: str, deadline: float) -> list[Values]:
        """What the store holds for a request: packed rows and the sentinel, and the history."""
        now = time.monotonic()
        until = min(deadline, now + self._timeout_s)
        if until <= now:
            raise NotReadyError("no time is left to read the online store")
        wanted = (
            wanted_rows(self._view, [*keys, KEY]),
            wanted_histories(self._history_view, [user_id]),
        )
        try:
            return self._values.read(wanted, until)
        except TimeoutError as error:
            if until - now < FAIR_SHARE * self._timeout_s:
                raise NotReadyError("the online store was given too little time") from error
            raise


def _log(what: str, error: Exception) -> None:
    if not isinstance(error, NotReadyError):
        # The breaker has said already that the store is left alone.
        logger.error("%s could not be read", what, exc_info=error)


def visible(history: History, now_us: int) -> History:
    """Events strictly before ``now_us``; none when the last of them is older than the ttl."""
    seen = history.take(history.times < now_us)
    # A row is stamped 1 us after its last event; the ttl is counted from the stamp, as offline.
    return seen if len(seen) and seen.times[-1] + 1 >= now_us - TTL_US else NO_HISTORY


def _key_rows(rows: list[bytes]) -> KeyRows:
    """The packed row of each key, empty = missing, in the form that features are made from."""
    sizes = np.array([len(r) for r in rows], np.int64)
    found = sizes > 0
    size = sizes[found]
    return KeyRows(
        blocks=_read_only(b"".join(rows)),
        block_start=np.cumsum(size) - size,
        block_size=size,
        key_block=np.where(found, np.cumsum(found) - 1, MISSING_BLOCK).astype(np.int64),
    )


def _read_only(data: bytes) -> NDArray[np.uint8]:
    # Always read-only, the empty one too: numba compiles a kernel anew for a writable array,
    # seconds that a request would have to wait.
    array = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    array.flags.writeable = False
    return array
