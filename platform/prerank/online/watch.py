"""Whether the online store holds what the home says: for materialisation, readers and /health.

Each schema that is online is looked at by itself: it has views, a state and a sentinel of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from feast import FeatureStore

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import NotReadyError
from prerank.core.files import read_json
from prerank.core.home import Home
from prerank.online.probes import Probes, evicted
from prerank.online.sentinel import Sentinel, disagreement, read_sentinel


def broken(store: FeatureStore, schema: FeatureSchema, state: Mapping[str, Any]) -> str:
    """Everything asked at once: what is wrong with the store, with the remedy; empty if nothing.

    Args:
        store: to be looked at.
        schema: whose features are looked at.
        state: content of ``materialised-<schema hash>.json``, empty if there is none.
    """
    return (
        disagreement(state, read_sentinel(store, schema.engagement_view))
        or Probes.of(state).lost(store, schema)
        or evicted(state, store)
    )


def require_whole(states: Sequence[Mapping[str, Any]], store: FeatureStore) -> None:
    """Refuse to write to a store that is not what was materialised: it would look filled.

    Args:
        states: of the schemas that are online there (``store.states_here``).
        store: to be written to.

    Raises:
        NotReadyError: naming what is wrong, with the remedy.
        Exception: of the store, where it does not answer.
    """
    for state in states:
        there = read_sentinel(store, state["views"]["engagement"])
        # One that is being filled for this very state takes what comes live.
        there = there and replace(there, filled=True)
        if wrong := disagreement(state, there):
            raise NotReadyError(wrong)


class StoreWatch:
    """Compares the store with a schema's state in ``home``. Safe to share between threads.

    A request has ``problem`` look at the sentinel that came with its rows; ``look`` also reads
    probes, and is the background thread's.
    """

    def __init__(self, home: Home, schema: FeatureSchema) -> None:
        self._schema, self._path = schema, home.materialised_of(schema.hash())
        self._lock = threading.Lock()
        self._state: tuple[int, dict[str, Any]] = (-1, {})
        self._checked: tuple[int, bytes, str] = (-1, b"", "")
        self._lost: tuple[str | None, str] = (None, "")

    def state(self) -> dict[str, Any]:
        """The schema's state, read again when it changes; empty if there is none."""
        return self._read()[1]

    def problem(self, sentinel: bytes) -> str:
        """What is wrong with the store that has this sentinel, with the remedy; empty if nothing.

        Args:
            sentinel: the reserved row, empty where the store has none.
        """
        stamp, state = self._read()
        checked = self._checked
        if checked[:2] != (stamp, sentinel):
            checked = stamp, sentinel, disagreement(state, Sentinel.unpacked(sentinel))
            self._checked = checked
        epoch, lost = self._lost
        # What an earlier filling lost is there again after the next.
        return checked[2] or (lost if epoch == state.get("epoch") else "")

    def look(self, store: FeatureStore) -> str:
        """Read the sentinel and some probes: what is wrong, with the remedy; empty if nothing.

        Raises:
            Exception: of the store, where it does not answer.
        """
        state, schema = self.state(), self._schema
        if told := disagreement(state, read_sentinel(store, schema.engagement_view)):
            return told
        epoch, lost = self._lost
        # Once something is lost, only all probes can say that it is back, and how much is gone.
        some = Probes.of(state).some()
        suspect = (epoch == state["epoch"] and lost) or some.lost(store, schema)
        suspect = suspect or evicted(state, store)
        lost = broken(store, schema, state) if suspect else ""
        self._lost = state["epoch"], lost
        return lost

    def _read(self) -> tuple[int, dict[str, Any]]:
        try:
            stamp = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return -1, {}
        with self._lock:
            if stamp != self._state[0]:
                self._state = stamp, read_json(self._path)
            return self._state
