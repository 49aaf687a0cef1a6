"""Who searches for what in a tick: users' own requests, boosting ones, and sessions that go on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.acts import Outcome
from prerank.simulate.relevance import Batch
from prerank.simulate.sessions import Going
from prerank.simulate.world import VARIANTS, World

VARIANT_SHARES = (0.86, 0.04, 0.03, 0.02, 0.01, 0.04)  # right, four slips, compound
LEAST_GAP = 5.0  # seconds from a click to the session's next request
SAVED, NOT_SAVED = 0.8, -0.3  # evidence of a request with clicks for being there to keep


def draw_batch(
    world: World, count: int, edges: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Batch, NDArray[np.int64]]:
    """`count` requests of users between two edges, and the index of the spelling used int64 [N]."""
    time = _times(count, edges, rng)
    activity = world.users.activity
    user = np.minimum(np.searchsorted(activity, rng.random(count)), len(activity) - 1)
    theta = world.interests(user, time)
    wanted = theta if world.movement is None else world.movement.wanted(theta, time)
    topic = (rng.random((count, 1)) > np.cumsum(wanted, axis=1)[:, :-1]).sum(axis=1)
    query = _queries(world, topic, rng)
    variant = rng.choice(VARIANTS, size=count, p=VARIANT_SHARES)
    going = None if world.series is None else world.series.start(count, rng)
    return Batch(time, user, query, topic, theta, going), variant


def with_spam(
    world: World,
    batch: Batch,
    variant: NDArray[np.int64],
    edges: NDArray[np.float64],
    who: NDArray[np.int64],
    target: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[Batch, NDArray[np.int64]]:
    """The batch with requests of accounts `who` for the items of `target`, each [n], by time."""
    spam = world.spam
    if spam is None or not len(who):
        return batch, variant
    count = len(who)
    time, user = _times(count, edges, rng), world.preset.users + who
    query = spam.query[target]
    theta, topic = world.interests(user, time), world.queries.intent[query].argmax(axis=1)
    going = None if world.series is None else world.series.start(count, rng)
    extra = Batch(time, user, query, topic, theta, going, spam.item[target])
    plain = replace(batch, boost=np.full(len(batch.time), -1))
    joined = concatenated([plain, extra])
    order = np.argsort(joined.time, kind="stable")
    spelt = np.concatenate([variant, np.zeros(count, dtype=np.int64)])
    return taken(joined, order), spelt[order]


def go_on(
    world: World,
    batch: Batch,
    variant: NDArray[np.int64],
    outcome: Outcome,
    rng: np.random.Generator,
) -> tuple[Batch, NDArray[np.int64]]:
    """The next request of the sessions that have one: those with a click, by chance."""
    series, going = world.series, batch.going
    if series is None or going is None:
        none = np.zeros(0, dtype=np.int64)
        return taken(batch, none), none
    _, clicks, _, saves = outcome.done
    goes = clicks.any(axis=1) & (rng.random(len(clicks)) < series.sessions.goes_on)
    if batch.boost is not None:
        goes &= batch.boost < 0
    rows = np.flatnonzero(goes)
    clicked_at = np.where(clicks, outcome.at[1], -np.inf)[rows]
    last = clicked_at.argmax(axis=1)
    clicked = outcome.items[rows, last]
    pause = LEAST_GAP + rng.exponential(series.sessions.gap, size=len(rows))
    time = np.floor((clicked_at[np.arange(len(rows)), last] + pause) * 1e6) / 1e6
    # Only a save that happened before the next request says something about it.
    saved = (saves[rows] & (outcome.at[3][rows] < time[:, None])).any(axis=1)
    evidence = going.evidence[rows] + np.where(saved, SAVED, NOT_SAVED)
    chance = np.cumsum(series.next_topics(clicked), axis=1)
    topic = (rng.random((len(rows), 1)) > chance[:, :-1]).sum(axis=1)
    spelt = rng.choice(VARIANTS, size=len(rows), p=VARIANT_SHARES)
    query = _queries(world, topic, rng)
    page = np.full((len(rows), outcome.items.shape[1]), -1)
    if series.sessions.same:
        same = rng.random(len(rows)) < series.sessions.same
        for drawn, before in ((topic, batch.topic), (query, batch.query), (spelt, variant)):
            drawn[same] = before[rows][same]
        page[same] = outcome.items[rows][same]
    user = batch.user[rows]
    following = Batch(
        time,
        user,
        query,
        topic,
        world.interests(user, time),
        Going(clicked, going.keeping[rows], evidence, page),
        None if batch.boost is None else batch.boost[rows],
    )
    return following, spelt


def _times(count: int, edges: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Ascending times float64 [count] in seconds: whole microseconds, so that written times and
    the oracles' times are one.
    """
    return np.asarray(np.sort(np.floor(rng.uniform(edges[0], edges[1], size=count) * 1e6)) / 1e6)


def _queries(world: World, topic: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    query = np.empty(len(topic), dtype=np.int64)
    draw = rng.random(len(topic))
    for each in np.unique(topic):
        chosen = topic == each
        query[chosen] = np.searchsorted(world.queries.issue[each, :-1], draw[chosen])
    return query


def taken(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """Requests `rows` of a batch, in that order."""
    return Batch(
        batch.time[rows],
        batch.user[rows],
        batch.query[rows],
        batch.topic[rows],
        batch.theta[rows],
        None if batch.going is None else batch.going.taken(rows),
        None if batch.boost is None else batch.boost[rows],
    )


def concatenated(batches: list[Batch]) -> Batch:
    """All requests of batches of one world, end to end; all or none of them have boosts."""
    goings = [batch.going for batch in batches if batch.going is not None]
    boosts = [batch.boost for batch in batches if batch.boost is not None]
    return Batch(
        np.concatenate([batch.time for batch in batches]),
        np.concatenate([batch.user for batch in batches]),
        np.concatenate([batch.query for batch in batches]),
        np.concatenate([batch.topic for batch in batches]),
        np.concatenate([batch.theta for batch in batches]),
        Going.joined(goings) if goings else None,
        np.concatenate(boosts) if boosts else None,
    )
