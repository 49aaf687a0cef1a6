"""An event as the record of a journal: what may be written, and what is read back."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

from prerank.core.errors import DataError
from prerank.core.times import EPOCH
from prerank.online.history import Event

ACKNOWLEDGED = "acknowledged"
"""Field of a record: when it was acknowledged, seconds since 1970. Older journals have none."""

_FIELDS = {f.name for f in dataclasses.fields(Event)}
_NEEDED = {f.name for f in dataclasses.fields(Event) if f.default is dataclasses.MISSING}
_FIRST, _LAST = (
    (datetime(year, 1, day, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    for year, day in ((1, 2), (9999, 1))
)
"""A row of the online store has a timestamp, which holds the years 1 to 9999."""


def check(event: Event) -> None:
    """Refuse what no online store can hold.

    Raises:
        DataError: a field has another type or lies out of range; the message names it.
    """
    for name in ("user_id", "action", "query"):
        text = getattr(event, name)
        if not isinstance(text, str):
            raise DataError(f"{name}: {text!r} is no text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"{name}: {text!r} holds half a surrogate pair") from None
    for name in ("item_id", "time", "event_id"):
        number = getattr(event, name)
        if type(number) is not int or not -(2**63) <= number < 2**63:
            raise DataError(f"{name}: {number!r} is no 64-bit integer")
    if not _FIRST <= event.time <= _LAST:
        raise DataError(
            f"time: {event.time} is no time of the years 1 to 9999; send microseconds since 1970"
        )


def record_of(event: Event, acknowledged: int) -> dict[str, Any]:
    """The record of an event that is acknowledged at ``acknowledged``, in seconds since 1970."""
    return {**vars(event), ACKNOWLEDGED: acknowledged}


def event_of(record: Any) -> Event:
    """The event of a record.

    Raises:
        DataError: the record is no event; the message says why.
    """
    if not isinstance(record, dict):
        raise DataError("the record is no JSON object")
    if type(record.get(ACKNOWLEDGED, 0)) is not int:
        raise DataError(f"{ACKNOWLEDGED}: {record[ACKNOWLEDGED]!r} is no number of seconds")
    fields = record.keys() - {ACKNOWLEDGED}
    if unknown := sorted(fields - _FIELDS):
        raise DataError(f"{unknown[0]}: an event has no such field")
    if missing := sorted(_NEEDED - fields):
        raise DataError(f"{missing[0]}: is missing")
    event = Event(**{name: record[name] for name in fields})
    check(event)
    return event
