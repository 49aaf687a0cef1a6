"""The features of one live request: one multi-get of packed rows, one read of the user.

They become features as those of ``prerank.features.offline.offline_inputs`` do: the same
constructor, the same kernels. How many keys are read depends on the query's text alone, never on
the candidates.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

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
from prerank.core.home import Home
from prerank.core.times import DAY_US
from prerank.online.history import (
    HISTORY_FIELDS,
    NO_HISTORY,
    History,
    as_histories,
    read_histories,
)
from prerank.online.store import check_views, open_store

TTL_US = HISTORY_TTL_DAYS * DAY_US
BYTES_BUDGET = MAX_BYTES_PER_REQUEST

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnlineRead:
    """Inputs of one request, and what reading them cost.

    Attributes:
        keys: keys read, the user's included.
        bytes: bytes of packed rows and history; the budget is ``BYTES_BUDGET``.
        cutoff_us: cutoff of the snapshot online, microseconds since 1970; None if unknown.
        degraded: which features are missing because the store failed; empty when all is well.
    """

    inputs: FeatureInputs
    keys: int
    bytes: int
    cutoff_us: int | None
    degraded: tuple[str, ...]


class OnlineFeatures:
    """Reader of one schema's features in the online store of ``home``.

    Safe to share between threads.

    Raises:
        NotReadyError: nothing was materialised, or not this schema.
    """

    def __init__(
        self, home: Home, schema: FeatureSchema, store: FeatureStore | None = None
    ) -> None:
        views = schema.engagement_view, schema.history_view
        # Opened anew for each schema: an open store learns of new views a minute late.
        self.store = open_store(home) if store is None else store
        check_views(self.store, *views)
        self._row, self._history_view = [f"{views[0]}:row"], views[1]
        self._state = home.materialised_of(schema.hash())
        self._cutoff: tuple[int, int | None] = (-1, None)

    def read(
        self, query: str, user_id: str, now_us: int, context: Mapping[str, str] = NO_CONTEXT
    ) -> OnlineRead:
        """Features of a request made now.

        Args:
            query: normalised text.
            user_id: may be unknown.
            now_us: the request's time, microseconds since 1970; events at or after it are unseen.
            context: value of every segment column in the schema's order, "" where missing.
        """
        searches = Searches.one(query, context)
        (keys,) = searches.keys
        assert len(keys) < MAX_KEYS_PER_REQUEST, "schema.LEVELS allow more keys than the budget"
        degraded = []
        rows, history = [b""] * len(keys), NO_HISTORY
        try:
            rows = self._rows(keys)
        except Exception:
            # A ranking without counts beats no ranking; the answer and the metric say so.
            logger.exception("engagement rows could not be read")
            degraded.append("engagement")
        try:
            history = read_histories(self.store, self._history_view, [user_id])[user_id]
        except Exception:
            logger.exception("the user's history could not be read")
            degraded.append("user_history")
        inputs = FeatureInputs.of(
            searches,
            np.array([now_us], np.int64),
            _key_rows(rows),
            as_histories([visible(history, now_us)]),
        )
        size = len(inputs.blocks) + 8 * len(HISTORY_FIELDS) * len(history)
        return OnlineRead(inputs, len(keys) + 1, size, self.cutoff_us(), tuple(degraded))

    def cutoff_us(self) -> int | None:
        """Cutoff of the snapshot online, re-read when the file changes."""
        try:
            stamp = self._state.stat().st_mtime_ns
            if stamp != self._cutoff[0]:
                self._cutoff = stamp, int(json.loads(self._state.read_text())["cutoff_us"])
        except FileNotFoundError:
            return None
        return self._cutoff[1]

    def _rows(self, keys: list[str]) -> list[bytes]:
        """Packed row of each key, empty where it has none."""
        entities = [{"engagement_key": k} for k in keys]
        answer = self.store.get_online_features(self._row, entities).proto
        at = list(answer.metadata.feature_names.val).index("row")
        # The proto's bytes directly: to_dict() costs another tenth of a millisecond.
        return [value.bytes_val for value in answer.results[at].values]


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
