"""What the playground measures; ``prerank.serving.ray_metrics`` exports it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prerank.serving.metrics import Metric

REQUESTS = Metric(
    "prerank_playground_requests_total",
    "Requests of the playground, by what was asked and the status of the answer.",
    "counter",
    ("action", "status"),
)
LATENCY = Metric(
    "prerank_playground_latency_ms",
    "Milliseconds of a request of the playground.",
    "histogram",
    ("action",),
    (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0),
)
VERSIONS = Metric(
    "prerank_playground_versions_total",
    "Model versions that were loaded, evicted for another one, or could not be loaded.",
    "counter",
    ("what",),
)
IN_MEMORY = Metric(
    "prerank_playground_versions_in_memory", "Model versions in memory, the champion too.", "gauge"
)
DEGRADED = Metric(
    "prerank_playground_degraded_total",
    "Answers of the playground that lack something which the online store should hold.",
    "counter",
    ("cause",),
)
METRICS = (REQUESTS, LATENCY, VERSIONS, IN_MEMORY, DEGRADED)
"""Every metric of the playground."""

FILE, OTHER = "file", "other"
"""Actions beside the routes of the page."""
LOADED, EVICTED, FAILED = "loaded", "evicted", "failed"
"""What becomes of a version."""


def causes(answer: Mapping[str, Any]) -> Iterator[str]:
    """What an answer lacks, each once, whichever of its rankings lacks it."""
    parts = [answer, *answer.get("columns", ())]
    yield from dict.fromkeys(cause for part in parts for cause in part.get("degraded", ()))
