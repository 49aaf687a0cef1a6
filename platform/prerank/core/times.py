"""Times: microseconds since 1970 in UTC, and how they are read and written."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", tz="UTC")
EARLIEST, LATEST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Times outside [EARLIEST, LATEST) come from a wrong unit or a zero that stands for "unknown"."""
_BOUNDS_US = tuple((bound - EPOCH) // timedelta(microseconds=1) for bound in (EARLIEST, LATEST))
_UNITS = {"seconds": 1e6, "milliseconds": 1e3, "nanoseconds": 1e-3}
"""Unit -> microseconds in it."""


def micros(times: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """timestamp[us] column to int64 microseconds since 1970."""
    return times.cast(UTC_US).cast(pa.int64()).to_numpy()


def utc(microseconds: int) -> datetime:
    """Microseconds since 1970 as a datetime in UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def iso(microseconds: int | None) -> str | None:
    """Microseconds since 1970 as ISO 8601 in UTC."""
    return None if microseconds is None else utc(microseconds).isoformat().replace("+00:00", "Z")


def plausible(microseconds: float) -> bool:
    """Whether a time in microseconds since 1970 lies within [EARLIEST, LATEST)."""
    return _BOUNDS_US[0] <= microseconds < _BOUNDS_US[1]


def unit_advice(number: float) -> str:
    """What to send in place of a number that is no plausible time in microseconds since 1970.

    The units of time lie a thousandfold apart and the plausible times not even 250-fold, so that
    at most one unit fits.
    """
    text = str(number)
    if len(text) == 8:
        with suppress(ValueError):
            if EARLIEST <= (day := datetime.strptime(text + "Z", "%Y%m%d%z")) < LATEST:
                return f"as a day, write {day:%Y-%m-%d}"
    for unit, us in _UNITS.items():
        if plausible(number * us):
            return f"it looks like {unit}: send {round(number * us)}"
    return "send microseconds since 1970, or ISO 8601"
