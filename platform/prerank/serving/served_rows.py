"""The rows of the served log: an answer, and an event, as they are written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from safetensors.numpy import save

from interactrank.features.inputs import FeatureInputs
from prerank.core.ids import event_identity
from prerank.online.history import Event
from prerank.serving.answer import Answer
from prerank.serving.api import PrerankRequest


def lines_of(body: bytes, events: Sequence[Event]) -> list[dict[str, Any]]:
    """``events``, which were read from ``body``, as they are written down."""
    rows = orjson.loads(body)["events"]
    return [_line(row, event) for row, event in zip(rows, events, strict=True)]


def _line(row: dict[str, Any], event: Event) -> dict[str, Any]:
    """An event as it is written down. ``row`` is how it was reported."""
    request, given = row.get("request_id"), row.get("event_id")
    about = event.user_id if request is None else str(request)
    derived = event_identity(about, event.item_id, event.action, event.time)
    return {
        "request_id": None if request is None else str(request),
        "user_id": event.user_id,
        "query": event.query or None,
        "item_id": str(row["item_id"]),
        "action": event.action,
        "event_time": event.time,
        "position": row.get("position"),
        "event_id": derived if given is None else str(given),
    }


def row_of(
    request: PrerankRequest, answer: Answer, given: tuple[str, ...], items: int
) -> dict[str, Any]:
    """An answer as it is written down, with its best ``items``; see ``ServedLog.answered``."""
    body, best = answer.body, answer.body["items"][:items]
    return {
        "request_id": request.request_id,
        "request_time": request.time_us,
        "user_id": request.user_id,
        "query": request.query,
        "context": list(request.context.items()),
        "model_version": body["model_version"],
        "run_id": answer.run_id,
        "snapshot_cutoff": answer.read.cutoff_us,
        "degraded": list(answer.read.degraded),
        "candidates": answer.candidates,
        "items": [str(item["id"]) for item in best],
        "scores": [item["score"] for item in best],
        "retriever": _said(request, answer, given, len(best)),
        "inputs": packed(answer.read.inputs),
        "latency_ms": answer.latency_ms,
        **(answer.trial.row(items) if answer.trial else {}),
    }


def _said(
    request: PrerankRequest, answer: Answer, names: tuple[str, ...], items: int
) -> list[tuple[str, list[float]]]:
    """What the caller said of the best ``items``, by name."""
    if request.retriever_features is None:
        return []
    order = np.argsort(request.keys)
    at = order[np.searchsorted(request.keys, answer.ids[:items], sorter=order)]
    said = request.retriever_features[at]
    return [(name, said[:, column].tolist()) for column, name in enumerate(names)]


def packed(inputs: FeatureInputs) -> bytes:
    """Feature inputs as one safetensors blob; ``FeatureInputs.restored`` takes its arrays."""
    return save({name: np.ascontiguousarray(array) for name, array in inputs.arrays().items()})
