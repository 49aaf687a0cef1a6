"""Searchers of a simulated world: they search, and click what they are shown by what it truly is.

The world, its retriever and its searchers are those of ``prerank.simulate``; what is shown, and in
which order, is whatever a deployment answers. Items that are shown lower are looked at less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prerank.simulate import Preset
from prerank.simulate.acts import ACTIONS, act
from prerank.simulate.draws import draw_batch, taken
from prerank.simulate.presets import COUNTRIES, DAY, DEVICES, LOG_START
from prerank.simulate.relevance import Batch, Memory, score_impressions
from prerank.simulate.retrieval import Retriever
from prerank.simulate.tables import Names, item_table
from prerank.simulate.world import build_world


@dataclass(frozen=True)
class Search:
    """A search, and what the retriever found for it.

    Attributes:
        name: its request id.
        batch: the search, alone.
        query, user: texts. context: its segments.
        found: rows of items [n], the retriever's best first.
    """

    name: str
    batch: Batch
    query: str
    user: str
    context: dict[str, str]
    found: NDArray[np.int64]

    @property
    def time_us(self) -> int:
        """Microseconds since 1970."""
        return round(self.batch.time[0] * 1e6)


class Searchers:
    """The searchers of one world. What they did stays with them from day to day.

    Args:
        preset: of the world, without sessions and spammers.
        seed: of the world and of what they do.
    """

    def __init__(self, preset: Preset, seed: int) -> None:
        self.world = build_world(preset, seed)
        self._retriever, self._memory = Retriever(self.world), Memory(self.world)
        self._users = Names(self.world).users.to_pylist()
        self._rng = np.random.default_rng([seed, 99])

    @property
    def items(self) -> pa.Table:
        """The catalogue."""
        return item_table(self.world)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the items, by row."""
        return self.world.items.ids

    def searches(self, day: int, count: int, hours: tuple[float, float]) -> Iterator[Search]:
        """Searches of some hours of a day of the world, by time; each sees what was done before."""
        edges = LOG_START + DAY * day + 3600.0 * np.array(hours)
        batch, variants = draw_batch(self.world, count, edges, self._rng)
        for n, variant in enumerate(variants.tolist()):
            own = taken(batch, np.array([n]))
            self._memory.advance(own.time[0])
            found = self._retriever.show(own, self._memory, self._rng)[0]
            user = own.user[0]
            yield Search(
                f"day{day}-{n}",
                own,
                self.world.queries.texts[own.query[0]][variant],
                self._users[user],
                {
                    "country": COUNTRIES[self.world.users.country[user]],
                    "device": DEVICES[self.world.users.device[user]],
                },
                found[found >= 0],
            )

    def relevance(self, search: Search, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """True chance [n] that rows ``items`` [n] are engaged with, once they are looked at."""
        truth, _, _ = score_impressions(self.world, search.batch, self._memory, items[None])
        return truth[0]

    def acts(self, search: Search, shown: NDArray[np.int64]) -> list[dict[str, Any]]:
        """What a searcher does with rows ``shown``, as ``/v1/events`` takes it, by time."""
        truth = self.relevance(search, shown)[None]
        done = act(self.world, search.batch, shown[None], truth, self._rng)
        clicks = np.flatnonzero(done.done[1, 0])
        user = np.repeat(search.batch.user, len(clicks))
        self._memory.note_touches(done.at[1, 0, clicks], user, shown[clicks])
        what, _, place = np.nonzero(done.done)
        found = [
            {
                "user_id": search.user,
                "item_id": int(self.ids[shown[p]]),
                "action": ACTIONS[a],
                "event_time": round(done.at[a, 0, p] * 1e6),
                "query": search.query,
                "request_id": search.name,
            }
            for a, p in zip(what.tolist(), place.tolist(), strict=True)
            if ACTIONS[a] != "impression"
        ]
        return sorted(found, key=lambda event: event["event_time"])
