"""The split of a log's requests by time."""

from __future__ import annotations

from dataclasses import dataclass

from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.sql import connection

SPLITS = ("train", "validation", "test")


SHARES = (0.7, 0.1, 0.2)


@dataclass(frozen=True)
class Splits:
    """Time split by request: a request belongs to the split its request_time falls in.

    ``validation_from`` and ``test_from`` are microseconds since 1970; ``closed_before`` is where
    label windows are no longer closed at the log's end.
    """

    validation_from: int
    test_from: int
    closed_before: int

    def split_of(self, request_time_us: int) -> str:
        """Split of a request."""
        if request_time_us < self.validation_from:
            return "train"
        return "validation" if request_time_us < self.test_from else "test"


def plan_splits(home: Home, manifest: LogManifest) -> Splits:
    """Thresholds that put 70/10/20 per cent of the eligible requests into the splits.

    Raises:
        DataError: a split would be empty.
    """
    with connection(threads=2) as db:
        window = manifest.label_window_hours
        eligible = "bool_or(action = 'impression')" if manifest.has_impressions else "true"
        events, files = "read_parquet($files)", sorted(home.events.glob("*/*.parquet"))
        row = db.execute(
            f"""WITH requests AS (
                SELECT request_id, min(request_time) AS t FROM {events}
                GROUP BY request_id HAVING {eligible}),
            closed AS (
                SELECT t FROM requests WHERE t + to_microseconds({manifest.label_window_us})
                    <= (SELECT max(event_time) FROM {events}))
            SELECT count(*), epoch_us(quantile_disc(t, {SHARES[0]})),
                epoch_us(quantile_disc(t, {SHARES[0] + SHARES[1]})), epoch_us(max(t))
            FROM closed""",
            {"files": [str(file) for file in files]},
        ).fetchone()
    assert row is not None
    count, validation, test, last = row
    if not count or not validation < test <= last:
        raise DataError(
            f"{count or 0} requests have a closed label window ({window} h): too few, or too close "
            "in time, to split 70/10/20. Give a longer log or a shorter `label_window_hours`."
        )
    return Splits(int(validation), int(test), int(last) + 1)
