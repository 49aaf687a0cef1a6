"""What a replica measures, in plain memory: ``prerank.serving.ray_metrics`` exports it.

A request costs a few additions to dictionaries. Values only grow (counters, buckets) or are
replaced (gauges), so that whoever exports them takes differences. Every label has few values: none
is a text that a caller chose.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prerank.online.reader import BYTES_BUDGET
from prerank.serving.answer import Answer
from prerank.serving.stages import Stages

NS_PER_MS = 1e6


@dataclass(frozen=True)
class Metric:
    """A metric as Prometheus knows it; Ray puts ``ray_`` before its name.

    Attributes:
        edges: of a histogram, ascending; a value belongs to the first bucket whose edge it is not
            above.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()


def _edges(*decades: float) -> tuple[float, ...]:
    return tuple(round(step * decade, 6) for decade in decades for step in (1, 2, 3, 5, 7))


LATENCY = Metric(
    "prerank_latency_ms",
    "Milliseconds from when the body of a request has arrived to when its answer is written.",
    "histogram",
    ("route",),
    (*_edges(1, 10, 100), 1000.0, 3000.0, 10_000.0),
)
STAGE = Metric(
    "prerank_stage_ms",
    "Milliseconds of a stage of a request.",
    "histogram",
    ("route", "stage"),
    (*_edges(0.01, 0.1, 1, 10), 100.0, 300.0, 1000.0, 3000.0),
)
CANDIDATES = Metric("prerank_candidates_total", "Candidates asked for.", "counter", ("route",))
UNKNOWN_IDS = Metric(
    "prerank_unknown_ids_total", "Candidates that the index does not hold.", "counter", ("route",)
)
DEGRADED = Metric(
    "prerank_degraded_total",
    "Answers that lack something; one that lacks two things counts for both.",
    "counter",
    ("cause",),
)
NON_FINITE = Metric("prerank_non_finite_total", "Scores that were NaN or infinite.", "counter")
KEYS = Metric("prerank_online_keys", "Online keys read by the last request.", "gauge")
BYTES = Metric(
    "prerank_online_bytes",
    "Bytes read online by a request.",
    "histogram",
    (),
    tuple(BYTES_BUDGET * share / 8 for share in (0.25, 0.5, 1, 2, 4, 8, 16)),
)
REFUSED = Metric(
    "prerank_refused_total", "Requests that were refused.", "counter", ("route", "reason")
)
EVENTS = Metric(
    "prerank_events_total",
    "Events acknowledged, and whether the histories had them at once.",
    "counter",
    ("online",),
)
WAITING = Metric(
    "prerank_waiting", "Requests that are read, wait or are worked on.", "gauge", ("lane",)
)
WAITING_LIMIT = Metric("prerank_waiting_limit", "Places of each lane: max_waiting.", "gauge")
BREAKER = Metric(
    "prerank_store_breaker_open", "1 while the online store is known to be away.", "gauge"
)
FEATURE_FRESHNESS = Metric(
    "prerank_feature_freshness_seconds",
    "Seconds since the cutoff of the snapshot online, by the replica's clock.",
    "gauge",
)
HISTORY_FRESHNESS = Metric(
    "prerank_history_freshness_seconds",
    "Seconds since events of this replica's callers entered the histories at once.",
    "gauge",
)
MODEL = Metric(
    "prerank_model_info",
    "1 for the model version that is served, 0 for those before it.",
    "gauge",
    ("version", "run_id", "schema"),
)
MODEL_REFUSED = Metric(
    "prerank_model_refused", "1 while the version that is to be served is refused.", "gauge"
)
LOG_LOST = Metric(
    "prerank_log_lost_total",
    "Answers and events that the served log could not keep.",
    "counter",
    ("what",),
)
VARIANT = Metric(
    "prerank_variant_answers_total",
    "Answers of an experiment, and whether the champion answered in place of the variant.",
    "counter",
    ("variant", "fallback"),
)
SHADOW_OVERLAP = Metric(
    "prerank_shadow_overlap",
    "Share of a shadow's best k that was in the answer.",
    "histogram",
    ("variant",),
    tuple(n / 20 for n in range(1, 21)),
)
SHADOW_DIFFERENCE = Metric(
    "prerank_shadow_score_difference",
    "Mean absolute difference of a shadow's scores from the answer's, in logits.",
    "histogram",
    ("variant",),
    _edges(0.001, 0.01, 0.1, 1),
)
SHADOW_LOST = Metric(
    "prerank_shadow_lost_total",
    "Requests that a shadow was drawn for and did not score.",
    "counter",
    ("reason",),
)
EXPERIMENT_REFUSED = Metric(
    "prerank_experiment_refused", "1 while the experiment given last is refused.", "gauge"
)
METRICS = (
    LATENCY,
    STAGE,
    CANDIDATES,
    UNKNOWN_IDS,
    DEGRADED,
    NON_FINITE,
    KEYS,
    BYTES,
    REFUSED,
    EVENTS,
    WAITING,
    WAITING_LIMIT,
    BREAKER,
    FEATURE_FRESHNESS,
    HISTORY_FRESHNESS,
    MODEL,
    MODEL_REFUSED,
    LOG_LOST,
    VARIANT,
    SHADOW_OVERLAP,
    SHADOW_DIFFERENCE,
    SHADOW_LOST,
    EXPERIMENT_REFUSED,
)
"""Every metric of a replica, beside Serve's own."""

