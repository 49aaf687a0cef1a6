"""The HTTP contract: what a request may hold, how it is read, what is answered.

Bad input is a ``RequestError`` that names the field and the fix; a caller never sees a
traceback. JSON is the friendly form; the fast one is a body of little-endian int64 candidate ids,
everything else in the query string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.core.ids import event_id, given_event_id
from prerank.core.times import iso
from prerank.online.history import Event
from prerank.serving.candidates import candidates_of, excluded_of, first_appearances, item_key
from prerank.serving.fields import (
    DIGITS,
    Limits,
    RequestError,
    count_of,
    flag_of,
    json_object,
    json_value,
    name_of,
    only_known,
    position_of,
    query_of,
    shown,
    time_of,
)
from prerank.serving.request import COMMON_FIELDS, PrerankRequest, common_of, opened
from prerank.serving.retriever import OWN, raw_candidates, retriever_of

DEFAULT_K = 100
MAX_EVENTS = 10_000
AHEAD_US = 300_000_000
"""Wall clock: an event may lie this far ahead, for clocks that disagree."""

_RAW_FIELDS = COMMON_FIELDS | {"k", "explain", "exclude_engaged", "retriever", OWN}
_FIELDS = COMMON_FIELDS | {
    "candidates",
    "exclude",
    "exclude_engaged",
    "k",
    "explain",
    "retriever_scores",
    "retriever_ranks",
    OWN,
}
_EVENT_FIELDS = {
    "user_id",
    "item_id",
    "action",
    "event_time",
    "event_id",
    "request_id",
    "query",
    "position",
}


def parse_json(body: bytes, limits: Limits, now_us: int) -> PrerankRequest:
    """Read the JSON form.

    Raises:
        RequestError: naming the field and the fix.
    """
    data = opened(json_object(body), _FIELDS)
    whole = "candidates" not in data
    if whole and limits.ids.kind != "integer":
        raise RequestError(
            "candidates",
            "missing: without them the whole index is ranked, but this log's item ids are text, of "
            "which the index holds hashes alone, and an answer could not name an item; send a list "
            "of item ids (it may be empty)",
        )
    ids, retriever_features = retriever_of(data | {"candidates": []} if whole else data, limits)
    keys, originals = candidates_of(ids, limits)
    first = first_appearances(keys)
    explain = flag_of(data.get("explain", False))
    return PrerankRequest(
        user_id=name_of(data.get("user_id"), "user_id"),
        **common_of(data, limits, now_us),
        keys=keys[first],
        originals=originals,
        k=count_of(data.get("k", DEFAULT_K), limits, explain),
        explain=explain,
        retriever_features=None if retriever_features is None else retriever_features[first],
        as_text=originals is None and bool(ids) and isinstance(ids[0], str),
        whole=whole,
        exclude=excluded_of(data.get("exclude"), limits),
        exclude_engaged=flag_of(data.get("exclude_engaged", False), "exclude_engaged"),
    )


def parse_raw(
    body: bytes, fields: Mapping[str, str], limits: Limits, now_us: int
) -> PrerankRequest:
    """Read the fast form: ``body`` int64 ids, ``fields`` the query string.

    With ``retriever=score,rank`` (or one of them) a float32 of each follows for every id, column
    by column, NaN for "nothing said"; with ``candidate_features=price,distance`` one of each of
    those after them. With string ids the body holds their int64 keys, and so does the answer.

    Raises:
        RequestError: naming the field and the fix.
    """
    data = opened(dict(fields), _RAW_FIELDS)
    ids, retriever_features = raw_candidates(body, fields, limits)
    first = first_appearances(ids)
    k, explain = fields.get("k", str(DEFAULT_K)), _is_set(fields, "explain")
    data |= {
        "weights": json_value(fields.get("weights"), "weights", '{"engagement": 1}'),
        "context": json_value(fields.get("context"), "context", '{"country": "DE"}'),
        "timeout_ms": _number(fields.get("timeout_ms")),
    }
    return PrerankRequest(
        user_id=name_of(fields.get("user_id"), "user_id"),
        **common_of(data, limits, now_us),
        keys=ids[first],
        retriever_features=None if retriever_features is None else retriever_features[first],
        originals=None,
        exclude_engaged=_is_set(fields, "exclude_engaged"),
        k=count_of(int(k) if DIGITS.fullmatch(k) and len(k) < 18 else k, limits, explain),
        explain=explain,
    )


def _is_set(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "") in ("1", "true")


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def parse_events(body: bytes, limits: Limits, now_us: int) -> list[Event]:
    """Read ``{"events": [{user_id, item_id, action, event_time, event_id?, request_id?,
    query?, position?}]}``.

    An event without ``event_id`` gets the one that ingest derives from its request, so give
    ``request_id`` (or the id itself) where the log will hold the event too. ``query`` is the search
    that led to the engagement; without it the user's history does not know what they looked for.
    ``position`` is the item's place in the list that was shown, from 1.

    Raises:
        RequestError: naming the event's place, the field and the fix; no event is taken.
    """
    data = json_object(body)
    only_known(data, {"events"})
    rows = data.get("events")
    if not isinstance(rows, list):
        raise RequestError("events", "send a list of events")
    if len(rows) > MAX_EVENTS:
        raise RequestError("events", f"{len(rows)} events; send at most {MAX_EVENTS} a call", 413)
    return [_event(row, f"events[{i}]", limits, now_us) for i, row in enumerate(rows)]


def _event(row: Any, where: str, limits: Limits, now_us: int) -> Event:
    if not isinstance(row, dict):
        raise RequestError(where, "an event is an object with user_id, item_id, action, event_time")
    only_known(row, _EVENT_FIELDS, f"{where}.")
    user, action = name_of(row.get("user_id"), f"{where}.user_id"), row.get("action")
    if action not in limits.schema.actions:
        raise RequestError(
            f"{where}.action",
            f"{shown(action)} is unknown; the log has {list(limits.schema.actions)}",
        )
    item = item_key(row.get("item_id"), f"{where}.item_id", limits.ids)
    if row.get("event_time") is None:
        raise RequestError(f"{where}.event_time", "missing: ISO 8601 or microseconds since 1970")
    time = time_of(row["event_time"], f"{where}.event_time")
    if not limits.replay and time > now_us + AHEAD_US:
        raise RequestError(f"{where}.event_time", "lies in the future; check its unit and clock")
    given, request = row.get("event_id"), row.get("request_id")
    for name, value in (("event_id", given), ("request_id", request)):
        if value is not None:
            name_of(value, f"{where}.{name}")
    key = (
        given_event_id(str(given))
        if given is not None
        else event_id(str(request) if request is not None else user, item, action, time)
    )
    position_of(row.get("position"), f"{where}.position")
    query = row.get("query")
    searched = "" if query is None else query_of(query, f"{where}.query")
    return Event(user, item, action, time, key, searched)


def named(names: Sequence[str], values: NDArray[np.float32]) -> dict[str, float]:
    """Non-zero values by name."""
    return {n: float(v) for n, v in zip(names, values, strict=True) if v}


__all__ = [
    "AHEAD_US",
    "Limits",
    "PrerankRequest",
    "RequestError",
    "iso",
    "named",
    "parse_events",
    "parse_json",
    "parse_raw",
]
