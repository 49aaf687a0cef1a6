"""A growing log of requests that show items at positions, as ``tests.growing_log`` has one without.

Some impressions come twice, without a position, late, or after the click on them; some clicks are
on items that were not shown.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests import growing_log
from tests.growing_log import DAY, HOUR, QUERIES, START, Log

from prerank.core import propensities
from prerank.core.home import Home
from prerank.features import examination

MANIFEST = replace(growing_log.MANIFEST, exposure=True)
MINUTE = 60_000_000
PLACES = 4


class ShownLog(Log):
    """``drawn`` has ``count`` requests; some of them that were before get rows more."""

    manifest = MANIFEST

    def drawn(self, low: int, high: int, count: int) -> pd.DataFrame:
        rng, rows = self.rng, []
        old = pd.concat(self.batches) if self.batches else None
        for number in range(count):
            time = int(rng.integers(low, high))
            asked = {
                "request_id": f"r{time}-{number}-{rng.integers(1 << 30)}",
                "request_time": time,
                "user_id": f"u{rng.integers(9)}",
                "query": str(rng.choice(QUERIES, p=[0.6, 0.2, 0.1, 0.05, 0.05])),
                "country": str(rng.choice(["de", "us", ""])),
            }
            items = rng.permutation(12)[:PLACES] - 3
            if old is not None and low < START + DAY < high and rng.random() < 0.5:
                # A row more of a request that was before.
                known = old.iloc[int(rng.integers(len(old)))]
                asked = {name: known[name] for name in asked}
                items = np.array([known["item_id"]])
            rows += self._shown(asked, items, time)
        found = pd.DataFrame(rows)
        found["position"] = found["position"].astype("Int32")
        return found.assign(event_id=rng.integers(-(2**62), 2**62, len(found)))

    def _shown(self, asked: dict[str, object], items: np.ndarray, time: int) -> list[dict]:
        rng, rows = self.rng, []
        for place, item in enumerate(items.tolist(), 1):
            row = asked | {"item_id": item, "event_time": time}
            at = place if rng.random() < 0.9 else None
            if rng.random() < 0.95:
                times = [time] if rng.random() < 0.9 else [time, time + MINUTE]
                rows += [
                    row | {"action": "impression", "position": at, "event_time": t} for t in times
                ]
            if rng.random() < 0.6 / place**0.7 * (0.3 + (item % 5) / 5):
                later = time + int(rng.integers(0, 2 * HOUR))
                actions = ["click"] if rng.random() < 0.7 else ["click", "click", "save"]
                rows += [
                    row | {"action": a, "position": None, "event_time": later} for a in actions
                ]
        return rows or [row | {"action": "impression", "position": 1}]


def estimates_often(patch: pytest.MonkeyPatch, days: int = 5, engagements: int = 8) -> None:
    """Make estimates of small logs, every few days."""
    patch.setattr(examination, "ESTIMATE_DAYS", days)
    patch.setattr(propensities, "MIN_ENGAGEMENTS", engagements)


def log_of(root: Path, seed: int, hours: int, shown: bool, lag: int, cap: int | None) -> Log:
    """A log with or without exposure."""
    return (ShownLog if shown else Log)(root, seed, hours, lag, cap)


def home_of(log: Log, root: Path) -> Home:
    """Another home, which holds the log's batches and no tables."""
    home = Home.at(root)
    log.write(home, log.batches)
    return home
