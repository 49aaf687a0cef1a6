"""The variants of a replica: versions that are followed beside the champion, and who answers what.

Each version that an experiment names has an ``Engine`` of its own, which follows, checks and loads
it as the champion is. An experiment begins on a replica when each of its versions has been tried;
until then the one before goes on. One that is wrong is refused, and the one before stays.

Where a variant's version is not there, was refused, or fails, the champion answers in its place:
the answer says so (``fallback``), it is counted, and ``/health`` has the reason.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from prerank.core.errors import NotReadyError, PrerankError
from prerank.online.reader import OnlineRead
from prerank.registry import versions as registry
from prerank.serving import metrics
from prerank.serving.answer import Answer
from prerank.serving.engine import Engine
from prerank.serving.experiment import (
    AB,
    INTERLEAVE,
    SHADOW,
    Experiment,
    Trial,
    Variant,
    experiment_of,
)
from prerank.serving.fields import RequestError
from prerank.serving.followed import Followed, Named
from prerank.serving.interleaving import team_draft
from prerank.serving.metrics import Metrics
from prerank.serving.query import Query, query_answer
from prerank.serving.request import PrerankRequest
from prerank.serving.retrieved import RETRIEVER, Retrieved
from prerank.serving.shadow import Shadow

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """An experiment that runs, and its versions as ``Variant.version`` has them. Never changed."""

    experiment: Experiment
    followed: Mapping[str, Followed]

    def of(self, variant: Variant) -> Followed:
        """Who answers for a variant."""
        return self.followed[str(variant.version)]


class Variants:
    """Answers requests by the experiment that runs; with the champion where none does.

    Args:
        engine: of the champion.
        metrics: that are counted up.
        make: an engine that follows what it is given, before it is started.

    Attributes:
        refused: why the ``user_config`` given last is not followed; empty where it is.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, make: Callable[[Named], Engine] | None = None
    ) -> None:
        self._engine, self._metrics = engine, metrics
        self._make = make or (lambda named: Engine(engine.config, engine.shards, named))
        self._running: Running | None = None
        self._shadow = Shadow(metrics)
        self._given, self._lock = 0, threading.Lock()
        self.refused = ""

    def follow(self, user_config: Any) -> threading.Thread:
        """Run the experiment of a ``user_config`` from when its versions were tried, or none.

        Whatever is wrong with it leaves the experiment of before.

        Returns:
            The thread that does so.
        """
        self._given += 1
        thread = threading.Thread(
            target=self._follow, args=(user_config, self._given), name="experiment", daemon=True
        )
        thread.start()
        return thread

    def _follow(self, user_config: Any, given: int) -> None:
        with self._lock:
            if given != self._given:
                return
            try:
                experiment = experiment_of(user_config)
            except PrerankError as error:
                goes_on = f"; {self.name} goes on" if self.name else ""
                self.refused = f"the experiment is refused{goes_on}: {error}"
                logger.error(self.refused)
                return
            before = dict(self._running.followed) if self._running else {}
            wanted = {str(v.version) for v in experiment.variants} if experiment else set()
            followed = {one: before.get(one) or self._begun(one) for one in wanted}
            self._running = Running(experiment, followed) if experiment else None
            self.refused = ""
            for one in before.keys() - wanted:
                before[one].stop()
            logger.info("experiment: %s", self.name or "none")

    def _begun(self, version: str) -> Followed:
        if version == registry.CHAMPION:
            return Followed(self._engine)
        if version == RETRIEVER:
            return Followed(Retrieved(self._engine))
        named = Named(version)
        engine = self._make(named)
        engine.start()
        return Followed(engine, engine, named)

    @property
    def name(self) -> str | None:
        """Of the experiment that runs; None where none does."""
        return self._running.experiment.name if self._running else None

    def versions(self) -> dict[str, str | None]:
        """Which version each variant's ranking is of by now; None where that is not loaded."""
        if (running := self._running) is None:
            return {}
        champion, found = self._engine.model_version, {}
        for variant in running.experiment.variants:
            engine = running.of(variant).engine
            own = RETRIEVER if variant.version == RETRIEVER else champion
            found[variant.name] = engine.model_version if engine else own
        return found

    def notes(self) -> list[str]:
        """What is wrong, in words."""
        found = [self.refused] if self.refused else []
        if (running := self._running) is None:
            return found
        try:
            limits = self._engine.limits()
        except NotReadyError:
            return found
        problems = ((v, running.of(v).problem(limits)) for v in running.experiment.variants)
        return found + [
            f"variant {variant.name} (version {variant.version}) is answered by the champion: "
            f"{problem}"
            for variant, problem in problems
            if problem
        ]

    def answer(self, request: PrerankRequest) -> Answer:
        """Score a request as its variant does.

        Raises:
            NotReadyError: no champion is loaded.
        """
        running = self._running
        if running is None:
            return self._engine.answer(request)
        experiment = running.experiment
        control, drawn = experiment.variants[0], _drawn(experiment, request)
        first = drawn if experiment.mode == AB else control
        answer, fallback = self._scored(running.of(first), request)
        trial = Trial(experiment, drawn.name, fallback)
        if experiment.mode == INTERLEAVE and drawn is not control:
            answer, trial = self._interleaved(running.of(drawn), request, answer, trial)
        return self._tried(answer, trial)

    def query(self, wanted: Query) -> Answer:
        """The parts of a request's scores, of its variant's version if the caller has its vectors.

        Of a caller that does not say which vectors it has, they are the champion's and of no
        experiment. So they are while rankings are interleaved or scored in the shadow, since parts
        are no ranking.

        Raises:
            NotReadyError: no champion is loaded.
        """
        running, request = self._running, wanted.request
        if running is None or running.experiment.mode != AB or not wanted.versions:
            return query_answer(request, self._engine.current())
        drawn = _drawn(running.experiment, request)
        answer = self._parts(running.of(drawn), wanted)
        trial = Trial(running.experiment, drawn.name, fallback=answer is None)
        return self._tried(answer or query_answer(request, self._engine.current()), trial)

    def _tried(self, answer: Answer, trial: Trial) -> Answer:
        """``answer`` as that of an experiment."""
        self._metrics.add(metrics.VARIANT, 1, trial.variant, str(trial.fallback).lower())
        return replace(answer, body=answer.body | trial.told(), trial=trial)

    def finish(
        self, request: PrerankRequest, answer: Answer, done: Callable[[Answer], None]
    ) -> None:
        """Once ``answer`` is on its way: let the shadow score, where one is drawn.

        Args:
            request: that was answered.
            answer: as ``self.answer`` gave it.
            done: is called with the answer, and with what the shadow found where it did: at once,
                or in the shadow's thread.
        """
        running, trial = self._running, answer.trial
        if running is None or trial is None or trial.experiment is not running.experiment:
            return done(answer)
        experiment = running.experiment
        drawn = next(v for v in experiment.variants if v.name == trial.variant)
        if experiment.mode != SHADOW or drawn is experiment.variants[0]:
            return done(answer)
        followed = running.of(drawn)
        if followed.problem(self._engine.limits()):
            self._metrics.add(metrics.SHADOW_LOST, 1, "not_served")
            return done(answer)
        self._shadow.offer(followed.scores, request, answer, done)

    def _scored(self, followed: Followed, request: PrerankRequest) -> tuple[Answer, bool]:
        """The answer of a version, or the champion's in its place; and whether it is that."""
        answer = self._own(followed, lambda: followed.scores.answer(request))
        return (self._engine.answer(request), True) if answer is None else (answer, False)

    def _parts(self, followed: Followed, wanted: Query) -> Answer | None:
        """The parts of a version; None where it has none that the caller has a use for."""
        engine = followed.scores
        if not isinstance(engine, Engine):  # the caller's order
            return None

        def work() -> Answer | None:
            loaded = engine.current()
            held = engine is self._engine or loaded.wanted.version.number in wanted.versions
            return query_answer(wanted.request, loaded) if held else None

        return self._own(followed, work)

    def _own(self, followed: Followed, work: Callable[[], T]) -> T | None:
        """What a variant's version makes of a request; None where it cannot answer."""
        if followed.named is None:
            return work()
        if not followed.problem(self._engine.limits()):
            try:
                return work()
            except RequestError:
                raise
            except Exception:
                # Whatever it is, the champion does without.
                logger.exception("a variant's version failed; the champion answers")
        return None

    def _interleaved(
        self, other: Followed, request: PrerankRequest, answer: Answer, trial: Trial
    ) -> tuple[Answer, Trial]:
        """``answer``, the control's, merged with the ranking of another variant."""
        second, fallback = self._scored(other, request)
        if fallback or trial.fallback:
            return answer, replace(trial, fallback=True)
        seed = trial.experiment.seed(request.request_id)
        drafted = team_draft(answer.ids.tolist(), second.ids.tolist(), request.k, seed)
        both = answer, second
        items = [both[team].body["items"][at] for team, at in drafted]
        ids = np.array([both[team].ids[at] for team, at in drafted], np.int64)
        degraded = tuple(dict.fromkeys((*answer.read.degraded, *second.read.degraded)))
        read: OnlineRead = replace(answer.read, degraded=degraded)
        body = answer.body | {"items": items, "degraded": list(degraded)}
        missing = tuple(dict.fromkeys((*answer.missing, *second.missing)))
        if missing:
            body["missing_shards"] = [asdict(shard) for shard in missing]
        ends = (*answer.ends, *second.ends)
        merged = replace(answer, body=body, read=read, ids=ids, ends=ends, missing=missing)
        teams = [team for team, _ in drafted]
        return merged, replace(trial, compared=second.body["model_version"], teams=teams)

    def stop(self) -> None:
        """End what follows and what scores in the background."""
        self._shadow.stop()
        if self._running is not None:
            for followed in self._running.followed.values():
                followed.stop()


def _drawn(experiment: Experiment, request: PrerankRequest) -> Variant:
    return experiment.variants[experiment.draw(request.user_id, request.request_id)]
