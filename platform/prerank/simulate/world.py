"""The hidden world: items, queries and users with their true, unlogged properties.

Shape letters: K topics, P items, Q queries (right spellings), U users, E epochs of drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.motion import Movement, draw_movement
from prerank.simulate.presets import (
    BEHAVIOUR,
    COUNTRIES,
    COUNTRY_SHARES,
    DAY,
    DEVICE_SHARES,
    DEVICES,
    LOG_START,
    Behaviour,
    Preset,
)
from prerank.simulate.sessions import Series, draw_series
from prerank.simulate.spam import RING, Spam, draw_spam, kinds_of
from prerank.simulate.words import (
    STYLES,
    VARIANTS,
    build_language,
    draw_concepts,
    draw_queries,
    spell_queries,
    write_titles,
    zipf,
)

EPOCH_DAYS = 12.0  # how long a user's interests stand still
SLOTS = 3  # interests a user has at a time
SLOT_WEIGHTS = (0.55, 0.25, 0.15)  # the remaining .05 follows the country's prior
STATIC_SHARE = 0.5  # items that exist before the log starts
LEXICAL_POOL = 40  # items a query's words retrieve


@dataclass(frozen=True)
class Items:
    """ids int64 [P]; topics float64 [P, K], rows sum to 1; quality float64 [P], standard
    normal; style int64 [P], an index into STYLES; created float64 [P], seconds since the
    epoch; about bool [P, V], whether the item is about a word; price float32 [P].
    """

    ids: NDArray[np.int64]
    titles: list[str]
    categories: list[str]
    topics: NDArray[np.float64]
    quality: NDArray[np.float64]
    style: NDArray[np.int64]
    created: NDArray[np.float64]
    about: NDArray[np.bool_]
    price: NDArray[np.float32]


@dataclass(frozen=True)
class Queries:
    """words int64 [Q, QUERY_WORDS] padded with -1; texts `[Q][VARIANTS]`; intent float64
    [Q, K], P(topic | query) up to the user; issue float64 [K, Q], cumulative P(query | topic);
    pool int64 [Q, LEXICAL_POOL], item indices by title match, best first; match float64
    [Q, LEXICAL_POOL], their idf-weighted scores.
    """

    words: NDArray[np.int64]
    texts: list[list[str]]
    intent: NDArray[np.float64]
    issue: NDArray[np.float64]
    pool: NDArray[np.int64]
    match: NDArray[np.float64]


@dataclass(frozen=True)
class Users:
    """slots int64 [U, E, SLOTS], topics of interest per epoch; phase float64 [U], days by
    which a user's epochs are shifted; style int64 [U], the favourite one, for good; country,
    device int64 [U]; spammer bool [U]; activity float64 [U], cumulative share of requests.
    """

    slots: NDArray[np.int64]
    phase: NDArray[np.float64]
    style: NDArray[np.int64]
    country: NDArray[np.int64]
    device: NDArray[np.int64]
    spammer: NDArray[np.bool_]
    activity: NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Everything hidden. prior float64 [C, K]: what each country asks for (rows sum to 1);
    taste float64 [C, K]: what it prefers when it sees it. movement, series and spam: None where
    the preset has none. Accounts of spam are users too, after `preset.users` others.
    """

    preset: Preset
    seed: int
    behaviour: Behaviour
    items: Items
    queries: Queries
    users: Users
    prior: NDArray[np.float64]
    taste: NDArray[np.float64]
    movement: Movement | None = None
    series: Series | None = None
    spam: Spam | None = None

    def interests(self, user: NDArray[np.int64], time: NDArray[np.float64]) -> NDArray[np.float64]:
        """True interests float64 [N, K] (rows sum to 1) of users [N] at times [N] seconds."""
        users = self.users
        day = (time - LOG_START) / DAY + users.phase[user]
        slots = users.slots[user, (day / EPOCH_DAYS).astype(np.int64)]
        theta = (1.0 - sum(SLOT_WEIGHTS)) * self.prior[users.country[user]]
        rows = np.arange(len(user))
        for slot, weight in enumerate(SLOT_WEIGHTS):
            # One slot at a time, since two slots may hold the same topic.
            theta[rows, slots[:, slot]] += weight
        return np.asarray(theta)


