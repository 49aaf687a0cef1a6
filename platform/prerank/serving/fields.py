"""The fields of a request: each is read once, and refused with its name and the fix."""

from __future__ import annotations

import math
import re
import reprlib
import uuid
from collections.abc import Collection, Container, Iterable, Mapping
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


def only_known(data: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
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
    encodable(value, field)
    return value


def encodable(text: str, field: str) -> None:
    """Refuse text that no encoding can hold."""
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
    encodable(value, where)
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


def position_of(value: Any, field: str) -> int | None:
    """A place in a list that was shown, from 1; None where it was not told."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 31:
        raise RequestError(field, f"{shown(value)} is no place in a list; the first one is 1")
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
