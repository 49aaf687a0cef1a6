"""Values as they are sent; what cannot be sent is refused by the name of its field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import orjson
from numpy.typing import NDArray

from prerank.client.errors import Problem, RefusedError
from prerank.client.exchange import Call
from prerank.core.ids import JSON_SAFE

JSON, RAW = "application/json", "application/octet-stream"
ARROW = "application/vnd.apache.arrow.stream"

Time = datetime | int | str
"""A datetime (without an offset: UTC), microseconds since 1970, or ISO 8601."""
Ids = NDArray[np.int64] | list[str]


def json_call(path: str, fields: Mapping[str, Any]) -> Call:
    """A POST of JSON."""
    return Call("POST", path, encoded(fields), JSON)


def encoded(value: Any) -> bytes:
    """``value`` as JSON; NaN is null.

    Raises:
        RefusedError: it cannot be written as JSON.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise RefusedError(Problem(f"cannot be written as JSON: {error}", field="body")) from None


def quoted(text: str) -> str:
    """``text`` percent-encoded.

    Raises:
        RefusedError: it holds half a surrogate pair.
    """
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise RefusedError(Problem(f"{text!r} is no text: {error.reason}", field="path")) from None


def query_string(fields: Mapping[str, str]) -> str:
    """``fields`` as a query string, percent-encoded.

    Raises:
        RefusedError: one holds half a surrogate pair.
    """
    try:
        return urlencode(fields, quote_via=quote)
    except UnicodeEncodeError as error:
        raise RefusedError(Problem(f"cannot be sent: {error.reason}", field="query")) from None


def time_value(time: Time) -> int | str:
    """A time as the deployment reads it."""
    return time.isoformat() if isinstance(time, datetime) else time


def ids_of(values: Any, field: str, request_id: str) -> Ids:
    """Item ids, checked: int64 [n], or a list of texts. No ids are integers.

    Raises:
        RefusedError: an id is neither an integer nor a text, or they are mixed.
    """
    if hasattr(values, "dtype"):
        array = np.asarray(values)
        if array.ndim == 1 and array.dtype.kind == "i":
            return array.astype(np.int64, copy=False)
        values = array.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise _refused("send a list or a flat array of item ids", field, request_id)
    kinds = set(map(type, values))
    if kinds and all(issubclass(kind, str) for kind in kinds):
        return list(map(str, values))
    for kind in kinds:
        if kind is bool or not issubclass(kind, int | np.integer | str):
            raise _refused(f"{kind.__name__} is no kind of item id", field, request_id)
    if any(issubclass(kind, str) for kind in kinds):
        raise _refused("integers and texts are mixed; send one kind", field, request_id)
    try:
        return np.array(values, np.int64)
    except OverflowError:
        raise _refused("an id is beyond 64 bits", field, request_id) from None


def json_ids(ids: Ids) -> Any:
    """Ids as JSON has them: as text where one is so large that JSON would lose digits."""
    if isinstance(ids, np.ndarray) and ((ids > JSON_SAFE) | (ids < -JSON_SAFE)).any():
        return [str(i) for i in ids.tolist()]
    return ids


def column(values: Any, n: int, field: str, request_id: str) -> NDArray[np.float32]:
    """What the retriever gave each candidate."""
    try:
        with np.errstate(over="ignore"):
            found = np.asarray(values, np.float64).astype(np.float32)
    except (TypeError, ValueError):
        raise _refused("send numbers, and None or NaN for nothing", field, request_id) from None
    if found.shape != (n,):
        raise _refused(f"send a value for each of the {n} candidates", field, request_id)
    if np.isinf(found).any():
        raise _refused("holds a number that is not finite", field, request_id)
    return found


def _refused(detail: str, field: str, request_id: str) -> RefusedError:
    return RefusedError(Problem(detail, field=field, request_id=request_id))