def build_world(preset: Preset, seed: int) -> World:
    """Draw the world of `preset`; the same (preset, seed) gives the same world.

    The number of requests does not enter, so a longer log of a preset has the same world.
    """
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4)]
    language = build_language(preset, streams[0])
    prior = streams[1].dirichlet(np.full(preset.topics, 1.5), size=len(COUNTRIES))
    taste = streams[1].normal(size=(len(COUNTRIES), preset.topics))

    rng = streams[2]
    mixture = _item_topics(preset, rng)
    concepts = draw_concepts(language, mixture, rng)
    about = np.zeros((preset.items, len(language.words)), dtype=np.bool_)
    about[np.arange(preset.items)[:, None], concepts] = True
    style = rng.integers(len(STYLES), size=preset.items)
    titles = write_titles(language, concepts, style, rng)
    main = mixture.argmax(axis=1)
    items = Items(
        ids=rng.choice(10_000_000, size=preset.items, replace=False).astype(np.int64) + 1,
        titles=titles,
        categories=[language.words[language.by_topic[t // 2 * 2, 0]] for t in main],
        topics=mixture,
        quality=rng.normal(size=preset.items),
        style=style,
        created=_created(preset, rng),
        about=about,
        price=np.exp(rng.normal(2.5 + 0.5 * np.sin(main), 0.6)).astype(np.float32),
    )
    words = draw_queries(language, preset.queries, rng)
    intent = _intent(language.affinity, words)
    pool, match = _lexical_pool(language.words, titles, words)
    queries = Queries(
        words=words,
        texts=spell_queries(language, words, rng),
        intent=intent,
        issue=_issue(intent),
        pool=pool,
        match=match,
    )
    kinds = kinds_of(preset)
    users = _build_users(preset, prior, kinds, streams[3])
    # Streams of their own, so that a world without these is what it was before there were any.
    movement = series = spam = None
    if preset.motion is not None:
        rng = np.random.default_rng([seed, 3])
        size = preset.days, preset.topics, preset.items
        movement = draw_movement(preset.motion, *size, rng)
    if preset.sessions is not None:
        series = draw_series(preset.sessions, mixture, np.random.default_rng([seed, 4]))
    if len(kinds):
        rng = np.random.default_rng([seed, 6])
        spam = draw_spam(kinds, preset.days, queries.pool, items.created, rng)
    return World(
        preset, seed, BEHAVIOUR, items, queries, users, prior, taste, movement, series, spam
    )


def _item_topics(preset: Preset, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mostly one topic, some of a second, a trace of everything."""
    count, topics = preset.items, preset.topics
    mixture = np.full((count, topics), 0.05 / topics)
    rows = np.arange(count)
    main = rng.integers(topics, size=count)
    second = (main + rng.integers(1, topics, size=count)) % topics
    share = rng.uniform(0.55, 0.95, size=count)
    mixture[rows, main] += 0.95 * share
    mixture[rows, second] += 0.95 * (1 - share)
    return mixture


def _created(preset: Preset, rng: np.random.Generator) -> NDArray[np.float64]:
    """Creation times in whole seconds: half a year before the log, then steadily during it."""
    old = rng.random(preset.items) < STATIC_SHARE
    before = -180 * DAY * rng.random(preset.items) ** 2
    during = preset.days * DAY * rng.random(preset.items)
    return np.asarray(np.floor(LOG_START + np.where(old, before, during)))


def _intent(affinity: NDArray[np.float64], words: NDArray[np.int64]) -> NDArray[np.float64]:
    """P(topic | query) [Q, K]: the product of what its words mean, never quite certain."""
    meaning = np.where(words[..., None] >= 0, affinity[words] + 0.02, 1.0).prod(axis=1)
    return np.asarray(meaning / meaning.sum(axis=1, keepdims=True))


def _issue(intent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative P(query | topic) [K, Q] with Zipf popularity over queries."""
    weights = intent * zipf(len(intent), 1.15, offset=6.0)[:, None]
    return np.asarray(np.cumsum(weights / weights.sum(axis=0), axis=0).T)


def _lexical_pool(
    vocabulary: list[str], titles: list[str], words: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Best title matches of each query: item indices and idf-weighted scores [Q, pool]."""
    ids = {word: index for index, word in enumerate(vocabulary)}
    shown = np.zeros((len(vocabulary) + 1, len(titles)), dtype=np.float32)  # last row: padding
    for item, title in enumerate(titles):
        shown[[ids[w] for w in title.split() if w in ids], item] = 1.0
    shown *= np.log(len(titles) / (1.0 + shown.sum(axis=1, keepdims=True)))
    shown = np.maximum(shown, 0.0)
    size = min(LEXICAL_POOL, len(titles))
    pool = np.empty((len(words), size), dtype=np.int64)
    match = np.empty((len(words), size))
    for query, row in enumerate(words):
        score = shown[row].sum(axis=0)  # -1 picks the zero padding row
        best = np.argsort(-score, kind="stable")[:size]
        pool[query], match[query] = best, score[best]
    return pool, match


def _build_users(
    preset: Preset,
    prior: NDArray[np.float64],
    kinds: NDArray[np.int64],
    rng: np.random.Generator,
) -> Users:
    """Users whose first interest is steady and whose others drift between epochs.

    kinds int64 [B]: of the accounts that boost items; only a ring's also search for themselves.
    """
    count = preset.users + len(kinds)
    epochs = int(np.ceil(preset.days / EPOCH_DAYS)) + 2
    country = rng.choice(len(COUNTRIES), size=count, p=COUNTRY_SHARES)
    # Gender shapes interests and is never logged: only the oracle of true relevance knows it.
    gender = rng.integers(2, size=count)
    leaning = rng.dirichlet(np.full(preset.topics, 1.0), size=2)
    weights = 0.5 * prior[country] + 0.5 * leaning[gender]
    cumulative = np.cumsum(weights, axis=1)
    draws = rng.random((count, epochs, SLOTS))
    fresh = (draws[..., None] > cumulative[:, None, None, :-1]).sum(axis=-1)
    slots = fresh.copy()
    for epoch in range(1, epochs):
        stays = rng.random((count, SLOTS)) < np.array([0.95, 0.6, 0.4])
        slots[:, epoch] = np.where(stays, slots[:, epoch - 1], fresh[:, epoch])
    activity = rng.gamma(0.8, size=count)
    activity[preset.users :][kinds != RING] = 0.0
    return Users(
        slots=slots,
        phase=rng.uniform(0, EPOCH_DAYS, size=count),
        style=rng.integers(len(STYLES), size=count),
        country=country,
        device=rng.choice(len(DEVICES), size=count, p=DEVICE_SHARES),
        spammer=(rng.random(count) < 0.01) & (np.arange(count) < preset.users),
        activity=np.cumsum(activity) / activity.sum(),
    )


__all__ = ["STYLES", "VARIANTS", "Items", "Queries", "Users", "World", "build_world"]
