"""An index over several processes: each shard scores its own items, and the best are merged.

Row i of the index is an item of shard i mod N, so that each has as many old items as new ones. The
*front* is the replica that a caller reaches. It reads the features, computes the request's side of
the model and looks up the candidates, all as without shards; it has no use for item vectors. A
shard gets the rows that are its own and answers with its best k; the front itself scores the
candidates that the index does not hold. A score depends on the request and its own item alone, to
the last digit, so what is merged is what one process would have answered.

A request names the model version that it is to be scored with. A shard keeps the last two that it
was asked to load, and those that requests still name: an experiment has several. A front loads a
version in all shards before it serves it. One that a shard has not, since it was started later, is
loaded when a request asks for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

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
from prerank.serving.api import PrerankRequest

VERSIONS_KEPT = 2
NAMED_S = 600.0
"""A version that a request named so lately stays loaded besides those."""
LATE: Final = "late"
FAILED: Final = "failed"
VERSION: Final = "version"
Cause = Literal["late", "failed", "version"]

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
    return _part(scorer.score_found(task.side, inputs, found), task.k, task.explain)


def _part(scored: Scored, k: int, explain: bool) -> Part:
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
                if one in last or self._named.get(one, lately) > lately
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


class Pending(Protocol):
    """An answer of a shard that is on its way."""

    def result(self, *, timeout_s: float) -> Part:
        """The answer; TimeoutError where it is not there in time."""

    def cancel(self) -> object:
        """Nobody waits for it any more."""


@dataclass(frozen=True)
class Missing:
    """A shard that did not answer, why, and the share of the index's items that are its own."""

    shard: int
    cause: Cause
    share: float


@dataclass(frozen=True)
class Gathered(Scored):
    """The best of all shards as if one process had scored them.

    ``broken`` counts non-finite scores of all candidates; ``missing`` are shards without an answer.
    """

    broken: int
    missing: tuple[Missing, ...]

    @property
    def non_finite(self) -> int:
        """How many scores are NaN or infinite."""
        return self.broken


class Shards:
    """The front's side of the shards.

    Args:
        ask: of each shard: sends a task.
        load: has every replica of every shard load a version, and returns when all have it; raises
            NotReadyError where one does not.
        timeout_s: in which a shard must answer a request, from when it is asked.
    """

    def __init__(
        self,
        ask: Sequence[Callable[[Task], Pending]],
        load: Callable[[Version], None],
        timeout_s: float,
    ) -> None:
        self._ask, self.load, self._timeout_s = ask, load, timeout_s

    def score(
        self,
        version: Version,
        scorer: Scorer,
        request: PrerankRequest,
        inputs: FeatureInputs,
        k: int,
    ) -> Gathered:
        """The best ``k`` candidates of ``request``; ``scorer`` is the front's own, of ``version``.

        Raises:
            NotReadyError: no shard answered.
            RowError, HistoryError: of ``inputs``.
        """
        side, n = scorer.query_side(request.query, inputs, request.weights), len(self._ask)
        rows = None if request.whole else scorer.table.rows(request.keys)
        given, pending, parts, missing = request.retriever_features, {}, list[Part](), []
        anchor = scorer.anchor(inputs, request.keys, given)
        until = time.monotonic() + self._timeout_s
        # Vectors of items are not sent: a shard maps its node's.
        sent = replace(inputs, snapshots={})
        for shard, ask in enumerate(self._ask):
            own, told = None, None
            if rows is not None:
                mine = (rows >= 0) & (rows % n == shard)
                if not mine.any():
                    continue
                own, told = rows[mine] // n, None if given is None else given[mine]
            task = Task(version, side, sent, own, told, anchor, k, request.explain)
            pending[shard] = _sent(ask, task)
        unknown, strange = request.keys[:0], list[Part]()
        if rows is not None and (at := rows < 0).any():
            # While the shards are at work.
            unknown = request.keys[at]
            told = None if given is None else given[at]
            found = scorer.find(inputs, unknown, told, anchor)
            strange = [_part(scorer.score_found(side, inputs, found), k, request.explain)]
        for shard, answer in pending.items():
            try:
                parts.append(_answered(answer, until))
            except Exception as error:
                share = len(range(shard, len(scorer.items.ids), n)) / len(scorer.items.ids)
                missing.append(Missing(shard, _cause(shard, error), share))
        if missing and not parts:
            raise NotReadyError(
                f"no shard of the index answered ({missing[0].cause}). Send the request again."
            )
        return _gathered(scorer, side, unknown, [*parts, *strange], tuple(missing))


def _sent(ask: Callable[[Task], Pending], task: Task) -> Pending | Exception:
    try:
        return ask(task)
    except Exception as error:
        # The other shards are asked all the same.
        return error


def _answered(answer: Pending | Exception, until: float) -> Part:
    if isinstance(answer, Exception):
        raise answer
    try:
        return answer.result(timeout_s=max(until - time.monotonic(), 0.0))
    except TimeoutError:
        answer.cancel()
        raise


def _cause(shard: int, error: Exception) -> Cause:
    """Why a shard is missing: one of a few words."""
    if isinstance(error, NotLoadedError):
        return VERSION
    if isinstance(error, TimeoutError):
        return LATE
    logger.error("shard %d failed", shard, exc_info=error)
    return FAILED


def _gathered(
    scorer: Scorer,
    side: QuerySide,
    unknown: NDArray[np.int64],
    parts: Sequence[Part],
    missing: tuple[Missing, ...],
) -> Gathered:
    none, floats = np.zeros(0, np.int64), np.zeros(0, np.float32)
    x = np.concatenate((np.zeros((0, len(scorer.schema.cross)), np.float32), *(p.x for p in parts)))
    return Gathered(
        ids=np.concatenate((none, *(p.ids for p in parts))),
        scores=np.concatenate((floats, *(p.scores for p in parts))),
        dots=np.concatenate((floats, *(p.dots for p in parts))),
        cross_scores=np.concatenate((floats, *(p.cross_scores for p in parts))),
        unknown=unknown,
        scale=side.scale,
        constant=side.constant,
        x=x.__getitem__,
        request=side.request,
        broken=sum(p.non_finite for p in parts),
        missing=missing,
    )
