"""The retrieval stage of the simulated board: which items a request shows, in which order.

Shape letters: N requests of a batch, C raw candidates, I impressions, P items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.presets import IMPRESSIONS
from prerank.simulate.relevance import Batch, Memory, concept_share
from prerank.simulate.world import World

LEXICAL, TOPICAL, POPULAR, RANDOM, REVISITED = 10, 14, 4, 4, 3  # raw candidates by source
FADING = 2  # times as many where old items fade
NOISE = 1.4  # of the ranking in production, whose positions the log records


class Retriever:
    """Blends lexical, topical, popular, random and revisited items into about 24 per request."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._times = 1 if world.movement is None else FADING
        topics = world.items.topics
        weights = (topics**2 * np.exp(0.4 * world.items.quality)[:, None]).T  # [K, P]
        cumulative = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
        cumulative[:, -1] = 1.0
        # Row k lives in (k, k + 1], so one searchsorted draws from every topic at once.
        self._by_topic = (cumulative + np.arange(len(cumulative))[:, None]).ravel()

    def show(self, batch: Batch, memory: Memory, rng: np.random.Generator) -> NDArray[np.int64]:
        """Item indices by position, int64 [N, IMPRESSIONS], short lists padded with -1."""
        raw = np.concatenate(
            [
                self._lexical(batch, rng),
                self._topical(batch, rng),
                self._popular(batch, memory, rng),
                self._random(batch, rng),
                self._revisited(batch, memory),
            ],
            axis=1,
        )
        age = batch.time[:, None] - self._world.items.created[raw]
        legal = (raw >= 0) & (age > 0)
        legal &= ~_repeats(raw)
        if self._world.movement is not None:
            legal &= rng.random(raw.shape) < self._world.movement.kept(age)
        # Which candidates survive to the page is left to chance, how they stand is not.
        lottery = np.where(legal, rng.random(raw.shape), np.inf)
        kept = np.argsort(lottery, axis=1)[:, :IMPRESSIONS]
        items = np.take_along_axis(np.where(legal, raw, -1), kept, axis=1)
        value = self._production_score(batch, items) + NOISE * rng.normal(size=items.shape)
        order = np.argsort(np.where(items >= 0, -value, np.inf), axis=1, kind="stable")
        items = np.take_along_axis(items, order, axis=1)
        if batch.going is not None:
            items = np.where(batch.going.page[:, :1] >= 0, batch.going.page, items)
        return self._boosted(batch, items, rng)

    def _boosted(
        self, batch: Batch, items: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """The pages, with what a spamming account came for at some place of its own."""
        if batch.boost is None:
            return items
        lacking = (batch.boost >= 0) & ~(items == batch.boost[:, None]).any(axis=1)
        rows = np.flatnonzero(lacking)
        shown = np.maximum((items[rows] >= 0).sum(axis=1), 1)
        items[rows, rng.integers(shown)] = batch.boost[rows]
        return items

    def _random(self, batch: Batch, rng: np.random.Generator) -> NDArray[np.int64]:
        size = (len(batch.time), RANDOM * self._times)
        return np.asarray(rng.integers(self._world.preset.items, size=size))

    def _lexical(self, batch: Batch, rng: np.random.Generator) -> NDArray[np.int64]:
        """Title matches. The board corrects spelling, so variants retrieve as the right one."""
        pool = self._world.queries.pool[batch.query]
        match = self._world.queries.match[batch.query]
        value = np.where(match > 0, match + rng.gumbel(size=match.shape), -np.inf)
        best = np.argsort(-value, axis=1, kind="stable")[:, : LEXICAL * self._times]
        matched = np.take_along_axis(match, best, axis=1) > 0
        return np.where(matched, np.take_along_axis(pool, best, axis=1), -1)

    def _topical(self, batch: Batch, rng: np.random.Generator) -> NDArray[np.int64]:
        """Items of the topics that the query's words suggest."""
        cumulative = np.cumsum(self._world.queries.intent[batch.query], axis=1)
        draw = rng.random((len(batch.time), TOPICAL * self._times))
        topic = (draw[:, :, None] > cumulative[:, None, :-1]).sum(axis=2)
        place = np.searchsorted(self._by_topic, topic + rng.random(topic.shape))
        return np.asarray(place - topic * self._world.preset.items)

    def _popular(self, batch: Batch, memory: Memory, rng: np.random.Generator) -> NDArray[np.int64]:
        cumulative = np.cumsum(memory.engagements + 0.1)
        draw = rng.random((len(batch.time), POPULAR * self._times)) * cumulative[-1]
        return np.asarray(np.minimum(np.searchsorted(cumulative, draw), len(cumulative) - 1))

    def _revisited(self, batch: Batch, memory: Memory) -> NDArray[np.int64]:
        """Items the user touched before that fit the query's topics."""
        held = memory.items[batch.user]
        intent = self._world.queries.intent[batch.query]
        fit = np.einsum("nmk,nk->nm", self._world.items.topics[held], intent)
        fit = np.where(held >= 0, fit, -1.0)
        best = np.argsort(-fit, axis=1, kind="stable")[:, :REVISITED]
        fits = np.take_along_axis(fit, best, axis=1) > 0.15
        return np.where(fits, np.take_along_axis(held, best, axis=1), -1)

    def _production_score(self, batch: Batch, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """A decent but impersonal ranker: topic fit, words, quality. float64 [N, I]."""
        intent = self._world.queries.intent[batch.query]
        fit = np.einsum("nik,nk->ni", self._world.items.topics[items], intent)
        words = concept_share(self._world, batch.query, items)
        return np.asarray(1.5 * fit + 0.7 * words + 0.3 * self._world.items.quality[items])


def _repeats(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True where a value stood earlier in its row, bool [N, C]."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    again = np.zeros(rows.shape, dtype=np.bool_)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeats = np.empty_like(again)
    np.put_along_axis(repeats, order, again, axis=1)
    return repeats
