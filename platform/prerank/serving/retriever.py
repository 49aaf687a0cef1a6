"""What a caller says of its retriever: a score and a rank of each candidate, as the log has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.features.schema import RETRIEVER_CROSS, FeatureSchema
from prerank.serving.candidates import not_too_many
from prerank.serving.fields import Limits, RequestError, only_known

RetrieverFeatures = NDArray[np.float32] | None
"""float32 [n, R], columns ``schema.retriever``, NaN is "nothing said"; None is nothing of any."""

_OBJECT_FIELDS = {"id", *RETRIEVER_CROSS}


def retriever_of(data: Mapping[str, Any], limits: Limits) -> tuple[Any, RetrieverFeatures]:
    """The candidates' ids as sent, and what the retriever said of each.

    Either ``candidates`` holds objects {id, score, rank}, or ids with the lists
    ``retriever_scores`` and ``retriever_ranks`` beside them. No list is walked before its length
    is known to be allowed.
    """
    ids = data.get("candidates")
    told = {f"retriever_{n}s": data.get(f"retriever_{n}s") for n in RETRIEVER_CROSS}
    n = len(ids) if isinstance(ids, list) else 0
    not_too_many(n, limits)
    if isinstance(ids, list) and dict in set(map(type, ids)):
        for i, each in enumerate(ids):
            if not isinstance(each, dict):
                raise RequestError("candidates", "objects and ids are mixed; send one kind")
            if not each.keys() <= _OBJECT_FIELDS:
                only_known(each, _OBJECT_FIELDS, f"candidates[{i}].")
        for name in RETRIEVER_CROSS:
            if any(name in each for each in ids):
                field = f"retriever_{name}s"
                if told[field] is not None:
                    raise RequestError(field, f"candidates have a {name} too; send one of the two")
                told[field] = [each.get(name) for each in ids]
        ids = [each.get("id") for each in ids]
    columns = {}
    for name in RETRIEVER_CROSS:
        field = f"retriever_{name}s"
        if (values := told[field]) is not None:
            if not isinstance(values, list) or len(values) != n:
                raise RequestError(field, "send a list with a value for each candidate")
            if set(map(type, values)) - {int, float, type(None)}:
                raise RequestError(field, "only numbers and null are allowed")
            with np.errstate(over="ignore"):
                columns[name] = np.array(values, np.float64).astype(np.float32)
    return ids, features_of(columns, n, limits.schema)


def features_of(
    columns: Mapping[str, NDArray[Any]], n: int, schema: FeatureSchema
) -> RetrieverFeatures:
    """Columns by name as float32 [n, R] in the schema's order; NaN is "nothing said"."""
    for name, values in columns.items():
        field = f"retriever_{name}s"
        if name not in schema.retriever:
            known = list(schema.retriever) or "nothing"
            raise RequestError(field, f"the model was trained with {known} of the retriever's")
        if np.isinf(values).any():
            raise RequestError(field, "holds a number that is not finite")
        if name == "rank" and ((values < 0) | (values != np.floor(values))).any(
            where=~np.isnan(values)
        ):
            raise RequestError(field, "ranks are whole numbers from 0")
    if not columns:
        return None
    nothing = np.full(n, np.nan, np.float32)
    return np.stack([columns.get(name, nothing) for name in schema.retriever], axis=1)


def raw_candidates(
    body: bytes, told: str, limits: Limits
) -> tuple[NDArray[np.int64], RetrieverFeatures]:
    """Ids of a raw body: n int64, then n float32 for each of the comma-separated names ``told``."""
    names = told.split(",") if told else []
    if unknown := sorted(set(names) - set(RETRIEVER_CROSS)):
        raise RequestError("retriever", f"{unknown[0]!r} is unknown: send score, rank or both")
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
