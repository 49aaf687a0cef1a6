"""Times: microseconds since 1970 in UTC, and how they are read and written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", tz="UTC")


def micros(times: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """timestamp[us] column to int64 microseconds since 1970."""
    return times.cast(UTC_US).cast(pa.int64()).to_numpy()


def utc(microseconds: int) -> datetime:
    """Microseconds since 1970 as a datetime in UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def iso(microseconds: int | None) -> str | None:
    """Microseconds since 1970 as ISO 8601 in UTC."""
    return None if microseconds is None else utc(microseconds).isoformat().replace("+00:00", "Z")
