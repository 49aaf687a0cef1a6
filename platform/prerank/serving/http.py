"""The HTTP routes of a replica, without Ray: ``HttpApi.answer`` takes a request to its answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from prerank.core.errors import NotReadyError
from prerank.core.logs import HANDLING, Handling
from prerank.online.history import Event
from prerank.online.writer import Written
from prerank.serving import metrics
from prerank.serving.api import parse_events
from prerank.serving.config import ServeConfig
from prerank.serving.docs_page import docs_page
from prerank.serving.engine import Engine
from prerank.serving.guard import Guard, content_type, require
from prerank.serving.items import item_of
from prerank.serving.lane import Lane
from prerank.serving.metrics import Metrics
from prerank.serving.openapi import document
from prerank.serving.overload import Overload
from prerank.serving.problems import reason_of, refusal, refusal_of
from prerank.serving.ranking import Ranking, json_answer, now_us
from prerank.serving.request_ids import REQUEST_ID, as_header, id_of_header
from prerank.serving.routes import (
    ARROW,
    BATCH,
    EVENTS,
    OTHER,
    ROUTES,
    SCORING,
    Call,
    Route,
    at,
    find,
)
from prerank.serving.served_log import ServedLog
from prerank.serving.stages import Stages
from prerank.serving.tokens import Tokens
from prerank.serving.tracing import Tracing
from prerank.serving.variants import Variants

SHARDED_AT_ONCE = 4
"""Rankings of a replica whose shards work at the same time."""

logger = logging.getLogger(__name__)

_PAGE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""Nothing on a page is fetched or run."""


