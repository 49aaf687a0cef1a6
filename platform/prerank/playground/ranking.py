"""One search as a ranker orders it: a model version, or a baseline that needs no fitting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import FeatureSchema
from interactrank.model.top_k import best
from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.core.times import iso
from prerank.dataset.catalogue import load_catalogue, load_titles
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.simple import Bm25Ranker, ColumnRanker
from prerank.serving.answer import Loaded, answer, sound
from prerank.serving.api import PrerankRequest

COLUMNS = {"popularity": "a:engage:all", "iqp": "q:engage:all"}
"""Baselines that are one cross feature."""
BASELINES = {
    "bm25": "BM25 of the query against the titles",
    "popularity": "what is engaged with most, whatever the query",
    "iqp": "what searchers of this very query engaged with",
}


@dataclass(frozen=True)
class Ranked:
    """Candidates in a ranker's order.

    Attributes:
        keys: int64 [n], the best first; scores: float32 [n].
        unknown: how many of them the index does not hold.
        degraded: which features were missing.
        snapshot_cutoff: of the counts that were read, ISO 8601.
        version: number of the model version; of a baseline, of that whose features it read.
    """

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    unknown: int
    degraded: tuple[str, ...]
    snapshot_cutoff: str | None
    version: str


class Baselines:
    """The baselines of one log. BM25's index is made when it is first asked for.

    Args:
        home: that was ingested.
    """

    def __init__(self, home: Home) -> None:
        self._home = home.pin()
        self._lock = threading.Lock()
        self._bm25: Bm25Ranker | None = None

    def ranker(self, name: str, schema: FeatureSchema) -> Ranker:
        """The baseline of a name of ``BASELINES``.

        Raises:
            NotReadyError: BM25 is not installed.
        """
        if name in COLUMNS:
            return ColumnRanker(name, schema, COLUMNS[name])
        with self._lock:
            if self._bm25 is None:
                try:
                    catalogue, titles = load_catalogue(self._home), load_titles(self._home)
                    self._bm25 = Bm25Ranker.fit(catalogue, titles)
                except ModuleNotFoundError as error:
                    raise NotReadyError(
                        f"BM25 needs the package {error.name}, which is not installed here: "
                        "pip install 'interactrank-platform[train]'"
                    ) from None
            return self._bm25


def by_version(request: PrerankRequest, loaded: Loaded) -> Ranked:
    """The order of a model version, as a replica that serves it answers."""
    found = answer(replace(request, k=_all(request, loaded)), loaded)
    scores = np.array([item["score"] for item in found.body["items"]], np.float32)
    return Ranked(
        found.ids,
        scores,
        found.unknown,
        tuple(found.body["degraded"]),
        found.body["snapshot_cutoff"],
        loaded.wanted.version.number,
    )


def by_baseline(request: PrerankRequest, ranker: Ranker, loaded: Loaded) -> Ranked:
    """The order of a baseline, from the features that ``loaded`` reads."""
    read = loaded.features.read(
        request.query, request.user_id, request.time_us, request.context, request.deadline
    )
    work: Callable[[FeatureInputs], Any] = partial(_baseline_scores, request, ranker, loaded)
    (ids, scores), read = sound(read, work)
    top = best(scores, ids, len(ids))
    return Ranked(
        ids[top],
        scores[top],
        int((loaded.scorer.table.rows(ids) < 0).sum()),
        read.degraded,
        iso(read.cutoff_us),
        loaded.wanted.version.number,
    )


def _baseline_scores(
    request: PrerankRequest, ranker: Ranker, loaded: Loaded, inputs: FeatureInputs
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    keys = None if request.whole else request.keys
    found = loaded.scorer.find(inputs, keys, request.retriever_features)
    n = len(found.ids)
    arrays = RequestArrays.of(
        loaded.limits.schema,
        [request.query],
        inputs,
        candidates=found.ids,
        offsets=np.array([0, n]),
        x=found.x(np.arange(n)),
        labels=np.zeros(n, np.int64),
    )
    return found.ids, ranker.score(arrays, [request.query])


def _all(request: PrerankRequest, loaded: Loaded) -> int:
    """K of a request that wants every candidate's place."""
    return max(len(loaded.scorer.table) if request.whole else len(request.keys), 1)
