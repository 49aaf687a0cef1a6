"""Stored examples in memory, for rankers that are fitted in one piece, and how they choose.

Metrics of sampled candidates flatter: most of the catalogue's negatives are missing. A negative
drawn with probability Q stands for 1 / Q of them, so 1 + the sum of 1 / Q over the negatives above
a positive is an unbiased estimate of its rank among the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.metrics.ranking import mean
from prerank.core.home import Home
from prerank.dataset.examples import read_split, split_sizes, to_arrays

Read = Callable[[Home, FeatureSchema, str, int, int], RequestArrays]
"""What ``stored`` is: the requests that a ranker may be fitted on."""
LOG_Q_POWERS = (0.5, 1.0)
"""Corrections for sampled candidates to choose from; where they were shown, log Q is 0."""


def sampled_tables(home: Home, split: str, limit: int, seed: int) -> list[pa.Table]:
    """At most ``limit`` requests of a stored split, a seeded sample in time order."""
    total = sum(split_sizes(home, split))
    chosen = np.ones(total, bool)
    if total > limit:
        chosen[:] = False
        chosen[np.random.default_rng(seed).choice(total, limit, replace=False)] = True
    tables, at = [], 0
    for table in read_split(home, split):
        tables.append(table.filter(pa.array(chosen[at : at + len(table)])))
        at += len(table)
    return [t for t in tables if len(t)]


def stored(home: Home, schema: FeatureSchema, split: str, limit: int, seed: int) -> RequestArrays:
    """A sample of a stored split, its candidates ``shuffled``."""
    tables = sampled_tables(home, split, limit, seed)
    return shuffled(tables or [next(read_split(home, "train")).slice(0, 0)], schema, seed)


def shuffled(tables: Sequence[pa.Table], schema: FeatureSchema, seed: int) -> RequestArrays:
    """Arrays of ``tables``, with the candidates of each request in random order.

    They are stored positives first, and a tree learner breaks ties by position.
    """
    arrays = to_arrays(pa.concat_tables(tables), len(schema.cross), len(REQUEST_NUMERIC))
    request = owners(arrays)
    order = np.lexsort((np.random.default_rng(seed).random(len(request)), request))
    return replace(
        arrays,
        candidates=arrays.candidates[order],
        x=arrays.x[order],
        labels=arrays.labels[order],
        weights=arrays.weights[order],
        log_q=arrays.log_q[order],
        teacher=arrays.teacher[order] if len(arrays.teacher) else arrays.teacher,
    )


def owners(arrays: RequestArrays) -> NDArray[np.int64]:
    """Request of each candidate, [N]."""
    return np.repeat(np.arange(len(arrays)), np.diff(arrays.offsets))


def expected_mrr(scores: NDArray[Any], arrays: RequestArrays) -> float:
    """Mean of ``expected_reciprocal_ranks``; NaN when no request has a positive."""
    return mean(expected_reciprocal_ranks(scores, arrays))


def expected_reciprocal_ranks(scores: NDArray[Any], arrays: RequestArrays) -> NDArray[np.float64]:
    """Of the ranking head's best positive among the whole catalogue, by request: float64 [B].

    Estimated from sampled candidates; where candidates were shown, log Q is 0 and it is exact. Ties
    count half. NaN for requests without a positive.
    """
    if not len(scores):
        return np.full(len(arrays), np.nan)
    request, starts = owners(arrays), arrays.offsets[:-1]
    positive = arrays.labels & 1 > 0
    best = np.maximum.reduceat(np.where(positive, scores, -np.inf), starts)
    stands_for = np.exp(-arrays.log_q.astype(np.float64))
    above = stands_for * (scores > best[request]) + 0.5 * stands_for * (scores == best[request])
    # The positive itself was counted as half a tie.
    ranks = 0.5 + np.add.reduceat(above, starts)
    return np.where(np.isfinite(best), 1.0 / ranks, np.nan)
