"""What the page asks for, read and refused as a deployment does: each message names the field."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from prerank.playground.log_view import LogView
from prerank.serving.answer import Loaded
from prerank.serving.api import PrerankRequest, parse_json
from prerank.serving.fields import RequestError, context_of, only_known, shown

SOURCES = ("request", "ids", "catalogue")
SEARCH_FIELDS = frozenset(("user_id", "query", "time", "context", "source"))
MAX_RANKERS = 3
MAX_ROWS = 200
"""Rows of a ranking that are shown."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """A search as the page states it, whichever ranker answers it.

    Attributes:
        body: of ``POST /v1/prerank``, without candidates.
        candidates: ids, or objects with what the retriever said of each; None for the catalogue.
        engaged: int64 [m], candidates that the log says were engaged with in this very search.
    """

    body: Mapping[str, Any]
    candidates: list[Any] | None
    engaged: NDArray[np.int64]

    @classmethod
    def of(cls, data: Mapping[str, Any], view: LogView) -> Search:
        """Read the fields of ``SEARCH_FIELDS``.

        Raises:
            RequestError: naming the field and the fix.
        """
        names = SEARCH_FIELDS - {"source"}
        body = {name: data[name] for name in names if data.get(name) is not None}
        body.setdefault("user_id", "")
        body["context"] = context_of(data.get("context"), view.manifest.schema)
        given = data.get("source")
        source: dict[str, Any] = given if isinstance(given, dict) else {}
        kind = source.get("kind")
        if kind not in SOURCES:
            raise RequestError("source.kind", f"{shown(kind)} is none of {', '.join(SOURCES)}")
        none = np.zeros(0, np.int64)
        if kind == "catalogue":
            return cls(body, None, none)
        if kind == "ids":
            ids = source.get("ids")
            if not isinstance(ids, list) or not ids:
                raise RequestError("source.ids", "paste at least one item id")
            return cls(body, ids, none)
        request_id = source.get("request_id")
        if not isinstance(request_id, str) or not request_id:
            raise RequestError("source.request_id", "choose a search of the log")
        return cls(body, *view.candidates(request_id))

    def request(self, loaded: Loaded) -> PrerankRequest:
        """The same search as a model version reads it.

        Raises:
            RequestError: naming the field and the fix; 413 where there are too many candidates.
        """
        limits, body = loaded.limits, dict(self.body)
        known, context = limits.schema.segments, self.body["context"]
        body["context"] = {name: value for name, value in context.items() if name in known}
        if self.candidates is None and len(loaded.scorer.table) > limits.max_candidates:
            raise RequestError(
                "source",
                f"the catalogue has {len(loaded.scorer.table)} items, and at most "
                f"{limits.max_candidates} are ranked here (max_candidates): paste ids instead",
                413,
            )
        candidates = [_known(each, limits.schema.given) for each in self.candidates or []]
        wanted = body | {"candidates": candidates, "k": 1}
        request = parse_json(orjson.dumps(wanted), limits, time.time_ns() // 1000)
        return replace(request, whole=self.candidates is None, arrived=time.monotonic())


def _known(candidate: Any, given: tuple[str, ...]) -> Any:
    """A candidate with what this version's schema has of it alone."""
    if not isinstance(candidate, dict):
        return candidate
    found = {k: v for k, v in candidate.items() if k == "id" or k in given}
    if own := {k: v for k, v in candidate.get("features", {}).items() if f"candidate_{k}" in given}:
        found["features"] = own
    return found


def rankers_of(data: Mapping[str, Any]) -> list[str]:
    """The rankers that are to answer, one to ``MAX_RANKERS`` distinct ones."""
    names = data.get("rankers")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError("rankers", "send a list of rankers")
    if not 1 <= len(names) <= MAX_RANKERS:
        raise RequestError("rankers", f"{len(names)} rankers; choose one to {MAX_RANKERS}")
    if len(set(names)) < len(names):
        raise RequestError("rankers", "one is named twice; choose different ones")
    return names


def text_of(data: Mapping[str, Any], field: str, longest: int = 1_000) -> str:
    """A text, which may be empty."""
    value = data.get(field, "")
    if not isinstance(value, str):
        raise RequestError(field, "a string is needed")
    if len(value) > longest:
        raise RequestError(field, f"{len(value)} characters; at most {longest} are allowed")
    return value


def count_of(data: Mapping[str, Any], field: str, default: int, most: int) -> int:
    """A number from 1 to ``most``."""
    value = data.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise RequestError(field, f"{shown(value)} is no whole number from 1 to {most}")
    return value


def fields_of(data: Mapping[str, Any], *known: str) -> None:
    """Refuse a field that nobody reads."""
    only_known(data, {*known})
