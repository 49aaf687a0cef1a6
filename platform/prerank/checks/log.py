"""What is odd about a log itself: missing days, wrong clocks, users with impossible rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.sql import connection
from prerank.ingest.rows import BACKWARDS

THIN = 0.1
"""A day with fewer requests than this share of the median day's counts as thin."""
MAX_USERS = 20


@dataclass(frozen=True)
class Busy:
    """A user with more engagements than a person can have, and in how short a time."""

    user_id: str
    per_minute: int
    per_day: int


@dataclass(frozen=True)
class Clock:
    """Times of a window's events.

    Attributes:
        events: engagements that were looked at.
        future: of them, those that happen later than now.
        delay_median_s, delay_99_s: seconds from request to engagement.
        after_label_window: share that comes too late to be a label.
        backwards: rows that the last ingest refused, as their event is before their request: the
            two times are of clocks that differ. ``read``: rows that it read.
    """

    events: int
    future: int
    delay_median_s: float
    delay_99_s: float
    after_label_window: float
    backwards: int = 0
    read: int = 0


def missing_days(requests_per_day: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Days without a request between the first and the last one, and days with very few.

    The first and the last day are often cut and never thin.
    """
    days = sorted(requests_per_day)
    if not days:
        return [], []
    first, last = date.fromisoformat(days[0]), date.fromisoformat(days[-1])
    every = [str(first + timedelta(n)) for n in range((last - first).days + 1)]
    usual = median(requests_per_day.values())
    thin = [d for d in days[1:-1] if 0 < requests_per_day[d] < THIN * usual]
    return [day for day in every if not requests_per_day.get(day)], thin


def clock(home: Home, manifest: LogManifest, from_us: int, to_us: int, now: datetime) -> Clock:
    """Times of the engagements of requests in [from_us, to_us) microseconds."""
    with connection(threads=2) as db:
        row = db.execute(
            f"""SELECT count(*), count(*) FILTER (event_time > $now),
                coalesce(quantile_cont(delay, 0.5), 0), coalesce(quantile_cont(delay, 0.99), 0),
                coalesce(avg((delay > $window)::INT), 0)
            FROM (SELECT event_time, epoch_us(event_time - request_time) / 1e6 AS delay
                  FROM {_ENGAGEMENTS})""",
            {
                **_engagements(home, manifest, from_us, to_us),
                "now": now.astimezone(UTC),
                "window": manifest.label_window_hours * 3600,
            },
        ).fetchone()
    assert row is not None
    return replace(Clock(*row), backwards=_backwards(home), read=manifest.rows.get("in", 0))


def _backwards(home: Home) -> int:
    files = [str(file) for file in sorted(home.quarantine.glob("part-*.parquet"))]
    if not files:
        return 0
    with connection() as db:
        rows = db.execute(
            "SELECT count(*) FROM read_parquet(?) WHERE reason = ?", [files, BACKWARDS]
        ).fetchall()
    return int(rows[0][0])


def busy_users(
    home: Home, manifest: LogManifest, from_us: int, to_us: int, per_minute: int, per_day: int
) -> list[Busy]:
    """At most MAX_USERS users over either limit, by engagements within a minute or a day."""
    with connection(threads=2) as db:
        rows = db.execute(
            f"""WITH minutes AS (
                SELECT user_id, event_time // 60000000 AS minute, count(*) AS n
                FROM (SELECT user_id, epoch_us(event_time) AS event_time
                      FROM {_ENGAGEMENTS})
                GROUP BY ALL),
            days AS (SELECT user_id, minute // 1440 AS day, max(n) AS most, sum(n) AS n
                     FROM minutes GROUP BY ALL)
            SELECT user_id::VARCHAR, max(most)::BIGINT, max(n)::BIGINT FROM days GROUP BY user_id
            HAVING max(most) > $minute OR max(n) > $day ORDER BY 3 DESC, 1 LIMIT {MAX_USERS}""",
            {
                **_engagements(home, manifest, from_us, to_us),
                "minute": per_minute,
                "day": per_day,
            },
        ).fetchall()
    return [Busy(*row) for row in rows]


_ENGAGEMENTS = """(SELECT user_id, request_time, event_time FROM read_parquet($files)
    WHERE epoch_us(request_time) >= $from_us AND epoch_us(request_time) < $to_us
        AND NOT list_contains($passive, action))"""
"""Of a window; ``_engagements`` are its parameters."""


def _engagements(home: Home, manifest: LogManifest, from_us: int, to_us: int) -> dict[str, Any]:
    return {
        "files": [str(file) for file in sorted(home.events.glob("*/*.parquet"))],
        "passive": list(manifest.passive),
        "from_us": from_us,
        "to_us": to_us,
    }
