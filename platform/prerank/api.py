"""The HTTP contract: what a request may hold, how it is read, what is answered.

Bad input is a :class:`RequestError` that names the field and the fix; a caller never sees a
traceback. JSON is the friendly form; the fast one is a body of little-endian int64 candidate ids,
everything else in the query string.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from interactrank.schema import FeatureSchema
from interactrank.text import normalise
from prerank.errors import DataError
from prerank.events import Event
from prerank.ids import JSON_SAFE, ItemIds, event_id, given_event_id

DEFAULT_K = 100
MAX_QUERY = 1_000
MAX_NAME = 512
MAX_EVENTS = 10_000
AHEAD_US = 300_000_000
"""Wall clock: an event may lie this far ahead, for clocks that disagree."""

_FIELDS = {"request_id", "user_id", "query", "candidates", "k", "time", "weights", "explain"}
_EVENT_FIELDS = {"user_id", "item_id", "action", "event_time", "event_id", "request_id"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US = 253_402_300_799_999_999
_DIGITS = re.compile(r"-?\d+", re.ASCII)


class RequestError(DataError):
    """A request breaks the contract: HTTP ``status`` with the ``field`` and the fix."""

    def __init__(self, field: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.field, self.message, self.status = field, message, status

    def body(self) -> dict[str, Any]:
        """What the caller gets."""
        return {"error": {"field": self.field, "message": self.message}}


@dataclass(frozen=True)
class Limits:
    """What this deployment accepts. ``replay`` lets a request carry its time."""

    ids: ItemIds
    schema: FeatureSchema
    replay: bool = False
    max_candidates: int = 200_000


@dataclass(frozen=True)
class PrerankRequest:
    """A request as the scorer wants it.

    Attributes:
        query: normalised.
        keys: int64 [n] distinct candidates, in the order of first appearance.
        originals: int64 key -> the id as the caller sent it; None when the keys are those.
        as_text: the caller sent integer ids as text.
        time_us: microseconds since 1970, of this deployment's clock.
        weights: float32 [H], summing to 1.
    """

    request_id: str
    user_id: str
    query: str
    keys: NDArray[np.int64]
    originals: dict[int, int | str] | None
    k: int
    time_us: int
    weights: NDArray[np.float32]
    explain: bool
    as_text: bool = False

    def shown(self, keys: NDArray[np.int64]) -> list[int | str]:
        """``keys`` in the caller's form; as text where JSON would lose digits."""
        found: list[int] = keys.tolist()
        if self.originals is not None:
            return [self.originals[k] for k in found]
        safe = not self.as_text
        return [k if safe and -JSON_SAFE <= k <= JSON_SAFE else str(k) for k in found]


def parse_json(body: bytes, limits: Limits, now_us: int) -> PrerankRequest:
    """Read the JSON form.

    Raises:
        RequestError: naming the field and the fix.
    """
    data = _object(body)
    _known(data, _FIELDS)
    keys, originals = _candidates(data.get("candidates"), limits)
    return PrerankRequest(
        request_id=_request_id(data.get("request_id")),
        user_id=_name(data.get("user_id"), "user_id"),
        query=_query(data.get("query")),
        keys=keys,
        originals=originals,
        k=_count(data.get("k", DEFAULT_K)),
        time_us=_request_time(data.get("time"), limits, now_us),
        weights=_weights(data.get("weights"), limits.schema),
        explain=_flag(data.get("explain", False)),
        as_text=originals is None
        and bool(data["candidates"])
        and isinstance(data["candidates"][0], str),
    )


def parse_raw(
    body: bytes, fields: Mapping[str, str], limits: Limits, now_us: int
) -> PrerankRequest:
    """Read the fast form: ``body`` int64 ids, ``fields`` the query string.

    With string ids the body holds their int64 keys, and so does the answer.

    Raises:
        RequestError: naming the field and the fix.
    """
    _known(fields, _FIELDS - {"candidates"})
    if len(body) % 8:
        raise RequestError(
            "candidates", f"{len(body)} bytes are no whole number of little-endian int64 ids"
        )
    ids = np.frombuffer(body, "<i8").astype(np.int64)
    _not_too_many(len(ids), limits)
    k = fields.get("k", str(DEFAULT_K))
    return PrerankRequest(
        request_id=_request_id(fields.get("request_id")),
        user_id=_name(fields.get("user_id"), "user_id"),
        query=_query(fields.get("query")),
        keys=_distinct(ids),
        originals=None,
        k=_count(int(k) if _DIGITS.fullmatch(k) and len(k) < 18 else k),
        time_us=_request_time(fields.get("time"), limits, now_us),
        weights=_weights(_parsed(fields.get("weights")), limits.schema),
        explain=fields.get("explain", "") in ("1", "true"),
    )


