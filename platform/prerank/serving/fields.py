"""The fields of a request: each is read once, and refused with its name and the fix."""

from __future__ import annotations

import math
import re
import reprlib
import uuid
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from interactrank.features.schema import FeatureSchema
from interactrank.features.text import normalise
from prerank.core.errors import DataError
from prerank.core.ids import JSON_SAFE, ItemIds
from prerank.core.logs import HANDLING
from prerank.core.times import EPOCH, plausible, unit_advice

MAX_QUERY = 1_000
MAX_NAME = 512
MAX_FIELD = 200
"""Characters of a field's name that an error repeats: the caller chose the name."""
DIGITS = re.compile(r"-?\d+", re.ASCII)
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = 60


class RequestError(DataError):
    """A request breaks the contract: HTTP ``status`` with the ``field`` and the fix.

    ``headers`` go with the refusal (``prerank.serving.problems``), besides those of its status.
    ``reason`` names what is wrong in a metric; empty where the status says it.
    """

    def __init__(
        self,
        field: str,
        message: str,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.field, self.message, self.status = field[:MAX_FIELD], message, status
        self.headers, self.reason = headers or {}, reason


@dataclass(frozen=True)
class Limits:
    """What this deployment accepts. ``replay`` lets a request carry its time; ``timeout_ms`` is the
    time that it allows for one.
    """

    ids: ItemIds
    schema: FeatureSchema
    replay: bool = False
    max_candidates: int = 200_000
    max_k: int = 10_000
    max_explained: int = 1_000
    timeout_ms: float = math.inf


def shown(value: Any) -> str:
    """A caller's value as an error repeats it; cut, and found as fast however large it is."""
    return _BRIEF.repr(value)


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError("body", f"is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise RequestError("body", "a JSON object is expected")
    return data


def json_value(text: str | None, field: str, example: str) -> Any:
    """The value of a query-string ``field`` that holds JSON."""
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError:
        raise RequestError(field, f"send a JSON object such as {example}") from None


def only_known(data: Mapping[str, Any], known: set[str], where: str = "") -> None:
    """Refuse a field that nobody reads."""
    if (unknown := _first_unknown(data, known)) is not None:
        raise RequestError(f"{where}{unknown}", f"is unknown; known are {sorted(known)}")


def _first_unknown(given: Iterable[str], known: Container[str]) -> str | None:
    """The first name that is not known: found within a few steps, were there a million."""
    return next((name for name in given if name not in known), None)


def request_id_of(value: Any) -> str:
    """The caller's request id: of the body, else of the header, else a new one.

    It is read before any other field, so that a refusal and each line of the log name it.
    """
    handling = HANDLING.get()
    if value is None:
        return handling.request_id if handling else new_id()
    found = name_of(value, "request_id")
    if handling:
        handling.request_id = found
    return found


def new_id() -> str:
    """A request id that nobody else has."""
    return uuid.uuid4().hex


def name_of(value: Any, field: str) -> str:
    """A user, event or request id as text."""
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


def query_of(value: Any, where: str = "query") -> str:
    """The normalised query."""
    if not isinstance(value, str):
        raise RequestError(where, "a string is needed")
    if len(value) > MAX_QUERY:
        raise RequestError(where, f"{len(value)} characters; at most {MAX_QUERY} are allowed")
    _encodable(value, where)
    query = normalise(value)
    if not query:
        raise RequestError(where, "is empty; send the text the user searched for")
    return query


def count_of(value: Any, limits: Limits, explain: bool) -> int:
    """K, within what the deployment answers at once."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise RequestError("k", f"{shown(value)} is no positive integer")
    if value > limits.max_k:
        raise RequestError("k", f"{value} items; a request gets at most {limits.max_k} (max_k)")
    if explain and value > limits.max_explained:
        raise RequestError(
            "k",
            f"{value} items; with `explain` a request gets at most {limits.max_explained} "
            "(max_explained)",
        )
    return value


def timeout_of(value: Any, limits: Limits) -> float:
    """In how many milliseconds the answer is wanted, at most what the deployment allows."""
    if value is None:
        return limits.timeout_ms
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise RequestError("timeout_ms", f"{shown(value)} is no number of milliseconds above 0")
    return min(value, limits.timeout_ms)


def flag_of(value: Any, field: str = "explain") -> bool:
    """A JSON boolean."""
    if not isinstance(value, bool):
        raise RequestError(field, "send true or false")
    return value


def not_too_many(n: int, limits: Limits, field: str = "candidates") -> None:
    """Refuse more candidates than the deployment takes."""
    if n > limits.max_candidates:
        raise RequestError(
            field, f"{n} ids; at most {limits.max_candidates} are allowed a request", 413
        )


def first_appearances(keys: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Where each distinct one of ``keys`` int64 [n] stands first, ascending; an index of arrays."""
    ordered = np.sort(keys)
    if not (ordered[1:] == ordered[:-1]).any():
        # The common case: to sort the values is eight times as fast as to sort their places.
        return slice(None)
    return np.sort(np.unique(keys, return_index=True)[1])


def candidates_of(
    value: Any, limits: Limits, field: str = "candidates"
) -> tuple[NDArray[np.int64], dict[int, int | str] | None]:
    """Keys int64 [n] in the order sent, and key -> id as sent where the key does not spell it."""
    if not isinstance(value, list):
        raise RequestError(field, "send a list of item ids (it may be empty)")
    kinds = set(map(type, value))
    if kinds - {int, str}:
        odd = next(v for v in value if type(v) not in (int, str))
        if isinstance(odd, float) and abs(odd) > JSON_SAFE:
            raise RequestError(field, f"{odd:.0f} is beyond 2^53: send ids as strings")
        raise RequestError(field, f"{shown(odd)} is neither an integer nor a string")
    if len(kinds) > 1:
        raise RequestError(field, "integers and strings are mixed; send one kind")
    if kinds == {int} and limits.ids.kind == "integer":
        # The common case is checked as an array: one call an id would cost 10 ms at 50,000 ids.
        if max(value) > JSON_SAFE or min(value) < -JSON_SAFE:
            odd = next(v for v in value if abs(v) > JSON_SAFE)
            raise RequestError(field, f"{odd} is beyond 2^53: send ids as strings")
        return np.array(value, np.int64), None
    if limits.ids.kind == "integer" and (spelt := _spelt(value)) is not None:
        return spelt, None
    keys = [item_key(v, field, limits.ids) for v in value]
    originals = dict(zip(reversed(keys), reversed(value), strict=True))
    return np.array(keys, np.int64), originals


def excluded_of(value: Any, limits: Limits) -> NDArray[np.int64]:
    """Keys int64 [m] of items that are not to be returned."""
    if value is None:
        return np.zeros(0, np.int64)
    if isinstance(value, list):
        not_too_many(len(value), limits, "exclude")
    return candidates_of(value, limits, "exclude")[0]


def _spelt(texts: list[str]) -> NDArray[np.int64] | None:
    """The integers that ``texts`` spell, a fifth of the cost of one look at each; None if unsure.

    Only texts that are just how the integer is written pass, so the answer can spell them again.
    """
    try:
        found = np.array(list(map(int, texts)), np.int64)
    except (ValueError, OverflowError):
        return None
    return found if list(map(str, found.tolist())) == texts else None


def item_key(value: Any, field: str, ids: ItemIds) -> int:
    """Key of one item id."""
    if isinstance(value, str):
        _encodable(value, field)
    try:
        return ids.to_key(value)
    except DataError as error:
        raise RequestError(field, str(error)) from None


def request_time_of(value: Any, limits: Limits, now_us: int) -> int:
    """The request's time by this deployment's clock, microseconds since 1970."""
    if value is not None and not limits.replay:
        raise RequestError(
            "time",
            "is accepted by a deployment with `clock: replay` only; this one uses its own clock",
        )
    if value is None and limits.replay:
        raise RequestError("time", "this deployment replays a log: send each request's time")
    return now_us if value is None else time_of(value, "time")


def time_of(value: Any, field: str) -> int:
    """ISO 8601 (no offset means UTC) or microseconds since 1970, in microseconds.

    Raises:
        RequestError: it is no time, or none that ingest would take; the message names the unit
            that would fit.
    """
    if isinstance(value, str) and DIGITS.fullmatch(value) and len(value) < 20:
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and plausible(value):
            return value
        raise RequestError(
            field, f"{value} is no time of 1971 to 2199 in microseconds; {unit_advice(value)}"
        )
    try:
        at = datetime.fromisoformat(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        found = (at - EPOCH) // timedelta(microseconds=1)
    except (TypeError, ValueError, OverflowError):
        raise RequestError(field, f"{shown(value)} is neither ISO 8601 nor microseconds") from None
    if not plausible(found):
        raise RequestError(
            field, f"{value} lies before 1971 or after 2199; check the clock that wrote it"
        )
    return found


def context_of(value: Any, schema: FeatureSchema) -> dict[str, str]:
    """Value of every segment column in the schema's order; "" for what the caller left out."""
    given = {} if value is None else value
    if not isinstance(given, dict):
        raise RequestError(
            "context", f"send an object segment -> value; segments are {list(schema.segments)}"
        )
    if (unknown := _first_unknown(given, schema.segments)) is not None:
        raise RequestError(
            f"context.{unknown}", f"is no segment; segments are {list(schema.segments)}"
        )
    return {s: _segment(given.get(s), f"context.{s}") for s in schema.segments}


def _segment(value: Any, field: str) -> str:
    """A segment's value spelt as ingest spells it."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return name_of(value, field)


def weights_of(value: Any, schema: FeatureSchema) -> NDArray[np.float32]:
    """Head weights float32 [H] that sum to 1; by default the first head alone."""
    heads = schema.heads
    if value is None:
        return np.array([1.0] + [0.0] * (len(heads) - 1), np.float32)
    if not isinstance(value, dict) or not value:
        raise RequestError("weights", f"send an object head -> weight; heads are {list(heads)}")
    if (unknown := _first_unknown(value, heads)) is not None:
        raise RequestError("weights", f"{shown(unknown)} is no head; heads are {list(heads)}")
    for head, weight in value.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise RequestError(f"weights.{head}", f"{shown(weight)} is no number >= 0")
    total = float(sum(value.values()))
    if not 0 < total < math.inf:
        raise RequestError("weights", "at least one weight must be above 0")
    return np.array([float(value.get(h, 0.0)) / total for h in heads], np.float32)
