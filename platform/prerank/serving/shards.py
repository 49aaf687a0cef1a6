"""An index over several processes: each shard scores its own items, and the best are merged.

Row i of the index is an item of shard i mod N, so that each has as many old items as new ones. The
*front* is the replica that a caller reaches. It reads the features, computes the request's side of
the model and looks up the candidates, all as without shards; it has no use for item vectors. A
shard (``prerank.serving.shard``) gets the rows that are its own and answers with its best k; the
front itself scores the candidates that the index does not hold. A score depends on the request and
its own item alone, to the last digit, so what is merged is what one process would have answered.

A front loads a version in all shards before it serves it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs
from interactrank.model.query_side import QuerySide
from interactrank.model.scorer import Scored, Scorer
from prerank.core.errors import NotReadyError
from prerank.registry.bundle import Version
from prerank.serving.api import PrerankRequest
from prerank.serving.shard import NotLoadedError, Part, Task, part_of

LATE: Final = "late"
FAILED: Final = "failed"
VERSION: Final = "version"
Cause = Literal["late", "failed", "version"]

logger = logging.getLogger(__name__)


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
            strange = [part_of(scorer.score_found(side, inputs, found), k, request.explain)]
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
