"""What a caller gives of each candidate: its retriever's score and rank, and features of its own.

All of them are columns of one array, in the order of ``FeatureSchema.given``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.features.schema import CANDIDATE_PREFIX, RETRIEVER_CROSS, FeatureSchema
from prerank.serving.candidates import not_too_many
from prerank.serving.fields import Limits, RequestError, only_known

RetrieverFeatures = NDArray[np.float32] | None
"""float32 [n, R], columns ``schema.given``, NaN is "nothing said"; None is nothing of any."""
OWN = "candidate_features"
"""The field of the caller's own features, by name, beside plain ids."""

_RETRIEVED_FIELDS = {"id", *RETRIEVER_CROSS}
_OBJECT_FIELDS = {*_RETRIEVED_FIELDS, "features"}


def retriever_of(data: Mapping[str, Any], limits: Limits) -> tuple[Any, RetrieverFeatures]:
    """The candidates' ids as sent, and what is given of each.

    Either ``candidates`` holds objects {id, score, rank, features}, or ids with the lists
    ``retriever_scores`` and ``retriever_ranks`` beside them, and ``candidate_features`` with a list
    by name. No list is walked before its length is known to be allowed.
    """
    ids = data.get("candidates")
    told = {n: data.get(_field(n)) for n in RETRIEVER_CROSS} | _own_lists(data.get(OWN), limits)
    n = len(ids) if isinstance(ids, list) else 0
    not_too_many(n, limits)
    if isinstance(ids, list) and dict in set(map(type, ids)):
        has_own = False
        for i, each in enumerate(ids):
            if not isinstance(each, dict):
                raise RequestError("candidates", "objects and ids are mixed; send one kind")
            if not each.keys() <= _RETRIEVED_FIELDS:
                only_known(each, _OBJECT_FIELDS, f"candidates[{i}].")
                has_own = True
        for name in RETRIEVER_CROSS:
            if any(name in each for each in ids):
                if told[name] is not None:
                    raise RequestError(
                        _field(name), f"candidates have a {name} too; send one of the two"
                    )
                told[name] = [each.get(name) for each in ids]
        if has_own:
            if data.get(OWN) is not None:
                raise RequestError(OWN, "candidates have features too; send one of the two")
            told |= _own_of_objects(ids, limits.schema)
        ids = [each.get("id") for each in ids]
    columns = {}
    for name, values in told.items():
        if values is not None:
            if not isinstance(values, list) or len(values) != n:
                raise RequestError(_field(name), "send a list with a value for each candidate")
            if set(map(type, values)) - {int, float, type(None)}:
                raise RequestError(_field(name), "only numbers and null are allowed")
            with np.errstate(over="ignore"):
                columns[name] = np.array(values, np.float64).astype(np.float32)
    return ids, features_of(columns, n, limits.schema)


def _own_lists(value: Any, limits: Limits) -> dict[str, Any]:
    """The lists of ``candidate_features``, by names of ``FeatureSchema.given``."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(OWN, "send an object name -> list with a value for each candidate")
    check_own(value, limits.schema)
    return {CANDIDATE_PREFIX + name: values for name, values in value.items()}


def _own_of_objects(ids: list[dict[str, Any]], schema: FeatureSchema) -> dict[str, Any]:
    """``features`` of candidates as lists, likewise."""
    columns: dict[str, list[Any]] = {name: [None] * len(ids) for name in schema.candidate_features}
    for i, each in enumerate(ids):
        if (given := each.get("features")) is None:
            continue
        if not isinstance(given, dict):
            raise RequestError(f"candidates[{i}].features", "send an object name -> number")
        if not given.keys() <= columns.keys():
            check_own(given, schema, f"candidates[{i}].features")
        for name, value in given.items():
            columns[name][i] = value
    return {CANDIDATE_PREFIX + name: values for name, values in columns.items()}


def check_own(
    names: Sequence[str] | Mapping[str, Any], schema: FeatureSchema, at: str = OWN
) -> None:
    """Refuse a candidate feature that the model does not know.

    Raises:
        RequestError: naming it and those that it knows.
    """
    for name in names:
        if name not in schema.candidate_features:
            known = schema.candidate_features
            has = f"the model was trained with {list(known)}" if known else "the model has none"
            raise RequestError(f"{at}.{name}", f"is no candidate feature: {has}")


def _field(name: str) -> str:
    """The field that holds values of one of ``FeatureSchema.given``."""
    if name in RETRIEVER_CROSS:
        return f"retriever_{name}s"
    return f"{OWN}.{name.removeprefix(CANDIDATE_PREFIX)}"


def features_of(
    columns: Mapping[str, NDArray[Any]], n: int, schema: FeatureSchema
) -> RetrieverFeatures:
    """Columns by name as float32 [n, R] in the schema's order; NaN is "nothing said"."""
    for name, values in columns.items():
        if name in RETRIEVER_CROSS and name not in schema.retriever:
            known = list(schema.retriever) or "nothing"
            raise RequestError(
                _field(name), f"the model was trained with {known} of the retriever's"
            )
        if np.isinf(values).any():
            raise RequestError(_field(name), "holds a number that is not finite")
        if name == "rank" and ((values < 0) | (values != np.floor(values))).any(
            where=~np.isnan(values)
        ):
            raise RequestError(_field(name), "ranks are whole numbers from 0")
    if not columns:
        return None
    nothing = np.full(n, np.nan, np.float32)
    return np.stack([columns.get(name, nothing) for name in schema.given], axis=1)


def raw_candidates(
    body: bytes, fields: Mapping[str, str], limits: Limits
) -> tuple[NDArray[np.int64], RetrieverFeatures]:
    """Ids of a raw body: n int64, then n float32 for each of the names that ``fields`` lists.

    They are comma-separated: those of ``retriever``, then those of ``candidate_features``.
    """
    names, own = (_listed(fields.get(field, "")) for field in ("retriever", OWN))
    if unknown := sorted(set(names) - set(RETRIEVER_CROSS)):
        raise RequestError("retriever", f"{unknown[0]!r} is unknown: send score, rank or both")
    check_own(own, limits.schema)
    if len(set(own)) < len(own):
        raise RequestError(OWN, "a name is listed twice")
    names += [CANDIDATE_PREFIX + name for name in own]
    size = 8 + 4 * len(names)
    if len(body) % size:
        floats = f", each with {len(names)} float32" if names else ""
        raise RequestError(
            "candidates",
            f"{len(body)} bytes are no whole number of little-endian int64 ids{floats}",
        )
    n = len(body) // size
    not_too_many(n, limits)
    rest = np.frombuffer(body, "<f4", offset=8 * n).reshape(len(names), n)
    columns = dict(zip(names, rest, strict=True))
    ids = np.frombuffer(body, "<i8", n).astype(np.int64)
    return ids, features_of(columns, n, limits.schema)


def _listed(names: str) -> list[str]:
    return names.split(",") if names else []
