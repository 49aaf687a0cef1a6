"""The parts of a request's scores as the inputs of Vespa's rank profile `prerank`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.client.query_parts import QueryParts


def inputs(parts: QueryParts, now: float | None = None) -> dict[str, Any]:
    """Fields of a search in Vespa; see ``item.sd`` for what each is.

    Args:
        parts: of ``prerank.Client.query``.
        now: seconds since 1970; the clock's by default.
    """
    others = parts.others
    fresh_base, fresh_at, fresh_slope = _bends(others.fresh)
    old_base, old_at, old_slope = _bends(others.old)
    items = parts.items.tolist()
    given: dict[str, Any] = {
        "vector": parts.vector.tolist(),
        "weights": _cells("item", items, parts.weights.tolist()),
        "listed": _cells("item", items, [1.0] * len(items)),
        "fresh_at": _cells("p", range(len(fresh_at)), fresh_at),
        "fresh_slope": _cells("p", range(len(fresh_slope)), fresh_slope),
        "fresh_base": fresh_base,
        "fresh_days": others.fresh_days,
        "old_at": _cells("p", range(len(old_at)), old_at),
        "old_slope": _cells("p", range(len(old_slope)), old_slope),
        "old_base": old_base,
        "age_unknown": others.age_unknown,
        "constant": parts.constant,
        "now": time.time() if now is None else now,
    }
    return {"ranking.profile": "prerank"} | {
        f"input.query({name})": value for name, value in given.items()
    }


def search(parts: QueryParts, query: str, hits: int = 20) -> dict[str, Any]:
    """The body of ``POST /search/``: what the text finds, and items that the request names."""
    named = ", ".join(f'"{item}": 1' for item in parts.items.tolist())
    also = f" or weightedSet(key, {{{named}}})" if named else ""
    where = f'(userQuery(){also}) and model_version contains "{parts.model_version}"'
    return {
        "yql": f"select item_id from item where {where}",
        "query": query,
        "hits": hits,
    } | inputs(parts)


def _cells(dimension: str, labels: Iterable[int], values: Iterable[float]) -> str:
    """A tensor of one mapped dimension, as text."""
    pairs = zip(labels, values, strict=True)
    return "{" + ",".join(f"{{{dimension}:'{label}'}}:{value!r}" for label, value in pairs) + "}"


def _bends(points: NDArray[np.float64]) -> tuple[float, list[float], list[float]]:
    """A line between points, and level beyond them, as base + sum of slope · max(0, t - at)."""
    t, value = points[np.concatenate(([True], np.diff(points[:, 0]) > 0))].T
    slopes = np.concatenate(([0.0], np.diff(value) / np.diff(t), [0.0]))
    return float(value[0]), t.tolist(), np.diff(slopes).tolist()
