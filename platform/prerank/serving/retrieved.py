"""The order of the caller's candidates as a variant: what there was before there was a pre-ranker.

A variant with ``version: retriever`` answers with the candidates as they were sent, the first one
best, whatever made that order: BM25, say. All else is the champion's: what is read online and
written down, exclusions, limits.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import REQUEST_NUMERIC
from interactrank.model.scorer import Scored, Scorer
from prerank.registry.bundle import Version
from prerank.registry.versions import Wanted
from prerank.serving.answer import Answer, answer
from prerank.serving.engine import Engine
from prerank.serving.fields import Limits
from prerank.serving.request import PrerankRequest

RETRIEVER = "retriever"
"""The version's name, in the Serve file and in answers."""


class InOrder:
    """Scores candidates 0, -1, -2, … in the order in which they stand.

    Attributes:
        model, table: the champion's.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.model, self.table = scorer.model, scorer.table

    def score(
        self, query: str, inputs: FeatureInputs, keys: NDArray[np.int64] | None, *_: Any
    ) -> Scored:
        """As ``Scorer.score``; without candidates, the index in its own order."""
        ids = self.table.ids if keys is None else keys
        scores, nothing = -np.arange(len(ids), dtype=np.float32), np.zeros(len(ids), np.float32)
        width = len(self.model.schema.cross)

        def x(positions: NDArray[np.int64]) -> NDArray[np.float32]:
            return np.zeros((len(positions), width), np.float32)

        unknown, request = np.zeros(0, np.int64), np.zeros(len(REQUEST_NUMERIC), np.float32)
        return Scored(ids, scores, nothing, scores, unknown, 1.0, 0.0, x, request)


class Retrieved:
    """Answers in the caller's order, beside the champion of ``engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def limits(self) -> Limits:
        """What a request may hold: as for the champion."""
        return self._engine.limits()

    def answer(self, request: PrerankRequest) -> Answer:
        """Answer with the candidates as they stand.

        Raises:
            NotReadyError: no champion is loaded.
        """
        loaded = self._engine.current()
        return answer(
            request,
            dataclasses.replace(
                loaded,
                wanted=Wanted(RETRIEVER, Version(RETRIEVER, "")),
                scorer=cast(Scorer, InOrder(loaded.scorer)),
                shards=None,
            ),
        )