Series = tuple[str, tuple[str, ...]]
"""Name of a metric and the values of its labels."""


class Metrics:
    """The values of one replica. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Series, float] = {}
        self._buckets: dict[Series, list[int]] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Count ``value`` more."""
        with self._lock:
            self._add(metric, value, labels)

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Replace the value of a gauge."""
        with self._lock:
            self._values[metric.name, labels] = value

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Count a value of a histogram."""
        with self._lock:
            self._observe(metric, value, labels)

    def tell(self, metric: Metric, *labels: str) -> None:
        """Make ``labels`` those of a gauge that informs by its labels."""
        with self._lock:
            self._values |= {s: 0.0 for s in self._values if s[0] == metric.name}
            self._values[metric.name, labels] = 1.0

    def answered(self, route: str, answer: Answer) -> None:
        """Count one ranking."""
        read = answer.read
        with self._lock:
            self._values[KEYS.name, ()] = read.keys
            self._observe(BYTES, read.bytes, ())
            self._add(CANDIDATES, answer.candidates, (route,))
            self._add(UNKNOWN_IDS, answer.unknown, (route,))
            self._add(NON_FINITE, answer.non_finite, ())
            for cause in read.degraded:
                self._add(DEGRADED, 1, (cause,))

    def finished(self, route: str, stages: Stages) -> None:
        """Count how long a whole request took, and its stages."""
        with self._lock:
            self._observe(LATENCY, stages.whole_ns / NS_PER_MS, (route,))
            self._staged(route, stages)

    def staged(self, route: str, stages: Stages) -> None:
        """Count how long the stages of a part of a request took."""
        with self._lock:
            self._staged(route, stages)

    def snapshot(self) -> tuple[Mapping[Series, float], Mapping[Series, tuple[int, ...]]]:
        """Values of counters and gauges, and of histograms the count in each bucket, the last one
        for what is above all edges.
        """
        with self._lock:
            return dict(self._values), {s: tuple(b) for s, b in self._buckets.items()}

    def value(self, metric: Metric, *labels: str) -> float:
        """Value of a counter or a gauge, 0 where there is none yet."""
        return self._values.get((metric.name, labels), 0.0)

    def buckets(self, metric: Metric, *labels: str) -> tuple[int, ...]:
        """Count in each bucket of a histogram, empty where there is none yet."""
        return tuple(self._buckets.get((metric.name, labels), ()))

    def _add(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        series = metric.name, labels
        self._values[series] = self._values.get(series, 0.0) + value

    def _observe(self, metric: Metric, value: float, labels: tuple[str, ...]) -> None:
        series = metric.name, labels
        buckets = self._buckets.get(series)
        if buckets is None:
            buckets = self._buckets[series] = [0] * (len(metric.edges) + 1)
        buckets[bisect_left(metric.edges, value)] += 1

    def _staged(self, route: str, stages: Stages) -> None:
        for stage, begun, ended in stages.spans():
            self._observe(STAGE, (ended - begun) / NS_PER_MS, (route, stage))
