"""Shadow scoring: another version scores a request after its answer is on its way.

A thread of its own scores; requests wait in a queue, and none is accepted when that is full, so
that a shadow costs no caller more than the processor's time that it takes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from prerank.serving import metrics
from prerank.serving.answer import Answer
from prerank.serving.metrics import Metrics
from prerank.serving.request import PrerankRequest

WAITING = 16
"""Requests that wait for the shadow. Each holds its candidates."""

logger = logging.getLogger(__name__)


class Scores(Protocol):
    """Whoever scores in the shadow."""

    def answer(self, request: PrerankRequest) -> Answer:
        """Score a request."""


Done = Callable[[Answer], None]
Task = tuple[Scores, PrerankRequest, Answer, Done]


class Shadow:
    """Scores what it is offered, in a thread that begins with the first request.

    Args:
        metrics: that are counted up.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._waiting: queue.Queue[Task | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def offer(self, scorer: Scores, request: PrerankRequest, answer: Answer, done: Done) -> None:
        """Score ``request`` later, and call ``done`` with ``answer`` and what was found.

        Where too many wait, or scoring fails, it is counted and ``done`` is called without.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait((scorer, request, answer, done))
        except queue.Full:
            self._metrics.add(metrics.SHADOW_LOST, 1, "full")
            done(answer)

    def stop(self) -> None:
        """Score what waits, and end."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            scorer, request, answer, done = task
            try:
                answer = self._compared(scorer, request, answer)
            except Exception:
                # The thread must live on; the request has been answered.
                logger.exception("a shadow could not score")
                self._metrics.add(metrics.SHADOW_LOST, 1, "failed")
            done(answer)

    def _compared(self, scorer: Scores, request: PrerankRequest, answer: Answer) -> Answer:
        assert answer.trial is not None, "only what an experiment answered has a shadow"
        other = scorer.answer(replace(request, arrived=time.monotonic()))
        overlap, difference = compared(answer, other)
        variant = answer.trial.variant
        if overlap is not None:
            self._metrics.observe(metrics.SHADOW_OVERLAP, overlap, variant)
        if difference is not None:
            self._metrics.observe(metrics.SHADOW_DIFFERENCE, difference, variant)
        number = other.body["model_version"]
        trial = replace(answer.trial, compared=number, overlap=overlap, difference=difference)
        return replace(answer, trial=trial)


def compared(answer: Answer, other: Answer) -> tuple[float | None, float | None]:
    """How alike two answers to one request are.

    Returns:
        Share of the items of ``other`` that are in ``answer``, and the mean absolute difference of
        the scores of those. None where there is nothing to compare.
    """
    if not len(other.ids):
        return None, None
    _, own, others = np.intersect1d(answer.ids, other.ids, return_indices=True)
    scores = [[item["score"] for item in each.body["items"]] for each in (answer, other)]
    mine, theirs = (np.array(each, np.float64) for each in scores)
    apart = np.abs(mine[own] - theirs[others])
    apart = apart[np.isfinite(apart)]
    return len(own) / len(other.ids), float(apart.mean()) if len(apart) else None
