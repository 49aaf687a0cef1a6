"""The items that a request names, by the ids of its caller: candidates, and what is excluded.

Lists are long, so what holds of all ids is looked at in one go, and an id alone only where it must.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.core.errors import DataError
from prerank.core.ids import JSON_SAFE, ItemIds
from prerank.serving.fields import Limits, RequestError, encodable, shown


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
        encodable(value, field)
    try:
        return ids.to_key(value)
    except DataError as error:
        raise RequestError(field, str(error)) from None
