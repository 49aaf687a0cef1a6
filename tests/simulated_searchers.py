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
from prerank.simulate.acts import ACTIONS, LEAVING, act, attention
from prerank.simulate.draws import draw_batch, taken
from prerank.simulate.presets import COUNTRIES, DAY, DEVICES, LOG_START
from prerank.simulate.relevance import Batch, Memory, score_impressions
from prerank.simulate.retrieval import Retriever
from prerank.simulate.tables import Names, item_table
from prerank.simulate.world import build_world

MOMENT = 32
"""Searches of a moment at most."""


@dataclass(frozen=True)
class Search:
    """A search, and what the retriever found for it.

    Attributes:
        name: its request id.
        time_us: microseconds since 1970.
        query, user: texts. context: its segments.
        found: rows of items int64 [n], the retriever's best first.
    """

    name: str
    time_us: int
    query: str
    user: str
    context: dict[str, str]
    found: NDArray[np.int64]


@dataclass(frozen=True)
class Moment:
    """Searches one after the other, each of another user: none sees what another one leads to.

    Attributes:
        batch: the searches N, as the simulator has them.
        searches: the same, as a caller has them.
        found: rows of items int64 [N, I], of each search the retriever's best first; -1 for none.
    """

    batch: Batch
    searches: list[Search]
    found: NDArray[np.int64]


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

    def moments(self, day: int, count: int, hours: tuple[float, float]) -> Iterator[Moment]:
        """Searches of some hours of a day of the world, by time.

        What was done before a moment is known in it.
        """
        edges = LOG_START + DAY * day + 3600.0 * np.array(hours)
        batch, variants = draw_batch(self.world, count, edges, self._rng)
        for rows in _of_other_users(batch.user):
            own = taken(batch, rows)
            self._memory.advance(own.time[0])
            found = self._retriever.show(own, self._memory, self._rng)
            names = [f"day{day}-{n}" for n in rows.tolist()]
            yield Moment(own, self._searches(names, own, variants[rows], found), found)

    def _searches(
        self,
        names: list[str],
        batch: Batch,
        variants: NDArray[np.int64],
        found: NDArray[np.int64],
    ) -> list[Search]:
        users, queries = self.world.users, self.world.queries
        return [
            Search(
                name,
                round(batch.time[n] * 1e6),
                queries.texts[batch.query[n]][variants[n]],
                self._users[batch.user[n]],
                {
                    "country": COUNTRIES[users.country[batch.user[n]]],
                    "device": DEVICES[users.device[batch.user[n]]],
                },
                found[n][found[n] >= 0],
            )
            for n, name in enumerate(names)
        ]

    def relevance(self, moment: Moment, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """True chance [N, I] that rows ``items`` [N, I] are engaged with, once looked at."""
        truth, _, _ = score_impressions(self.world, moment.batch, self._memory, items)
        return truth

    def fulfilment(self, moment: Moment, shown: NDArray[np.int64]) -> NDArray[np.float64]:
        """True chance [N] that something of the pages ``shown`` [N, I] is engaged with."""
        leaves = self.world.behaviour.abandon * (1 - (1 - LEAVING) ** np.arange(shown.shape[1]))
        stays = 1 - leaves
        # Of those who are still there, looked at and engaged with.
        engaged = attention(self.world, moment.batch, shown.shape[1]) / stays
        engaged *= np.where(shown >= 0, self.relevance(moment, shown), 0.0)
        first = engaged * np.cumprod(np.c_[np.ones(len(engaged)), 1 - engaged[:, :-1]], axis=1)
        return np.asarray((stays * first).sum(axis=1))

    def acts(self, moment: Moment, shown: NDArray[np.int64]) -> list[dict[str, Any]]:
        """What searchers do with pages of rows ``shown`` [N, I], as ``/v1/events`` takes it."""
        truth = self.relevance(moment, shown)
        done = act(self.world, moment.batch, shown, truth, self._rng)
        of, place = np.nonzero(done.done[1])
        self._memory.note_touches(done.at[1, of, place], moment.batch.user[of], shown[of, place])
        what, of, place = np.nonzero(done.done)
        return [
            {
                "user_id": moment.searches[n].user,
                "item_id": int(self.ids[shown[n, p]]),
                "action": ACTIONS[a],
                "event_time": round(done.at[a, n, p] * 1e6),
                "query": moment.searches[n].query,
                "request_id": moment.searches[n].name,
            }
            for a, n, p in zip(what.tolist(), of.tolist(), place.tolist(), strict=True)
            if ACTIONS[a] != "impression"
        ]


def _of_other_users(users: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows of ``users`` in order, in parts in which nobody comes twice."""
    begins, seen = 0, set[int]()
    for row, user in enumerate(users.tolist()):
        if user in seen or len(seen) == MOMENT:
            yield np.arange(begins, row)
            begins, seen = row, set()
        seen.add(user)
    yield np.arange(begins, len(users))
