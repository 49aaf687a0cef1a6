"""What makes a searcher engage, as each of the two oracles knows it.

Both oracles share every term but six: the topic the searcher has in mind, the
searcher's interests and favourite style, the outcome that a session is there for, the day's whim,
and whether the searcher is a spammer. The oracle of true relevance knows them. The log oracle, a
perfect reader of the log, infers the first four from the query and from the user's earlier logged
actions, takes the whim at its mean and suspects nobody.

Shape letters: N requests of a batch, I impressions, K topics, U users, M remembered items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.presets import DAY, LOG_START
from prerank.simulate.sessions import Going
from prerank.simulate.world import STYLES, World

MEMORY = 24  # items a user remembers having touched
FRESH_HALF_LIFE = 7 * DAY
TOUCH_HALF_LIFE = 10 * DAY
BELIEF_HALF_LIFE = 15 * DAY
PRIOR_MASS = 1.5  # requests' worth of trust in the country's prior before any evidence
OTHER_APPEAL = 1 << 20  # added to the seed: what a pair's appeal turns into
OFFERS = 1 << 21  # added to the seed: prices of the day
OFFER_SPREAD = 0.5  # standard deviation of the log of a day's price over the catalogue's
TOUCH_WEIGHT = 0.5  # a touch says less about interests than a request: its query was counted


@dataclass(frozen=True)
class Batch:
    """Requests of one tick. time float64 [N] in seconds, ascending; user, query, topic int64
    [N]; theta float64 [N, K], the true interests. `topic` is what the searcher has in mind.
    going: where the sessions are, in worlds that have them; boost int64 [N]: the item that a
    spamming account is there for, -1 for others.
    """

    time: NDArray[np.float64]
    user: NDArray[np.int64]
    query: NDArray[np.int64]
    topic: NDArray[np.int64]
    theta: NDArray[np.float64]
    going: Going | None = None
    boost: NDArray[np.int64] | None = None


class Memory:
    """What each user has touched, from logged actions only; constant in the log's length.

    Touches wait in a queue until the tick that begins after they happened: users remember
    and the log oracle learns by ticks, so neither uses an action before its event time. Both
    lag in the same way, hence no model can gain on the log oracle by reading faster.
    """

    def __init__(self, world: World) -> None:
        users, topics = len(world.users.activity), world.preset.topics
        self._world = world
        self.items = np.full((users, MEMORY), -1, dtype=np.int64)
        self._times = np.full((users, MEMORY), -np.inf)
        self._next = np.zeros(users, dtype=np.int64)
        self._evidence = np.zeros((users, topics))
        self._styles = np.zeros((users, len(STYLES)))
        self._weighed = np.full(users, float(LOG_START))
        self.engagements = np.zeros(world.preset.items)
        self._counted = float(LOG_START)
        self._queue: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]] = (
            np.empty(0),
            np.empty(0, dtype=np.int64),
            np.empty(0, dtype=np.int64),
        )

    def beliefs(self, user: NDArray[np.int64], time: NDArray[np.float64]) -> NDArray[np.float64]:
        """The log oracle's estimate of interests, float64 [N, K], rows sum to 1."""
        decay = np.exp2((self._weighed[user] - time) / BELIEF_HALF_LIFE)[:, None]
        prior = self._world.prior[self._world.users.country[user]]
        mass = PRIOR_MASS * prior + decay * self._evidence[user]
        return np.asarray(mass / mass.sum(axis=1, keepdims=True))

    def style_beliefs(self, user: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(favourite style | touches so far), float64 [N, styles].

        A touch is e^weight times as likely in the favourite style as in another, and styles
        are shown alike, so each touch adds `weight` to its style's log-odds. In truth the lift
        saturates where items are good anyway, hence the half.
        """
        odds = 0.5 * self._world.behaviour.style * self._styles[user]
        odds = np.exp(odds - odds.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def touch_age(
        self, user: NDArray[np.int64], time: NDArray[np.float64], items: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Seconds since the user last touched each item, float64 [N, I]; inf for never."""
        same = items[:, :, None] == self.items[user][:, None, :]
        age = (time[:, None] - self._times[user])[:, None, :]
        return np.asarray(np.where(same, age, np.inf).min(axis=2))

    def note_requests(self, batch: Batch, guess: NDArray[np.float64]) -> None:
        """Add the topics the log oracle guesses behind a tick's queries, float64 [N, K].

        A request that follows a click says more about the item clicked than about the user.
        """
        if batch.going is None:
            self._add_evidence(batch.user, batch.time, guess)
        else:
            own = batch.going.clicked < 0
            self._add_evidence(batch.user[own], batch.time[own], guess[own])

    def note_touches(
        self, time: NDArray[np.float64], user: NDArray[np.int64], item: NDArray[np.int64]
    ) -> None:
        """Queue touches, each [n]; they count from the first tick after their time."""
        old_time, old_user, old_item = self._queue
        self._queue = (
            np.concatenate([old_time, time]),
            np.concatenate([old_user, user]),
            np.concatenate([old_item, item]),
        )

    def advance(self, now: float) -> None:
        """Take in the queued touches that happened before `now` (seconds)."""
        if self._world.movement is not None:
            half_life = self._world.movement.motion.popular_half_life * DAY
            self.engagements *= np.exp2((self._counted - now) / half_life)
            self._counted = now
        time, user, item = self._queue
        ready = time < now
        self._queue = (time[~ready], user[~ready], item[~ready])
        order = np.lexsort((time[ready], user[ready]))
        time, user, item = time[ready][order], user[ready][order], item[ready][order]
        if not len(user):
            return
        np.add.at(self.engagements, item, 1.0)
        slot = (self._next[user] + run_index(user)) % MEMORY
        self.items[user, slot] = item  # of repeated places the last, hence latest, wins
        self._times[user, slot] = time
        np.add.at(self._next, user, 1)
        np.add.at(self._styles, (user, self._world.items.style[item]), 1.0)
        self._add_evidence(user, time, TOUCH_WEIGHT * self._world.items.topics[item])

    def _add_evidence(
        self, user: NDArray[np.int64], time: NDArray[np.float64], mass: NDArray[np.float64]
    ) -> None:
        """Bring the users' evidence to their latest time, then add; ticks are much shorter
        than the half-life, so decay inside a tick is left out.
        """
        latest = self._weighed.copy()
        np.maximum.at(latest, user, time)
        moved = np.unique(user)
        decay = np.exp2((self._weighed[moved] - latest[moved]) / BELIEF_HALF_LIFE)
        self._evidence[moved] *= decay[:, None]
        self._weighed = latest
        np.add.at(self._evidence, user, mass)


def run_index(sorted_keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each element in its run of equal keys: [3, 3, 5] gives [0, 1, 0]."""
    starts = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    lengths = np.diff(np.r_[starts, len(sorted_keys)])
    return np.arange(len(sorted_keys)) - np.repeat(starts, lengths)


def topic_guess(
    world: World, query: NDArray[np.int64], beliefs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(topic in mind | query, believed interests), float64 [N, K].

    Bayes with P(query | topic) as the world issues queries: the shared Zipf factor cancels,
    the per-topic normaliser does not.
    """
    issue = world.queries.issue
    likelihood = issue[:, query].T - np.where(query > 0, issue[:, query - 1], 0.0).T
    joint = beliefs * likelihood
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def score_impressions(
    world: World, batch: Batch, memory: Memory, items: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """P(engage | examined) by true relevance and by the log, both float64 [N, I], and the
    log oracle's topic guess [N, K], for item indices int64 [N, I] (padding scores too).
    """
    weights = world.behaviour
    shared = _shared_logit(world, batch, memory, items)
    topics = world.items.topics[items]  # [N, I, K]

    in_mind = np.take_along_axis(topics, batch.topic[:, None, None], axis=2)[..., 0]
    liked = np.einsum("nik,nk->ni", topics, batch.theta)
    day = ((batch.time - LOG_START) // DAY).astype(np.int64)
    users = len(world.users.activity)
    mood = (day * users + batch.user)[:, None] + len(world.queries.texts)
    whim = pair_normal(world.seed, mood, items)  # keys beyond those of (query, item)
    favourite = world.items.style[items] == world.users.style[batch.user][:, None]
    personal = weights.interest * liked + weights.style * favourite + weights.whim * whim
    if world.series is not None and batch.going is not None:
        personal += world.series.suits(batch.going.keeping, items)
    truth = _sigmoid(shared + weights.intent * in_mind + personal)
    truth[world.users.spammer[batch.user]] = weights.spam_rate
    if batch.boost is not None:
        boosts = batch.boost >= 0
        truth[boosts] = items[boosts] == batch.boost[boosts, None]

    beliefs = memory.beliefs(batch.user, batch.time)
    guess = topic_guess(world, batch.query, _expected_topics(world, batch, beliefs))
    believed = weights.interest * np.einsum("nik,nk->ni", topics, beliefs)
    styles = memory.style_beliefs(batch.user)
    believed += weights.style * np.take_along_axis(styles, world.items.style[items], axis=1)
    if world.series is not None and batch.going is not None:
        believed += world.series.suits(np.tanh(batch.going.evidence), items)
    per_topic = _sigmoid((shared + believed)[..., None] + weights.intent * topics)
    log_only = np.einsum("nik,nk->ni", per_topic, guess)
    return truth, log_only, guess


def _expected_topics(
    world: World, batch: Batch, beliefs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(topic in mind | interests, day, item clicked before), float64 [N, K]."""
    expected = beliefs
    if world.movement is not None:
        expected = world.movement.wanted(beliefs, batch.time)
    if world.series is not None and batch.going is not None:
        follows = batch.going.clicked >= 0
        following = world.series.next_topics(batch.going.clicked)
        expected = np.where(follows[:, None], following, expected)
    return expected


def _shared_logit(
    world: World, batch: Batch, memory: Memory, items: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The terms both oracles know, float64 [N, I]."""
    weights, catalogue = world.behaviour, world.items
    age = np.maximum(batch.time[:, None] - catalogue.created[items], 0.0)
    country = world.users.country[batch.user]
    region = np.einsum("nik,nk->ni", catalogue.topics[items], world.taste[country])
    touched = memory.touch_age(batch.user, batch.time, items)
    logit = (
        weights.bias
        + weights.concept * concept_share(world, batch.query, items)
        + weights.quality * catalogue.quality[items]
        + weights.freshness * np.exp2(-age / FRESH_HALF_LIFE)
        + weights.region * region
        + weights.appeal * _appeal(world, batch, items)
        + weights.revisit * np.exp2(-touched / TOUCH_HALF_LIFE)
    )
    if world.movement is not None:
        logit += world.movement.wave(items, batch.time)
    if world.series is not None and batch.going is not None:
        logit += world.series.follows(batch.going, items)
    if world.preset.price:
        usual = np.log(catalogue.price).mean()
        logit -= world.preset.price * (np.log(offered(world, batch.time, items)) - usual)
    return np.asarray(logit)


def offered(
    world: World, time: NDArray[np.float64], items: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What items [N, I] cost on the day of times [N] seconds, float64 [N, I].

    It changes from day to day, so no count and no attribute of an item tells it.
    """
    day = ((time - LOG_START) // DAY).astype(np.int64)
    offer = pair_normal(world.seed + OFFERS, day[:, None], items)
    return np.asarray(world.items.price[items] * np.exp(OFFER_SPREAD * offer))


def _appeal(world: World, batch: Batch, items: NDArray[np.int64]) -> NDArray[np.float64]:
    """What no text explains: a standard normal per (query, item), float64 [N, I]."""
    query = batch.query[:, None]
    appeal = pair_normal(world.seed, query, items)
    if world.movement is None:
        return appeal
    other = pair_normal(world.seed + OTHER_APPEAL, query, items)
    return world.movement.turned(appeal, other, batch.time)


def concept_share(
    world: World, query: NDArray[np.int64], items: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of each query's words that each item is about, float64 [N, I]."""
    words = world.queries.words[query]
    used = words >= 0
    about = world.items.about[items[:, :, None], words[:, None, :]] & used[:, None, :]
    return np.asarray(about.sum(axis=2) / used.sum(axis=1)[:, None])


def pair_normal(
    seed: int, query: NDArray[np.int64], item: NDArray[np.int64]
) -> NDArray[np.float64]:
    """A standard normal per (query, item) from a hash, so no [Q, P] table is kept."""
    key = (query.astype(np.uint64) << np.uint64(32)) | item.astype(np.uint64)
    start = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    first = _mix64(key ^ start)
    second = _mix64(first + np.uint64(0x9E3779B97F4A7C15))
    # Box-Muller; + 0.5 keeps the logarithm's argument above zero.
    radius, turn = (
        ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53 for bits in (first, second)
    )
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * turn))


def _mix64(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-logit)))
