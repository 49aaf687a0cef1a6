"""A rolling origin: jobs as they would have been run in the past, on the training set's requests.

Training and validation requests are cut into eight blocks of time. At origin k a model learns from
what came before block k, is stopped and stacked on block k, and is measured on what follows, as a
job's is trained, stacked on validation and measured on test. The stored candidates are scored, each
counted 1 / Q times (``prerank.evaluation.baselines.samples``). The test split takes no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.schema import REQUEST_NUMERIC
from interactrank.model.interactrank import InteractRank
from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.dataset.examples import Order, read_split, split_sizes, to_arrays
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.baselines.samples import expected_reciprocal_ranks
from prerank.training.reader import Reader

BLOCKS, ORIGINS = 8, (3, 4, 5, 6)
SEED = 0


def blocks(total: int, first: int, last: int) -> NDArray[np.int64]:
    """Positions of the requests of blocks ``first`` to ``last``, of ``total`` in time order."""
    return np.arange(total * first // BLOCKS, total * min(last + 1, BLOCKS) // BLOCKS)


@dataclass(frozen=True)
class FoldBudget:
    """What a model gets at each origin.

    Attributes:
        train_requests: the newest of those before.
        validation_requests, measured_requests: seeded samples of their blocks.
        epochs: at most.
    """

    train_requests: int = 8_000
    validation_requests: int = 4_000
    measured_requests: int = 4_000
    epochs: int = 4


class OriginReader(Reader):
    """Reads what a model has at origin ``k``: what it learns from, and what it is stopped on."""

    def __init__(self, home: Home, k: int, budget: FoldBudget) -> None:
        super().__init__(home)
        total = _total(home)
        before, held = blocks(total, 0, k - 1), _drawn(total, k, budget.validation_requests)
        self.own = {
            "train": requests_at(home, before[-budget.train_requests :]),
            "validation": requests_at(home, held),
        }

    def tables(self, name: str, order: Order = iter) -> Iterator[pa.Table]:
        """Tables of the origin."""
        own = self.own[name]
        yield from (own[i] for i in order(range(len(own))))

    def sizes(self, name: str) -> list[int]:
        """Requests of each table of the origin."""
        return [len(table) for table in self.own[name]]


def reciprocal_ranks(
    home: Home, reader: Reader, model: InteractRank, k: int, budget: FoldBudget
) -> NDArray[np.float64]:
    """Of a model that learned at origin ``k``, for each measured request of block k + 1.

    Float64 [R], the same requests for every model; NaN for those without a positive.
    """
    found = []
    ranker = TorchRanker("origin", model, reader.catalogue)
    for table in requests_at(home, _drawn(_total(home), k + 1, budget.measured_requests)):
        arrays = to_arrays(table, len(reader.schema.cross), len(REQUEST_NUMERIC))
        found.append(expected_reciprocal_ranks(ranker.score(arrays, []), arrays))
    return np.concatenate(found)


def requests_at(home: Home, positions: NDArray[np.int64]) -> list[pa.Table]:
    """Requests of the training and validation splits, by position in time; only their files are
    read.

    Args:
        home: with a training set.
        positions: int64 [n], ascending.
    """
    found, start = [], 0
    for split in ("train", "validation"):
        ends = start + np.cumsum([0, *split_sizes(home, split)])
        asked = [
            positions[np.searchsorted(positions, low) : np.searchsorted(positions, high)] - low
            for low, high in pairwise(ends)
        ]
        wanted = [n for n, rows in enumerate(asked) if len(rows)]
        tables = read_split(home, split, partial(_these, wanted))
        found += [t.take(pa.array(asked[n])) for n, t in zip(wanted, tables, strict=True)]
        start = int(ends[-1])
    return found


def _these(wanted: Sequence[int], numbers: Sequence[int]) -> Sequence[int]:
    return [numbers[n] for n in wanted]


def _total(home: Home) -> int:
    """Requests of both splits.

    Raises:
        DataError: too few for blocks.
    """
    total = sum(sum(split_sizes(home, split)) for split in ("train", "validation"))
    if total < 2 * BLOCKS:
        raise DataError(
            f"the training set has {total} requests: too few for {BLOCKS} blocks of time. Give a "
            "longer log."
        )
    return total


def _drawn(total: int, block: int, limit: int) -> NDArray[np.int64]:
    """At most ``limit`` of a block's positions, in time order."""
    rows = blocks(total, block, block)
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(SEED).choice(rows, limit, replace=False))
