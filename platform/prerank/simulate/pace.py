"""How many searches each tick of a log draws, by day and hour, so that the log gets its size."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from prerank.simulate.motion import busy_days
from prerank.simulate.presets import DAY, LOG_START
from prerank.simulate.world import World

TICKS_PER_DAY = 8
HOURS = 24  # ticks of a day at least, in a world that moves
TICK_REQUESTS = 1_024
ROWS_PER_REQUEST = 24.5  # until the log itself tells


class Pace:
    """Ticks of a log of so many requests, or of so many rows.

    A tick is a few hours at most and about TICK_REQUESTS requests at most. Where it is not known
    before how many requests or rows a search brings (it may go on, and pages differ), each tick
    draws what is missing then by what searches have brought so far.
    """

    def __init__(self, world: World, requests: int, rows: int | None) -> None:
        days = world.preset.days
        expected = requests if rows is None else max(1, round(rows / ROWS_PER_REQUEST))
        least = TICKS_PER_DAY if world.movement is None else HOURS
        per_day = max(least, int(np.ceil(expected / days / TICK_REQUESTS)))
        self.ticks = days * per_day
        self.edges = LOG_START + DAY * np.arange(self.ticks + 1) / per_day
        hour = (np.arange(self.ticks) % per_day + 0.5) / per_day
        busy = 1.0 - 0.7 * np.cos(2 * np.pi * (hour - 0.1))
        if world.movement is not None:
            busy *= np.repeat(busy_days(days), per_day)
        share = busy / busy.sum()
        self.of_rows, self.target = rows is not None, requests if rows is None else rows
        self.requests = expected
        self._due = np.cumsum(share) * self.target
        self._drawn = 0
        plain = world.movement is None and world.series is None and world.spam is None
        self._counts = None
        if plain and rows is None:
            rng = np.random.default_rng(np.random.SeedSequence([world.seed, 1]))
            self._counts = rng.multinomial(requests, share)

    def searches(self, tick: int, done: int, boosting: int) -> int:
        """Searches to draw in a tick, beside `boosting` ones; done: requests or rows so far."""
        if self._counts is not None:
            return int(self._counts[tick])
        each = ROWS_PER_REQUEST if self.of_rows else 1.0
        if self._drawn:
            each = max(done / self._drawn, 1.0)
        count = max(0, round((self._due[tick] - done) / each) - boosting)
        self._drawn += count + boosting
        return count

    def day(self, tick: int) -> str:
        """The date that a tick belongs to, as in 2025-01-31."""
        # Its middle, since an edge may be a rounding error before midnight.
        return datetime.fromtimestamp(self.edges[tick : tick + 2].mean(), UTC).date().isoformat()
