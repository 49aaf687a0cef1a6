"""Searches: a query in a context, and all that its text alone says for the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from interactrank.features.schema import LEVELS
from interactrank.features.text import engagement_keys, query_code, segment_bucket, tokens

LEVEL_CODE = {level.prefix: code for code, level in enumerate(LEVELS)}
"""Level prefix -> index in LEVELS."""


def level_code(key: str) -> int:
    """Index in LEVELS of an engagement key's level."""
    return LEVEL_CODE[key.split(":", 1)[0]]


@dataclass(frozen=True)
class Searches:
    """The distinct searches (a query in a context) of n requests.

    ``code`` int64 [n] points each request to its entry of ``queries`` (normalised) and
    ``contexts``; a context is a value for each segment column in the schema's order, "" where it
    is missing. Each text is worked on once, however many requests share it.
    """

    queries: Sequence[str]
    contexts: Sequence[Mapping[str, str]]
    code: NDArray[np.int64]

    @classmethod
    def one(cls, query: str, context: Mapping[str, str]) -> Searches:
        """The search of a single request."""
        return cls([query], [context], np.zeros(1, np.int64))

    @cached_property
    def keys(self) -> list[list[str]]:
        """Engagement keys of each search."""
        return [engagement_keys(q, c) for q, c in zip(self.queries, self.contexts, strict=True)]

    def request_keys(self) -> list[str]:
        """Keys of the n requests, end to end."""
        return [key for search in self.code for key in self.keys[search]]

    def key_levels(self) -> NDArray[np.int64]:
        """Index in LEVELS of each of ``request_keys``."""
        levels = [[level_code(key) for key in own] for own in self.keys]
        return np.array([level for search in self.code for level in levels[search]], np.int64)

    def key_offsets(self) -> NDArray[np.int64]:
        """Bounds of each request's keys in ``request_keys``: int64 [n + 1]."""
        counts = np.array([len(own) for own in self.keys], np.int64)[self.code]
        return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))

    def query_codes(self) -> NDArray[np.int64]:
        """Codes of the requests' queries, as histories keep them: int64 [n]."""
        return np.array([query_code(q) for q in self.queries], np.int64)[self.code]

    def token_counts(self) -> NDArray[np.int64]:
        """Word tokens of the requests' queries: int64 [n]."""
        return np.array([len(tokens(q)) for q in self.queries], np.int64)[self.code]

    def segments(self) -> NDArray[np.int64]:
        """Buckets of the requests' segments: int64 [n, S]."""
        found = [[segment_bucket(v) for v in c.values()] for c in self.contexts]
        width = len(found[0]) if found else 0
        return np.array(found, np.int64).reshape(len(found), width)[self.code]
