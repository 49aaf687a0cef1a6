"""The newest labelled requests, on which a version is compared with the champion.

None of the two has learned from them: requests from before the test splits of both are left out.
They have all their candidates, and features as of their time, as in every evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.metrics.calibration import CELLS, histogram
from interactrank.metrics.ranking import request_metrics
from prerank.core.errors import DataError
from prerank.core.feature_sets import require_features
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import DAY_US, micros, utc
from prerank.dataset.requests import event_days, requests_between
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.budget import chunks
from prerank.evaluation.per_request import was_shown
from prerank.promotion.verdict import COMPARED
from prerank.registry.bundle import Bundle

ENOUGH = 1_000
"""Where the last day has fewer requests, as many of the newest are taken, of days before it too."""
FEWEST = 100
"""Requests with an engagement, below which nothing is compared."""
SEED = 0


@dataclass(frozen=True)
class Newest:
    """Requests to be measured.

    Attributes:
        requests: rows as ``prerank.dataset.requests.read_requests`` gives them, by time; at least
            one.
        found: how many there were before a sample was drawn.
    """

    requests: pa.Table
    found: int

    @cached_property
    def engaged(self) -> int:
        """How many have an engagement of the first head."""
        labels = self.requests["labels"].combine_chunks()
        of_request = pc.list_parent_indices(labels).to_numpy()
        positive = labels.flatten().to_numpy() & 1 > 0
        return len(np.unique(of_request[positive]))

    def text(self) -> str:
        """For people."""
        times = micros(self.requests["request_time"])
        sample = f" (a sample of {self.found:,})" if self.found > self.requests.num_rows else ""
        return (
            f"{self.requests.num_rows:,} requests{sample} from {_minute(int(times[0]))} to "
            f"{_minute(int(times[-1]))}, {self.engaged:,} with an engagement"
        )


def _minute(at_us: int) -> str:
    return f"{utc(at_us):%Y-%m-%d %H:%M}"


def newest_requests(home: Home, unseen_from: int, limit: int, day: date | None = None) -> Newest:
    """The newest requests whose label window has closed.

    Those of the last 24 hours, or the newest ``ENOUGH`` where these are fewer; of ``day`` (UTC),
    where it is given.

    Args:
        home: with a log, pinned.
        unseen_from: requests before it are left out, microseconds since 1970.
        limit: of more, a seeded sample is taken.
        day: None for the newest.

    Raises:
        DataError: there are none, or the features are of another log.
    """
    manifest = LogManifest.load(home)
    require_features(home, manifest)
    low, high = unseen_from, manifest.last_us - manifest.label_window_us + 1
    if day is not None:
        start = int(np.datetime64(day, "us").astype(np.int64))
        low, high = max(low, start), min(high, start + DAY_US)
    found = _newest(home, manifest, low, high)
    if found is None:
        raise DataError(
            f"the log has no request {f'of {day}' if day else ''} from {_minute(unseen_from)} on, "
            "where the test split begins, whose label window has closed."
        )
    total = found.num_rows
    if total > limit:
        drawn = np.random.default_rng(SEED).choice(total, limit, replace=False)
        found = found.take(pa.array(np.sort(drawn)))
    return Newest(found, total)


def _newest(home: Home, manifest: LogManifest, low: int, high: int) -> pa.Table | None:
    """Requests of [low, high): the last 24 hours of them, or the last ``ENOUGH``."""
    tables: list[pa.Table] = []
    for files in reversed(event_days(home, low, high, per_task=1)):
        tables.insert(0, requests_between(files, manifest, low, high))
        kept = pa.concat_tables(tables)
        times = micros(kept["request_time"])
        if len(times) >= ENOUGH and times[0] <= times[-1] - DAY_US:
            break
    if not sum(table.num_rows for table in tables):
        return None
    last_day = int((times > times[-1] - DAY_US).sum())
    return kept.slice(max(len(times) - max(last_day, ENOUGH), 0))


@dataclass
class Scored:
    """What one version made of the requests.

    Attributes:
        metrics: name -> one value per request; NaN where it is not defined.
        non_finite: scores that are no finite numbers.
        flat: requests with several candidates, all of one score.
        reliability: head -> sums of predictions of what was shown, float64 [CELLS, 3].
    """

    metrics: dict[str, NDArray[np.float64]]
    non_finite: int = 0
    flat: int = 0
    reliability: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def scored(home: Home, bundles: Sequence[Bundle], newest: Newest) -> list[Scored]:
    """Score the requests with each version, which must be of the log's feature schema.

    Raises:
        DamagedError: a feature table is.
    """
    rankers = [TorchRanker("version", b.model, b.catalogue) for b in bundles]
    parts: list[list[dict[str, NDArray[np.float64]]]] = [[] for _ in bundles]
    found = [Scored({}) for _ in bundles]
    shown, at = LogManifest.load(home).has_impressions, 0
    for arrays, queries, _, unreachable in chunks(home, newest.requests):
        rows, positive = newest.requests.slice(at, len(queries)), arrays.labels & 1 > 0
        at += len(queries)
        for ranker, own, kept in zip(rankers, found, parts, strict=True):
            scores = ranker.score(arrays, queries)
            finite = np.isfinite(scores)
            own.non_finite += len(scores) - int(finite.sum())
            scores = np.where(finite, scores, np.float32(-np.inf))
            own.flat += _flat(scores, arrays.offsets)
            values = request_metrics(scores, positive, arrays.offsets, unreachable)
            kept.append({name: values[name] for name in COMPARED})
            if shown and finite.all():
                _add(own, ranker, arrays, queries, was_shown(rows))
    for own, kept in zip(found, parts, strict=True):
        own.metrics = {m: np.concatenate([part[m] for part in kept]) for m in COMPARED}
    return found


def _flat(scores: NDArray[np.float32], offsets: NDArray[np.int64]) -> int:
    starts, several = offsets[:-1], np.diff(offsets) > 1
    equal = np.maximum.reduceat(scores, starts) == np.minimum.reduceat(scores, starts)
    return int((equal & several).sum())


def _add(
    own: Scored,
    ranker: TorchRanker,
    arrays: RequestArrays,
    queries: list[str],
    shown: NDArray[np.bool_],
) -> None:
    predicted = ranker.probabilities(arrays, queries)[shown]
    for h, head in enumerate(ranker.model.schema.heads):
        sums = histogram(predicted[:, h], (arrays.labels[shown] >> h) & 1 > 0)
        own.reliability[head] = own.reliability.get(head, np.zeros((CELLS, 3))) + sums