def parse_events(body: bytes, limits: Limits, now_us: int) -> list[Event]:
    """Read ``{"events": [{user_id, item_id, action, event_time, event_id?, request_id?}]}``.

    An event without ``event_id`` gets the one that ingest derives from its request, so give
    ``request_id`` (or the id itself) where the log will hold the event too.

    Raises:
        RequestError: naming the event's place, the field and the fix; no event is taken.
    """
    data = _object(body)
    _known(data, {"events"})
    rows = data.get("events")
    if not isinstance(rows, list):
        raise RequestError("events", "send a list of events")
    if len(rows) > MAX_EVENTS:
        raise RequestError("events", f"{len(rows)} events; send at most {MAX_EVENTS} a call", 413)
    return [_event(row, f"events[{i}]", limits, now_us) for i, row in enumerate(rows)]


def _event(row: Any, where: str, limits: Limits, now_us: int) -> Event:
    if not isinstance(row, dict):
        raise RequestError(where, "an event is an object with user_id, item_id, action, event_time")
    _known(row, _EVENT_FIELDS, f"{where}.")
    user, action = _name(row.get("user_id"), f"{where}.user_id"), row.get("action")
    if action not in limits.schema.actions:
        raise RequestError(
            f"{where}.action", f"{action!r} is unknown; the log has {list(limits.schema.actions)}"
        )
    item = _item_key(row.get("item_id"), f"{where}.item_id", limits.ids)
    if row.get("event_time") is None:
        raise RequestError(f"{where}.event_time", "missing: ISO 8601 or microseconds since 1970")
    time = _time(row["event_time"], f"{where}.event_time")
    if not limits.replay and time > now_us + AHEAD_US:
        raise RequestError(f"{where}.event_time", "lies in the future; check its unit and clock")
    given, request = row.get("event_id"), row.get("request_id")
    for field, value in (("event_id", given), ("request_id", request)):
        if value is not None:
            _name(value, f"{where}.{field}")
    key = (
        given_event_id(str(given))
        if given is not None
        else event_id(str(request) if request is not None else user, item, action, time)
    )
    return Event(user, item, action, time, key)


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError("body", f"is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise RequestError("body", "a JSON object is expected")
    return data


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RequestError("weights", 'send a JSON object such as {"engagement": 1}') from None


def _known(data: Mapping[str, Any], known: set[str], where: str = "") -> None:
    if unknown := sorted(set(data) - known):
        raise RequestError(f"{where}{unknown[0]}", f"is unknown; known are {sorted(known)}")


def _request_id(value: Any) -> str:
    return uuid.uuid4().hex if value is None else _name(value, "request_id")


def _name(value: Any, field: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > JSON_SAFE:
            raise RequestError(field, f"{value} is beyond 2^53: send it as a string")
        value = str(value)
    if not isinstance(value, str) or not value:
        raise RequestError(field, "a non-empty string is needed")
    if len(value) > MAX_NAME:
        raise RequestError(field, f"{len(value)} characters; at most {MAX_NAME} are allowed")
    _encodable(value, field)
    return value


def _encodable(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(field, "holds half a surrogate pair, which is no character") from None


def _query(value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError("query", "a string is needed")
    if len(value) > MAX_QUERY:
        raise RequestError("query", f"{len(value)} characters; at most {MAX_QUERY} are allowed")
    _encodable(value, "query")
    query = normalise(value)
    if not query:
        raise RequestError("query", "is empty; send the text the user searched for")
    return query


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise RequestError("k", f"{value!r} is no positive integer")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError("explain", "send true or false")
    return value


def _not_too_many(n: int, limits: Limits) -> None:
    if n > limits.max_candidates:
        raise RequestError(
            "candidates", f"{n} ids; at most {limits.max_candidates} are allowed a request", 413
        )


def _distinct(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first = np.unique(keys, return_index=True)
    return keys if len(first) == len(keys) else keys[np.sort(first)]


def _candidates(
    value: Any, limits: Limits
) -> tuple[NDArray[np.int64], dict[int, int | str] | None]:
    if not isinstance(value, list):
        raise RequestError("candidates", "send a list of item ids (it may be empty)")
    _not_too_many(len(value), limits)
    kinds = set(map(type, value))
    if kinds - {int, str}:
        odd = next(v for v in value if type(v) not in (int, str))
        if isinstance(odd, float) and abs(odd) > JSON_SAFE:
            raise RequestError("candidates", f"{odd:.0f} is beyond 2^53: send ids as strings")
        raise RequestError("candidates", f"{odd!r} is neither an integer nor a string")
    if len(kinds) > 1:
        raise RequestError("candidates", "integers and strings are mixed; send one kind")
    if kinds == {int} and limits.ids.kind == "integer":
        # The common case is checked as an array: one call an id would cost 10 ms at 50,000 ids.
        if max(value) > JSON_SAFE or min(value) < -JSON_SAFE:
            odd = next(v for v in value if abs(v) > JSON_SAFE)
            raise RequestError("candidates", f"{odd} is beyond 2^53: send ids as strings")
        return _distinct(np.array(value, np.int64)), None
    if limits.ids.kind == "integer" and (spelt := _spelt(value)) is not None:
        return _distinct(spelt), None
    keys = [_item_key(v, "candidates", limits.ids) for v in value]
    originals = dict(zip(reversed(keys), reversed(value), strict=True))
    return _distinct(np.array(keys, np.int64)), originals


def _spelt(texts: list[str]) -> NDArray[np.int64] | None:
    """The integers that ``texts`` spell, a fifth of the cost of one look at each; None if unsure.

    Only texts that are just how the integer is written pass, so the answer can spell them again.
    """
    try:
        found = np.array(list(map(int, texts)), np.int64)
    except (ValueError, OverflowError):
        return None
    return found if list(map(str, found.tolist())) == texts else None


def _item_key(value: Any, field: str, ids: ItemIds) -> int:
    if isinstance(value, str):
        _encodable(value, field)
    try:
        return ids.to_key(value)
    except DataError as error:
        raise RequestError(field, str(error)) from None


def _request_time(value: Any, limits: Limits, now_us: int) -> int:
    if value is not None and not limits.replay:
        raise RequestError(
            "time",
            "is accepted by a deployment with `clock: replay` only; this one uses its own clock",
        )
    if value is None and limits.replay:
        raise RequestError("time", "this deployment replays a log: send each request's time")
    return now_us if value is None else _time(value, "time")


def _time(value: Any, field: str) -> int:
    """ISO 8601 (no offset means UTC) or microseconds since 1970, in microseconds."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value) if len(value) < 20 else value
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= _LAST_US:
            raise RequestError(field, f"{value} is no time in microseconds since 1970")
        return value
    try:
        at = datetime.fromisoformat(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        return (at - _EPOCH) // timedelta(microseconds=1)
    except (TypeError, ValueError, OverflowError):
        raise RequestError(field, f"{value!r} is neither ISO 8601 nor microseconds") from None


def _weights(value: Any, schema: FeatureSchema) -> NDArray[np.float32]:
    heads = schema.heads
    if value is None:
        return np.array([1.0] + [0.0] * (len(heads) - 1), np.float32)
    if not isinstance(value, dict) or not value:
        raise RequestError("weights", f"send an object head -> weight; heads are {list(heads)}")
    if unknown := sorted(set(value) - set(heads)):
        raise RequestError("weights", f"{unknown[0]!r} is no head; heads are {list(heads)}")
    for head, weight in value.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise RequestError(f"weights.{head}", f"{weight!r} is no number >= 0")
    total = float(sum(value.values()))
    if not 0 < total < math.inf:
        raise RequestError("weights", "at least one weight must be above 0")
    return np.array([float(value.get(h, 0.0)) / total for h in heads], np.float32)


def iso(microseconds: int | None) -> str | None:
    """Microseconds since 1970 as ISO 8601 in UTC."""
    if microseconds is None:
        return None
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


def named(names: Sequence[str], values: NDArray[np.float32]) -> dict[str, float]:
    """Non-zero values by name."""
    return {n: float(v) for n, v in zip(names, values, strict=True) if v}
