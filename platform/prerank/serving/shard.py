"""One shard of an index: what it is asked, what it answers, and which versions it holds.

A request names the model version that it is to be scored with. A shard keeps the last two that it
has loaded, and those that a front or a request has named since: an experiment has several. One that
it has not, since it was started later, is loaded when a request asks for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs
from interactrank.features.item_vectors import ItemVectors
from interactrank.features.near import NO_SNAPSHOT
from interactrank.features.schema import FeatureSchema
from interactrank.model.query_side import QuerySide
from interactrank.model.scorer import Scored, Scorer
from prerank.core.errors import NotReadyError
from prerank.core.graphs import graph_file, read_vectors
from prerank.core.home import Home
from prerank.registry.bundle import Version, load_bundle
from prerank.registry.index import load_index, scorer_of
from prerank.registry.versions import servable

VERSIONS_KEPT = 2
NAMED_S = 600.0
"""A version that was named so lately, to be loaded or to score, stays loaded besides those."""

logger = logging.getLogger(__name__)


class NotLoadedError(NotReadyError):
    """A shard has not loaded the model version that a request names."""


@dataclass(frozen=True)
class Task:
    """What a shard is asked.

    Attributes:
        version: of the model that made ``side``.
        side: what the request alone decides.
        inputs: its rows and history.
        rows: int64 [n], of the shard's own items, distinct; None for all of them.
        given: float32 [n, R] by the caller.
        anchor: rank of the item that the user touched last, which another shard may hold.
        k: how many of the best are wanted.
        explain: with their cross features.
    """

    version: Version
    side: QuerySide
    inputs: FeatureInputs
    rows: NDArray[np.int64] | None
    given: NDArray[np.float32] | None
    anchor: float
    k: int
    explain: bool


@dataclass(frozen=True)
class Part:
    """The best of a shard, int64 and float32 [m]; ``x`` [m, X] is [0, X] if it was not asked for.

    ``non_finite`` counts over all that were scored.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    dots: NDArray[np.float32]
    cross_scores: NDArray[np.float32]
    x: NDArray[np.float32]
    non_finite: int


def best_of(
    scorer: Scorer, task: Task, snapshot: Callable[[FeatureSchema, int], ItemVectors]
) -> Part:
    """What a shard that holds the items of ``scorer`` answers.

    ``snapshot`` gives the vectors of a schema's item graph by their cutoff.
    """
    cutoffs = set(task.inputs.near_cutoffs.tolist()) - {NO_SNAPSHOT}
    inputs = _as_read(task.inputs, {at: snapshot(scorer.schema, at) for at in cutoffs})
    rows = None if task.rows is None else task.rows.copy()
    found = scorer.at_rows(inputs, rows, task.given, task.anchor)
    return part_of(scorer.score_found(task.side, inputs, found), task.k, task.explain)


def part_of(scored: Scored, k: int, explain: bool) -> Part:
    """The best ``k`` of what was scored."""
    top = scored.top(k)
    return Part(
        scored.ids[top],
        scored.scores[top],
        scored.dots[top],
        scored.cross_scores[top],
        scored.x(top if explain else top[:0]),
        scored.non_finite,
    )


def _as_read(inputs: FeatureInputs, snapshots: Mapping[int, ItemVectors]) -> FeatureInputs:
    """``inputs`` in memory that may be written, but for the rows, as the front has read them.

    What Ray hands over may not be written, and numba compiles each kernel anew for such an array.
    """
    arrays = {name: array.copy() for name, array in inputs.arrays().items()}
    return FeatureInputs.restored(arrays, snapshots)


class Shard:
    """The items of one shard, of the versions that are served. Safe to share by threads.

    Args:
        home: of the versions.
        shard: from 0. shards: how many there are.
        clock: seconds, from anywhere.
    """

    def __init__(
        self, home: Home, shard: int, shards: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._home, self._at = home, slice(shard, None, shards)
        self._name = f"shard {shard} of {shards}"
        self._lock, self._clock = threading.Lock(), clock
        self._loaded: dict[Version, Scorer] = {}
        self._named: dict[Version, float] = {}

    def load(self, version: Version) -> None:
        """Load a version, unless it is there.

        Raises:
            NotReadyError: it has no index, or cannot be fetched.
            StateError: it cannot be served.
        """
        with self._lock:
            self._named[version] = self._clock()
            if version in self._loaded:
                return
            self._home.look(self._home.feast, self._home.index)
            bundle = load_bundle(servable(self._home, version))
            index = load_index(self._home, version, bundle.digest)
            whole = scorer_of(bundle, index)
            lately = self._clock() - NAMED_S
            last = list(self._loaded)[1 - VERSIONS_KEPT :]
            kept = {
                one: scorer
                for one, scorer in self._loaded.items()
                if one in last or self._named[one] > lately
            }
            self._loaded = kept | {version: whole.part(self._at)}
        logger.info("%s has loaded model version %s", self._name, version)

    def score(self, task: Task) -> Part:
        """The best of its items.

        Raises:
            NotLoadedError: it has not the version that the task names.
        """
        scorer = self._loaded.get(task.version)
        if scorer is None:
            raise NotLoadedError(f"{self._name} has not loaded model version {task.version}")
        self._named[task.version] = self._clock()
        return best_of(scorer, task, self._snapshot)

    def _snapshot(self, schema: FeatureSchema, cutoff_us: int) -> ItemVectors:
        """Vectors of the item graph, which this node may have to fetch."""
        file = graph_file(self._home.features_of(schema.hash()), cutoff_us)
        if not file.exists():
            self._home.fetch(file.parent)
        return read_vectors(file)
