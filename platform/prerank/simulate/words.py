"""The generated language: topic words, item titles, queries and their misspelt variants."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.presets import Preset

CONCEPTS = 9  # words an item is about
SHOWN = 6  # of them, how many stand in its title
QUERY_WORDS = 3  # most words of a query; unused places hold -1
VARIANTS = 6  # spellings of a query: itself, four misspellings, one compound
AMBIGUOUS = 0.5  # share of words with a second meaning: whose is meant depends on the user
FILLERS = ("the", "and", "with", "for", "new", "best", "idea", "set", "easy", "home")
STYLES = ("minimal", "vintage", "rustic", "modern")


@dataclass(frozen=True)
class Language:
    """Words and what they mean. V words, K topics, Q queries.

    words: V strings; affinity: float64 [V, K], rows sum to 1: P(topic | word);
    by_topic: int64 [K, W], the words a topic draws from, commonest first.
    """

    words: list[str]
    affinity: NDArray[np.float64]
    by_topic: NDArray[np.int64]


def zipf(size: int, exponent: float, offset: float = 2.0) -> NDArray[np.float64]:
    """Zipf-Mandelbrot probabilities float64 [size], largest first."""
    weights = (np.arange(size) + offset) ** -exponent
    return np.asarray(weights / weights.sum())


def _spell(count: int, rng: np.random.Generator) -> list[str]:
    """`count` distinct pronounceable words of two or three syllables."""
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    found: dict[str, None] = {}
    while len(found) < count:
        lengths = rng.integers(2, 4, size=count)
        picks = rng.integers(0, len(syllables), size=(count, 3))
        for length, row in zip(lengths, picks, strict=True):
            word = "".join(syllables[i] for i in row[:length])
            if word not in FILLERS + STYLES:
                found[word] = None
    return list(found)[:count]


def build_language(preset: Preset, rng: np.random.Generator) -> Language:
    """Give each topic its words; many words also belong to a second topic."""
    topics, per_topic = preset.topics, preset.words_per_topic
    total = topics * per_topic
    home = np.arange(total) // per_topic
    affinity = np.zeros((total, topics))
    affinity[np.arange(total), home] = 1.0
    shared = rng.random(total) < AMBIGUOUS
    second = (home + rng.integers(1, topics, size=total)) % topics
    weight = rng.uniform(0.3, 0.5, size=total)
    affinity[shared, home[shared]] -= weight[shared]
    affinity[shared, second[shared]] += weight[shared]
    by_topic = np.arange(total).reshape(topics, per_topic)
    return Language(_spell(total, rng), affinity, by_topic)


def draw_concepts(
    language: Language, mixture: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Words each item is about: int64 [P, CONCEPTS] (may repeat), from its topics [P, K]."""
    chosen = np.empty((len(mixture), CONCEPTS), dtype=np.int64)
    popularity = zipf(language.by_topic.shape[1], 0.7)
    cumulative = np.cumsum(mixture, axis=1)
    for place in range(CONCEPTS):
        draw = rng.random((len(mixture), 1)) * cumulative[:, -1:]
        topic = (draw > cumulative).sum(axis=1)
        rank = rng.choice(len(popularity), size=len(mixture), p=popularity)
        chosen[:, place] = language.by_topic[topic, rank]
    return chosen


def write_titles(
    language: Language,
    concepts: NDArray[np.int64],
    style: NDArray[np.int64],
    rng: np.random.Generator,
) -> list[str]:
    """Titles showing the first SHOWN concepts, a filler and the style's word.

    The rest stays unsaid: a picture answers queries that its title does not contain, which is
    what engagement counts can learn and text cannot.
    """
    titles = []
    fillers = rng.integers(0, len(FILLERS), size=len(concepts))
    for row, filler, manner in zip(concepts[:, :SHOWN], fillers, style, strict=True):
        shown = list(dict.fromkeys(language.words[i] for i in row))
        shown.insert(1, FILLERS[filler])
        titles.append(" ".join([*shown, STYLES[manner]]))
    return titles


def draw_queries(language: Language, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` distinct queries as word ids: int64 [count, QUERY_WORDS], padded with -1."""
    topics, per_topic = language.by_topic.shape
    popularity = zipf(per_topic, 0.7)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        topic = int(rng.integers(topics))
        size = int(rng.choice(QUERY_WORDS, p=(0.35, 0.45, 0.20))) + 1
        ranks = rng.choice(per_topic, size=size, replace=False, p=popularity)
        key = tuple(sorted(int(w) for w in language.by_topic[topic, ranks]))
        found[key + (-1,) * (QUERY_WORDS - size)] = None
    return np.array(list(found), dtype=np.int64)


def _misspell(text: str, rng: np.random.Generator) -> str:
    """One slip of the finger: a letter dropped, doubled or swapped with its neighbour."""
    at = int(rng.integers(1, len(text) - 1))
    slip = int(rng.integers(3))
    if slip == 0:
        return text[:at] + text[at + 1 :]
    if slip == 1:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def spell_queries(
    language: Language, queries: NDArray[np.int64], rng: np.random.Generator
) -> list[list[str]]:
    """Texts of each query, `[Q][VARIANTS]`: the right spelling first, the compound last.

    A slip that happens to spell another query, or nothing new, falls back to the right
    spelling, so one text always means one query.
    """
    right = [" ".join(language.words[w] for w in row if w >= 0) for row in queries]
    taken = set(right)
    texts: list[list[str]] = []
    for text in right:
        spellings = [text]
        attempts = [_misspell(text, rng) for _ in range(VARIANTS - 2)]
        for attempt in [*attempts, text.replace(" ", "")]:
            clean = " ".join(attempt.split())
            spellings.append(text if clean in taken else clean)
            taken.add(clean)
        texts.append(spellings)
    return texts
