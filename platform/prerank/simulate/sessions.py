"""Sessions that go on: the next request follows what was clicked, and people come for an outcome.

Items stand on steps, in a circle, whatever their topic and text: after an item, one of the next
step is wanted. Topics have successors: who clicked an item of one topic often searches its
successor next. Neither is written anywhere, and both can be learned from the order of events alone,
so a model that reads a history as a sequence has something to gain over one that counts. Besides,
a session is there to keep or to look, which shows in its saves. In other worlds a session is about
one list: the same search again shows it again, and the searcher goes on from the item that was
clicked, at that item or below it.

Shape letters: N requests of a batch, I items of a request, K topics, P items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.presets import IMPRESSIONS, Sessions


@dataclass(frozen=True)
class Going:
    """How far the session of each request is. All [N].

    clicked int64: item clicked last, -1 at a session's first request; keeping float64: 1 where the
    session is there to keep, -1 to look; evidence float64: what its logged saves say of that, in
    the units of an inverse hyperbolic tangent; page int64 [N, I]: the list that is shown again, -1
    where none is, and where a short one ends.
    """

    clicked: NDArray[np.int64]
    keeping: NDArray[np.float64]
    evidence: NDArray[np.float64]
    page: NDArray[np.int64]

    def taken(self, rows: NDArray[np.int64]) -> Going:
        """Those of the requests `rows`, in that order."""
        return Going(*(column[rows] for column in self._columns()))

    @classmethod
    def joined(cls, goings: list[Going]) -> Going:
        """Those of several batches, end to end."""
        columns = zip(*(going._columns() for going in goings), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.clicked, self.keeping, self.evidence, self.page


@dataclass(frozen=True)
class Series:
    """step and topic int64 [P], keepable float64 [P], of the items; successor int64 [K]."""

    sessions: Sessions
    step: NDArray[np.int64]
    topic: NDArray[np.int64]
    keepable: NDArray[np.float64]
    successor: NDArray[np.int64]

    def start(self, count: int, rng: np.random.Generator) -> Going:
        """Sessions at their first request."""
        keeping = rng.choice([-1.0, 1.0], size=count)
        none = np.full((count, IMPRESSIONS), -1)
        return Going(np.full(count, -1), keeping, np.zeros(count), none)

    def next_topics(self, clicked: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(topic of the next request | item clicked), float64 [N, K]."""
        topic, rows = self.topic[clicked], np.arange(len(clicked))
        chance = np.zeros((len(clicked), len(self.successor)))
        chance[rows, topic] = 1 - self.sessions.successor
        chance[rows, self.successor[topic]] += self.sessions.successor
        return chance

    def follows(self, going: Going, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logit float64 [N, I], by position, of items that go on from the clicked one: on the step
        after it, the item itself, and the one below it in the list that is shown again.
        """
        wanted = (self.step[going.clicked] + 1) % self.sessions.steps
        next_step = (self.step[items] == wanted[:, None]) & (going.clicked >= 0)[:, None]
        logit = self.sessions.step * next_step
        same = (items == going.clicked[:, None]) & (going.page[:, :1] >= 0)
        logit += self.sessions.again * same
        logit[:, 1:] += self.sessions.onward * same[:, :-1]
        return logit

    def suits(self, keeping: NDArray[np.float64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logit float64 [N, I] of an outcome, from -1 (to look) to 1 (to keep)."""
        return np.asarray(self.sessions.outcome * keeping[:, None] * self.keepable[items])


def draw_series(
    sessions: Sessions, mixture: NDArray[np.float64], rng: np.random.Generator
) -> Series:
    """Steps and successors for items of these topics, float64 [P, K]."""
    count, topics = mixture.shape
    order = rng.permutation(topics)
    successor = np.empty(topics, dtype=np.int64)
    successor[order] = np.roll(order, -1)
    return Series(
        sessions,
        step=np.asarray(rng.integers(sessions.steps, size=count)),
        topic=mixture.argmax(axis=1),
        keepable=np.asarray(rng.normal(size=count)),
        successor=successor,
    )
