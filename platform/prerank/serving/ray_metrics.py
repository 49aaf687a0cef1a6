"""Ray's metrics of what a replica measures, brought up to date once a second by a thread.

A call of Ray's costs a few microseconds, and a request would need a dozen. Ray keeps of a
histogram how many values lie in each bucket, no more; so it is told the middle of a bucket as often
as a value fell into it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from prerank.serving.metrics import METRICS, Metric, Metrics, Series

EVERY_S = 1.0

logger = logging.getLogger(__name__)


class Instrument(Protocol):
    """A metric where it is exported: what it is told, with the labels."""

    def __call__(self, value: float, tags: dict[str, str]) -> None:
        """Tell a counter how much more there is, a gauge its value, a histogram one value."""


def instrument_of(metric: Metric) -> Instrument:
    """Ray's metric."""
    from ray.util.metrics import Counter, Gauge, Histogram

    name, help, labels = metric.name, metric.help, metric.labels
    if metric.kind == "histogram":
        return Histogram(name, help, list(metric.edges), labels).observe
    if metric.kind == "gauge":
        return Gauge(name, help, labels).set
    return Counter(name, help, labels).inc


class Export:
    """Exports ``metrics`` until it is stopped.

    Args:
        metrics: of the replica.
        sample: sets the gauges, before each export.
        made: makes the exported form of a metric.
        known: every metric that may have values.
    """

    def __init__(
        self,
        metrics: Metrics,
        sample: Callable[[], None],
        made: Callable[[Metric], Instrument] = instrument_of,
        known: Sequence[Metric] = METRICS,
    ) -> None:
        self._metrics, self._sample = metrics, sample
        self._metric = {m.name: m for m in known}
        self._told = {m.name: made(m) for m in known}
        self._values: dict[Series, float] = {}
        self._buckets: dict[Series, tuple[int, ...]] = {}
        self._stop = threading.Event()

    def start(self) -> None:
        """Export from now on, in the background."""
        threading.Thread(target=self._follow, name="metrics", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()

    def flush(self) -> None:
        """Export what changed since the last time, and every gauge: Ray forgets an old one."""
        self._sample()
        values, buckets = self._metrics.snapshot()
        for series, value in values.items():
            gauge = self._metric[series[0]].kind == "gauge"
            more = value if gauge else value - self._values.get(series, 0.0)
            self._values[series] = value
            if gauge or more:
                self._tell(series, more)
        for series, counts in buckets.items():
            before = self._buckets.get(series, (0,) * len(counts))
            self._buckets[series] = counts
            middles = middles_of(self._metric[series[0]].edges)
            for middle, now, then in zip(middles, counts, before, strict=True):
                for _ in range(now - then):
                    self._tell(series, middle)

    def _tell(self, series: Series, value: float) -> None:
        name, labels = series
        self._told[name](value, dict(zip(self._metric[name].labels, labels, strict=True)))

    def _follow(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self.flush()
            except Exception:
                # The next one tells what this one did not.
                logger.exception("metrics were not exported")


def middles_of(edges: tuple[float, ...]) -> list[float]:
    """A value inside each bucket of a histogram, twice the last edge for the last bucket."""
    lower = (0.0, *edges[:-1])
    return [(a + b) / 2 for a, b in zip(lower, edges, strict=True)] + [2 * edges[-1]]
