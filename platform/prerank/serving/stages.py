"""When the stages of a request ended: one reading of the clock per stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

WAIT, PARSE, FEATURES, SCORE, TOP_K = "wait", "parse", "features", "score", "top_k"
ROWS, SERIALISE = "rows", "serialise"
STAGES = (WAIT, PARSE, FEATURES, SCORE, TOP_K, ROWS, SERIALISE)
"""In the order of their names' meaning: in the lane, the body read, the online store read, scored,
the best k found, all rows of a batch answered, the answer written."""

Ends = Sequence[tuple[str, int]]
"""Stages and when each ended, nanoseconds of ``time.perf_counter_ns``."""


class Stages:
    """The stages of one request, one after the other: each begins where the one before ended.

    Attributes:
        begun: when the first one began, nanoseconds of ``time.perf_counter_ns``.
        ends: of those that ended.
    """

    __slots__ = ("begun", "ends")

    def __init__(self) -> None:
        self.begun = time.perf_counter_ns()
        self.ends: list[tuple[str, int]] = []

    def restart(self) -> None:
        """Begin now."""
        self.begun = time.perf_counter_ns()

    def end(self, stage: str) -> None:
        """Note that ``stage`` ended now."""
        self.ends.append((stage, time.perf_counter_ns()))

    def add(self, ends: Ends) -> None:
        """Note stages that somebody else took the time of, after those of here."""
        self.ends += ends

    @property
    def whole_ns(self) -> int:
        """From the beginning to the end of the last stage."""
        return self.ends[-1][1] - self.begun if self.ends else 0

    def spans(self) -> Iterator[tuple[str, int, int]]:
        """Each stage with its beginning and its end."""
        begun = self.begun
        for stage, ended in self.ends:
            yield stage, begun, ended
            begun = ended