class HttpApi:
    """What the routes of ``ROUTES`` do, and what each may cost: work is done in a lane.

    ``metrics`` are counted up with each request; ``sample`` sets those that are gauges.

    Args:
        config: of the deployment.
        engine: that answers rankings.
        acknowledge: writes events and says what became of them.
        tracing: writes the spans of requests; None for none.
        log: where answers and events are written down; None for nowhere.
    """

    def __init__(
        self,
        config: ServeConfig,
        engine: Engine,
        acknowledge: Callable[[list[Event]], Awaitable[Written]],
        tracing: Tracing | None = None,
        log: ServedLog | None = None,
    ) -> None:
        self.config, self.engine, self._tracing, self._log = config, engine, tracing, log
        self.metrics = Metrics()
        self._acknowledge, self._histories_at = acknowledge, 0.0
        self._tokens = Tokens(config.token_file)
        self._guard = Guard(self._tokens, config.allowed_hosts, config.allowed_origins)
        places, seconds = config.max_waiting, config.body_seconds
        # A thread computes, unless it waits for the shards of the index.
        threads = SHARDED_AT_ONCE if config.shards > 1 else 1
        self._overload = Overload(config.timeout_ms, threads)
        self.variants = Variants(engine, self.metrics)
        self._ranking = Ranking(engine, self.metrics, self._overload, self.variants, log)
        self._handlers: dict[str, Callable[[Call], Awaitable[Response]]] = {
            route.name: getattr(self, route.name) for route in ROUTES
        }
        self._lanes = {
            SCORING: Lane(SCORING, places, seconds, threads),
            EVENTS: Lane(EVENTS, places, seconds),
        }

    async def answer(self, request: Request) -> Response:
        """Answer any route; whatever the caller did wrong is a 4xx that says so."""
        # Not request.url: that one is made with what the caller wrote into Host.
        there = at(ROUTES, request.scope["path"])
        handling = Handling(id_of_header(request.headers), there[0][0].name if there else OTHER)
        stages = Stages()
        begun = stages.begun
        context = HANDLING.set(handling)
        try:
            response = await self._route(request, there, handling, stages)
        except Exception as error:
            reason = reason_of(error)
            self.metrics.add(metrics.REFUSED, 1, handling.route, reason)
            # Never the error's text here: it may repeat what the caller sent.
            logger.info("refused: %s", reason)
            response = refusal_of(error)
        finally:
            HANDLING.reset(context)
        response.headers[REQUEST_ID] = as_header(handling.request_id)
        if self._tracing is not None:
            self._tracing.record(request.headers, handling, stages, begun, response.status_code)
        return response

    async def _route(
        self,
        request: Request,
        there: list[tuple[Route, str]],
        handling: Handling,
        stages: Stages,
    ) -> Response:
        token = None
        if all(route.scope for route, _ in there):
            token = self._guard.check(request.headers)
            handling.token = token.name if token else ""
        route, named = find(ROUTES, there, request.scope["path"], request.method)
        require(route.scope, token)
        handler = self._handlers[route.name]
        if not route.takes:
            return await handler(Call(request.headers, named, route=route.name))
        kind = content_type(request.headers, tuple(route.takes))
        handling.route = BATCH if kind == ARROW else route.name
        lane = self._lanes[route.lane]
        # A batch has no budget: each of its rows has one, from when its turn comes.
        is_timed = route.lane == SCORING and kind != ARROW
        if is_timed:
            self._overload.join(lane.line)
        async with lane.body(request) as body:
            ahead = lane.line
            if is_timed:
                self._overload.join(ahead)
            # What it waits in the lane from now on is of its budget, and of its latency.
            stages.restart()
            call = Call(
                request.headers,
                named,
                kind,
                body,
                dict(request.query_params),
                time.monotonic(),
                ahead,
                handling.route,
                stages,
            )
            return await handler(call)

    def sample(self) -> None:
        """Set the gauges to what they are now; looks at a file."""
        for lane in self._lanes.values():
            self.metrics.set(metrics.WAITING, lane.taken, lane.name)
        self.metrics.set(metrics.WAITING_LIMIT, self.config.max_waiting)
        if self._histories_at:
            age = time.monotonic() - self._histories_at
            self.metrics.set(metrics.HISTORY_FRESHNESS, age)
        self.metrics.set(metrics.MODEL_REFUSED, float(bool(self.engine.refused)))
        self.metrics.set(metrics.EXPERIMENT_REFUSED, float(bool(self.variants.refused)))
        if self._log is not None:
            for what, number in self._log.lost.items():
                self.metrics.set(metrics.LOG_LOST, number, what)
        try:
            loaded = self.engine.current()
        except NotReadyError:
            return
        version, schema = loaded.wanted.version, loaded.limits.schema.hash()
        self.metrics.tell(metrics.MODEL, version.number, version.run_id, schema)
        self.metrics.set(metrics.BREAKER, float(loaded.features.away))
        if (cutoff := loaded.features.cutoff_us()) is not None:
            self.metrics.set(metrics.FEATURE_FRESHNESS, (now_us() - cutoff) / 1e6)

    async def prerank(self, call: Call) -> Response:
        """Score candidates."""
        run, ranking = self._lanes[SCORING].run, self._ranking
        if call.kind != ARROW:
            return await run(ranking.prerank, call)
        limits = self.engine.limits()
        batch = await run(ranking.batch, call, limits)
        # One by one: requests of other callers take their turns in between.
        bodies = [await run(ranking.row, call, request, limits) for request in batch.requests]
        return await run(ranking.rows, call, batch, bodies)

    async def rerank(self, call: Call) -> Response:
        """Score documents, each of them an item."""
        return await self._lanes[SCORING].run(self._ranking.rerank, call)

    async def query(self, call: Call) -> Response:
        """The parts of a request's scores."""
        return await self._lanes[SCORING].run(self._ranking.query, call)

    async def item(self, call: Call) -> Response:
        """What is known of an item; two look-ups, for which nobody waits."""
        return json_answer(item_of(call.named, self.engine.current()))

    async def openapi(self, call: Call) -> Response:
        """What the routes take and answer, for programs."""
        return json_answer(self._document)

    async def docs(self, call: Call) -> Response:
        """The same for people."""
        return Response(self._docs, headers=_PAGE, media_type="text/html")

    async def events(self, call: Call) -> Response:
        """Take events back."""
        run = self._lanes[EVENTS].run
        events = await run(self._parsed, call.body)
        written = await self._acknowledge(events)
        if self._log is not None:
            await run(self._log.reported, call.body, events)
        if written.online and written.accepted > written.passive:
            self._histories_at = time.monotonic()
        self.metrics.add(metrics.EVENTS, written.accepted, str(written.online).lower())
        return json_answer(
            {
                "accepted": written.accepted,
                "passive": written.passive,
                "online": written.online,
            }
        )

    async def health(self, call: Call) -> Response:
        """What runs here."""
        # In a thread: it may look at files or at the store, and the event loop waits for nobody.
        found = await asyncio.to_thread(self.engine.health)
        waiting = {lane.name: lane.taken for lane in self._lanes.values()}
        problems = self._tokens.problem, self._log.problem if self._log else ""
        notes = [*found["notes"], *filter(None, problems), *self.variants.notes()]
        runs = {"experiment": self.variants.name, "variants": self.variants.versions()}
        return json_answer(found | {"notes": notes, "waiting": waiting} | runs)

    async def ready(self, call: Call) -> Response:
        """Whether requests are answered."""
        ready, wrong = self.engine.ready()
        if not ready:
            return refusal(503, "model", wrong)
        # Degraded answers beat none: a load balancer is not told to turn away.
        return json_answer({"ready": True} | ({"degraded": wrong} if wrong else {}))

    @cached_property
    def _document(self) -> dict[str, Any]:
        return document(ROUTES, self.config)

    @cached_property
    def _docs(self) -> str:
        return docs_page(self._document)

    def _parsed(self, body: bytes) -> list[Event]:
        return parse_events(body, self.engine.event_limits(), now_us())
