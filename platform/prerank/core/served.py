"""The served log: what a deployment answered and what its callers reported, as files of a home.

    served/requests/day=2026-11-26/<writer>-<n>.parquet    an answer a row (``REQUESTS``)
    served/events/day=2026-11-26/<writer>.jsonl            an event a line (``EVENT_FIELDS``)

A day is that on which something was answered or reported, by the deployment's clock, in UTC.
Several replicas write side by side, each its own files. A file of requests is whole or not there;
one of events may end within a line while it is written.

``prerank.serving.served_log`` writes it, ``prerank.ingest.served`` makes an event log of it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from prerank.core.home import Home
from prerank.core.times import UTC_US

REQUESTS = pa.schema(
    [
        ("request_id", pa.string()),
        ("request_time", UTC_US),
        ("user_id", pa.string()),
        ("query", pa.string()),
        ("context", pa.map_(pa.string(), pa.string())),
        ("model_version", pa.string()),
        ("run_id", pa.string()),
        ("snapshot_cutoff", UTC_US),
        ("degraded", pa.list_(pa.string())),
        ("candidates", pa.int32()),
        ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("retriever", pa.map_(pa.string(), pa.list_(pa.float32()))),
        ("inputs", pa.binary()),
        ("latency_ms", pa.float32()),
        ("experiment", pa.string()),
        ("mode", pa.string()),
        ("variant", pa.string()),
        ("shares", pa.map_(pa.string(), pa.float64())),
        ("fallback", pa.bool_()),
        ("compared_version", pa.string()),
        ("teams", pa.list_(pa.int8())),
        ("overlap", pa.float32()),
        ("score_difference", pa.float32()),
    ]
)
"""An answer. ``request_time`` is by the deployment's clock; ``query`` is normalised; ``context``
has the value of each segment; ``candidates`` is how many were scored; ``items`` are ids in the
caller's form, the best one first, with their ``scores``; ``retriever`` is what the caller said of
each of them, by the names of ``FeatureSchema.given``, NaN for nothing (an answer of ``/v1/query``
has none of these, since its caller ranks); ``inputs`` are the feature inputs (safetensors of
``FeatureInputs``), from which x can be computed again. ``latency_ms`` is from when the request was
whole to when its answer was written.

The rest is of an experiment (``prerank.serving.experiment``), null where none ran: its name and
mode; the ``variant`` that was drawn; the ``shares`` of all of them, the control first; whether the
champion answered in place of a version (``fallback``); the version that scored beside the
control's; the ``teams`` of the items of an interleaved answer, 0 for the control's and 1 for the
variant's; and of a shadow, the share of its best items that were in the answer and the mean
absolute difference of their scores. Files of before lack these columns and ``latency_ms``."""

EVENT_FIELDS = {
    "request_id": "VARCHAR",
    "user_id": "VARCHAR",
    "query": "VARCHAR",
    "item_id": "VARCHAR",
    "action": "VARCHAR",
    "event_time": "BIGINT",
    "position": "INTEGER",
    "event_id": "VARCHAR",
}
"""Field -> SQL type of a line of events. ``event_time`` is microseconds since 1970; ``event_id`` is
the text whose hash is the event's id (``prerank.core.ids``). What was not reported is null."""


SETTLED = timedelta(minutes=2)
"""After its end, a day's last answers have been written: they wait for half a minute."""


def requests_folder(home: Home) -> Path:
    """Where the answers of ``home``'s deployments are written down."""
    return home.served / "requests"


def events_folder(home: Home) -> Path:
    """Where the events that they took are."""
    return home.served / "events"


def last_ended(now: datetime) -> date:
    """The last day of which nothing is written any more, at a time in UTC."""
    return (now - SETTLED).date() - timedelta(days=1)


def day_of(seconds: float) -> str:
    """Name of the folder for what is written at a time, in seconds since 1970."""
    return f"day={datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
