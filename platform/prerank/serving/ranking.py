"""The work of a lane's thread for rankings: read, score, write the answer, and measure it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
from starlette.responses import Response

from prerank.core.errors import NotReadyError
from prerank.core.logs import HANDLING
from prerank.serving.answer import Answer
from prerank.serving.api import Limits, PrerankRequest, parse_json, parse_raw
from prerank.serving.batch import Batch, parse_batch
from prerank.serving.engine import Engine
from prerank.serving.experiment import TOLD
from prerank.serving.metrics import NS_PER_MS, Metrics
from prerank.serving.overload import Overload
from prerank.serving.query import parse_query
from prerank.serving.rerank import USER_HEADER, parse_rerank
from prerank.serving.routes import ARROW, JSON, RAW, Call
from prerank.serving.served_log import ServedLog
from prerank.serving.stages import PARSE, ROWS, SERIALISE, WAIT, Stages
from prerank.serving.variants import Variants

Body = dict[str, Any]


class Ranking:
    """Answers rankings in the thread that calls.

    Args:
        engine: that scores.
        metrics: that are counted up.
        overload: refuses those whose budgets do not last.
        variants: answer what an experiment is made of.
        log: where answers are written down; None for nowhere.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        overload: Overload,
        variants: Variants,
        log: ServedLog | None = None,
    ) -> None:
        self.engine, self.metrics, self._overload, self._log = engine, metrics, overload, log
        self._variants = variants

    def prerank(self, call: Call) -> Response:
        """The best k of the candidates."""
        self._begin(call)
        limits, now = self.engine.limits(), now_us()
        wanted: PrerankRequest = (
            parse_raw(call.body, call.fields, limits, now)
            if call.kind == RAW
            else parse_json(call.body, limits, now)
        )
        return self._told(call, wanted, limits, lambda body: body)

    def rerank(self, call: Call) -> Response:
        """Documents, the most relevant one first."""
        self._begin(call)
        user = call.headers.get(USER_HEADER)
        limits = self.engine.limits()
        wanted = parse_rerank(call.body, user, limits, now_us())
        return self._told(call, wanted.request, limits, wanted.answer)

    def query(self, call: Call) -> Response:
        """The parts of a request's scores."""
        self._begin(call)
        limits = self.engine.limits()
        wanted = parse_query(call.body, limits, now_us())
        self._parsed(call, wanted.request)
        timed = replace(wanted.request, arrived=call.arrived)
        answer = self._variants.query(replace(wanted, request=timed))
        response = self._answered(call, answer, answer.body)
        if answer.trial is not None:
            # The caller ranks: what was shown is not known here.
            unranked = replace(answer, body=answer.body | {"items": []})
            self._written_down(wanted.request, unranked, limits, call.stages)
        return response

    def batch(self, call: Call, limits: Limits) -> Batch:
        """The requests of a batch, which are then answered one by one."""
        call.stages.end(WAIT)
        batch = parse_batch(call.body, limits, now_us())
        call.stages.end(PARSE)
        return batch

    def row(self, call: Call, wanted: PrerankRequest, limits: Limits) -> Body:
        """The body of the answer to a request of a batch that was read with ``limits``.

        Raises:
            NotReadyError: another version is served since.
        """
        if handling := HANDLING.get():
            # In the row's own copy of the context: its lines of the log have the row's id.
            HANDLING.set(replace(handling, request_id=wanted.request_id))
        if self.engine.limits() is not limits:
            raise NotReadyError("another model version came during the batch; send it again")
        stages = Stages()
        answer = self._variants.answer(replace(wanted, arrived=time.monotonic()))
        stages.add(answer.ends)
        self._finished(wanted, answer, limits, stages)
        self.metrics.answered(call.route, answer)
        self.metrics.staged(call.route, stages)
        self._overload.served(stages, answer.read.degraded)
        return answer.body

    def rows(self, call: Call, batch: Batch, bodies: Sequence[Body]) -> Response:
        """The answer to a batch.

        Raises:
            NotReadyError: not all rows of a variant were scored with one model version.
        """
        if several_versions(bodies):
            raise NotReadyError("another model version came during the batch; send it again")
        call.stages.end(ROWS)
        response = Response(batch.answer(bodies), media_type=ARROW)
        call.stages.end(SERIALISE)
        self.metrics.finished(call.route, call.stages)
        return response

    def _told(
        self, call: Call, wanted: PrerankRequest, limits: Limits, tell: Callable[[Body], Body]
    ) -> Response:
        """The answer to a request that was read with ``limits``, in the form of ``tell``."""
        self._parsed(call, wanted)
        answer = self._variants.answer(replace(wanted, arrived=call.arrived))
        response = self._answered(call, answer, tell(answer.body))
        self._finished(wanted, answer, limits, call.stages)
        return response

    def _finished(
        self, wanted: PrerankRequest, answer: Answer, limits: Limits, stages: Stages
    ) -> None:
        """Write an answer down, with what a shadow makes of its request."""

        def done(found: Answer) -> None:
            self._written_down(wanted, found, limits, stages)

        self._variants.finish(wanted, answer, done)

    def _written_down(
        self, wanted: PrerankRequest, answer: Answer, limits: Limits, stages: Stages
    ) -> None:
        if self._log is not None:
            timed = replace(answer, latency_ms=stages.whole_ns / NS_PER_MS)
            self._log.answered(wanted, timed, limits.schema.given)

    def _begin(self, call: Call) -> None:
        """Its turn has come."""
        call.stages.end(WAIT)
        self._overload.turn(call.arrived, call.ahead)

    def _parsed(self, call: Call, wanted: PrerankRequest) -> None:
        """What it wants is known, and whether it wants it sooner than others do."""
        call.stages.end(PARSE)
        if wanted.timeout_ms < self._overload.budget_ms:
            self._overload.turn(call.arrived, call.ahead, wanted.timeout_ms)

    def _answered(self, call: Call, answer: Answer, body: Body) -> Response:
        """Write ``body``, and measure the whole."""
        call.stages.add(answer.ends)
        response = json_answer(body)
        call.stages.end(SERIALISE)
        self.metrics.answered(call.route, answer)
        self.metrics.finished(call.route, call.stages)
        self._overload.served(call.stages, answer.read.degraded)
        return response


def several_versions(bodies: Iterable[Mapping[str, Any]]) -> bool:
    """Whether answers of one variant, given by itself or in its place, are of several versions."""
    versions: dict[tuple[Any, ...], str] = {}
    return any(
        versions.setdefault(tuple(map(body.get, TOLD)), body["model_version"])
        != body["model_version"]
        for body in bodies
    )


def now_us() -> int:
    """The wall clock, microseconds since 1970."""
    return time.time_ns() // 1000


def json_answer(data: Body) -> Response:
    """An answer of status 200."""
    return Response(orjson.dumps(data), media_type=JSON)
