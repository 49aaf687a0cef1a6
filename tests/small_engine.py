"""A replica's engine whose scores and store are made up: real requests, real answers, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tests import samples
from tests.api_bodies import WALL
from tests.http_calls import NoEngine
from tests.plain_requests import Request, as_inputs

from interactrank.model.scorer import Scored, Scorer
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.registry.bundle import Version
from prerank.registry.versions import Wanted
from prerank.serving.answer import Answer, Loaded, answer
from prerank.serving.api import Limits, PrerankRequest

SAMPLE = replace(WALL, schema=samples.SCHEMA, max_candidates=200)
"""Limits of a deployment whose log has segments and whose retriever told scores and ranks."""


class EmptyStore:
    """No user has a history, no key has a row; remembers whom it was asked for.

    Attributes:
        away: whether it is known not to answer.
        degraded: what each read lacks.
        cutoff: of its snapshot, microseconds since 1970.
    """

    def __init__(self) -> None:
        self.users: list[str] = []
        self.away, self.degraded = False, tuple[str, ...]()
        self.cutoff: int | None = None

    def read(self, query: str, user_id: str, *_: Any) -> OnlineRead:
        self.users.append(user_id)
        return OnlineRead(as_inputs([Request()]), 2, 3_000, self.cutoff, self.degraded)

    def cutoff_us(self) -> int | None:
        return self.cutoff


UNKNOWN_SCORE = -9.0


@dataclass
class GivenScores:
    """Knows the items of ``scores`` (key -> score); every other has UNKNOWN_SCORE."""

    scores: Mapping[int, float]
    model: Any = field(default=None)

    def score(self, query: str, inputs: Any, candidates: NDArray[np.int64], *_: Any) -> Scored:
        unknown = candidates[~np.isin(candidates, list(self.scores))]
        found = [self.scores.get(i, UNKNOWN_SCORE) for i in candidates.tolist()]
        scores = np.array(found, np.float32)

        def x(at: NDArray[np.int64]) -> NDArray[np.float32]:
            return np.zeros((len(at), 0), np.float32)

        none = np.zeros(0, np.float32)
        return Scored(candidates, scores, scores, scores, unknown, 1.0, 0.0, x, none)


@cache
def sample_scorer() -> Scorer:
    """A model of tests/samples.py with its items 1000 to 1029."""
    model = samples.new_model(samples.SHIPPED)
    with torch.no_grad():
        vectors = samples.item_vectors(model, samples.CATALOGUE)[1:].to(torch.bfloat16)
    scorer = Scorer(model, samples.CATALOGUE, samples.CATALOGUE.ids, vectors)
    # Kernels are compiled here, and in no caller's time-out.
    weights = np.eye(1, len(samples.SCHEMA.heads), dtype=np.float32)[0]
    scorer.score("red", as_inputs([Request()]), samples.CATALOGUE.ids, weights).top(1)
    return scorer


class SmallEngine(NoEngine):
    """Answers with ``scorer``, from an empty store."""

    def __init__(self, limits: Limits, scorer: Any) -> None:
        super().__init__(limits)
        self.store = EmptyStore()
        self.loaded = Loaded(
            Wanted("champion", Version("1", "run")),
            cast(Scorer, scorer),
            limits,
            cast(OnlineFeatures, self.store),
        )

    def current(self) -> Loaded:
        return self.loaded

    def answer(self, request: PrerankRequest) -> Answer:
        return answer(request, self.loaded)
