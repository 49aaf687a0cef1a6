"""The HTTP routes of a replica, without Ray: ``HttpApi.answer`` takes a request to its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from prerank.core.errors import NotReadyError
from prerank.online.history import Event
from prerank.online.writer import Written
from prerank.serving import answer_models, request_models
from prerank.serving.answer import Answer
from prerank.serving.api import Limits, PrerankRequest, parse_events, parse_json, parse_raw
from prerank.serving.batch import COLUMNS, parse_batch
from prerank.serving.docs_page import docs_page
from prerank.serving.engine import Engine, ServeConfig
from prerank.serving.guard import Guard, content_type, token_of
from prerank.serving.items import item_of
from prerank.serving.lane import Lane
from prerank.serving.openapi import document
from prerank.serving.problems import refusal, refusal_of
from prerank.serving.query import parse_query, query_answer
from prerank.serving.rerank import USER_HEADER, parse_rerank
from prerank.serving.routes import ARROW, EVENTS, JSON, RAW, SCORING, Call, Route, find

T = TypeVar("T")
_PAGE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""Nothing on a page is fetched or run."""


class HttpApi:
    """What the routes of ``ROUTES`` do, and what each may cost: work is done in a lane.

    Args:
        config: of the deployment.
        engine: that answers rankings.
        acknowledge: writes events and says what became of them.
        observe: told of each ranking: the answer, how many candidates, seconds.
    """

    def __init__(
        self,
        config: ServeConfig,
        engine: Engine,
        acknowledge: Callable[[list[Event]], Awaitable[Written]],
        observe: Callable[[Answer, int, float], None],
    ) -> None:
        self.config, self.engine = config, engine
        self._acknowledge, self._observe = acknowledge, observe
        self._guard = Guard(
            token_of(config.token_file), config.allowed_hosts, config.allowed_origins
        )
        self._lanes = {
            name: Lane(name, config.max_waiting, config.body_seconds) for name in (SCORING, EVENTS)
        }

    async def answer(self, request: Request) -> Response:
        """Answer any route; whatever the caller did wrong is a 4xx that says so."""
        try:
            return await self._route(request)
        except Exception as error:
            return refusal_of(error)

    async def _route(self, request: Request) -> Response:
        # Not request.url: that one is made with what the caller wrote into Host.
        path = request.scope["path"]
        if not any(route.open and route.match(path) is not None for route in ROUTES):
            self._guard.check(request.headers)
        route, named = find(ROUTES, path, request.method)
        if not route.takes:
            return await route.handler(self, Call(request.headers, named))
        kind = content_type(request.headers, tuple(route.takes))
        async with self._lanes[route.lane].body(request) as body:
            # What it waits in the lane from now on is of its budget.
            call = Call(
                request.headers, named, kind, body, dict(request.query_params), time.monotonic()
            )
            return await route.handler(self, call)

    async def prerank(self, call: Call) -> Response:
        """Score candidates."""
        run = self._lanes[SCORING].run
        if call.kind != ARROW:
            return await run(self._ranked, call)
        limits = self.engine.limits()
        batch = await run(parse_batch, call.body, limits, _now_us())
        # One by one: requests of other callers take their turns in between.
        bodies = [await run(self._scored, request, limits) for request in batch.requests]
        return Response(await run(batch.answer, bodies), media_type=ARROW)

    async def rerank(self, call: Call) -> Response:
        """Score documents, each of them an item."""
        return await self._lanes[SCORING].run(self._reranked, call)

    async def query(self, call: Call) -> Response:
        """The parts of a request's scores."""
        return await self._lanes[SCORING].run(self._parts, call)

    async def item(self, call: Call) -> Response:
        """What is known of an item; two look-ups, for which nobody waits."""
        return _json(item_of(call.named, self.engine.current()))

    async def openapi(self, call: Call) -> Response:
        """What the routes take and answer, for programs."""
        return _json(self._document)

    async def docs(self, call: Call) -> Response:
        """The same for people."""
        return Response(self._docs, headers=_PAGE, media_type="text/html")

    async def events(self, call: Call) -> Response:
        """Take events back."""
        written = await self._acknowledge(await self._lanes[EVENTS].run(self._parsed, call.body))
        return _json(
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
        return _json(found | {"waiting": waiting})

    async def ready(self, call: Call) -> Response:
        """Whether requests are answered."""
        ready, wrong = self.engine.ready()
        if not ready:
            return refusal(503, "model", wrong)
        # Degraded answers beat none: a load balancer is not told to turn away.
        return _json({"ready": True} | ({"degraded": wrong} if wrong else {}))

    @cached_property
    def _document(self) -> dict[str, Any]:
        return document(ROUTES, self.config)

    @cached_property
    def _docs(self) -> str:
        return docs_page(self._document)

    def _ranked(self, call: Call) -> Response:
        """Parse, score and serialise: all of it in the lane's thread, one request at a time."""
        started = time.perf_counter()
        limits, now = self.engine.limits(), _now_us()
        wanted: PrerankRequest = (
            parse_raw(call.body, call.fields, limits, now)
            if call.kind == RAW
            else parse_json(call.body, limits, now)
        )
        return self._told(replace(wanted, arrived=call.arrived), _json, started)

    def _reranked(self, call: Call) -> Response:
        started = time.perf_counter()
        user = call.headers.get(USER_HEADER)
        wanted = parse_rerank(call.body, user, self.engine.limits(), _now_us())
        request = replace(wanted.request, arrived=call.arrived)
        return self._told(request, lambda body: _json(wanted.answer(body)), started)

    def _parts(self, call: Call) -> Response:
        started = time.perf_counter()
        wanted = parse_query(call.body, self.engine.limits(), _now_us())
        answer = query_answer(replace(wanted, arrived=call.arrived), self.engine.current())
        response = _json(answer.body)
        self._observe(answer, 0, time.perf_counter() - started)
        return response

    def _scored(self, wanted: PrerankRequest, limits: Limits) -> dict[str, Any]:
        """The body of the answer to a request that was read with ``limits``.

        Raises:
            NotReadyError: another version is served since.
        """
        if self.engine.limits() is not limits:
            raise NotReadyError("another model version came during the batch; send it again")
        request = replace(wanted, arrived=time.monotonic())
        return self._told(request, lambda body: body, time.perf_counter())

    def _told(
        self, wanted: PrerankRequest, tell: Callable[[dict[str, Any]], T], started: float
    ) -> T:
        """What ``tell`` makes of the answer to a request; it is counted when it is told."""
        answer = self.engine.answer(wanted)
        told = tell(answer.body)
        self._observe(answer, len(wanted.keys), time.perf_counter() - started)
        return told

    def _parsed(self, body: bytes) -> list[Event]:
        return parse_events(body, self.engine.event_limits(), _now_us())


def _now_us() -> int:
    return time.time_ns() // 1000


def _json(data: dict[str, Any]) -> Response:
    return Response(orjson.dumps(data), media_type=JSON)


ROUTES = (
    Route(
        "POST",
        "/v1/prerank",
        HttpApi.prerank,
        "Score candidates and return the best k.",
        answers={
            JSON: answer_models.PrerankAnswer,
            ARROW: "For a request in Arrow: a row per row, with `request_id`, `items`, `scores`, "
            "`unknown_ids`, `degraded` and `model_version`.",
        },
        takes={
            JSON: request_models.PrerankBody,
            RAW: "The candidates as little-endian int64, one after the other; everything else is "
            "in the query string. With `retriever`, a little-endian float32 per candidate follows "
            "for each name.",
            ARROW: f"Many requests, a row each, uncompressed. Columns: {COLUMNS}.",
        },
        lane=SCORING,
        query=request_models.RawQuery,
    ),
    Route(
        "POST",
        "/v1/rerank",
        HttpApi.rerank,
        "Rerank documents, each of them an item, in the shape of Cohere and Jina.",
        answers={JSON: answer_models.RerankAnswer},
        takes={JSON: request_models.RerankBody},
        lane=SCORING,
        header=request_models.RerankHeaders,
    ),
    Route(
        "POST",
        "/v1/query",
        HttpApi.query,
        "The parts of a request's scores, for an engine that holds the item vectors.",
        answers={JSON: answer_models.QueryAnswer},
        takes={JSON: request_models.QueryBody},
        lane=SCORING,
    ),
    Route(
        "GET",
        "/v1/items/{id}",
        HttpApi.item,
        "What is known of an item.",
        answers={JSON: answer_models.Item},
        refuses=(400, 404, 503),
    ),
    Route(
        "POST",
        "/v1/events",
        HttpApi.events,
        "Add engagement events to users' histories.",
        answers={JSON: answer_models.EventsAnswer},
        takes={JSON: request_models.EventsBody},
        lane=EVENTS,
    ),
    Route(
        "GET",
        "/openapi.json",
        HttpApi.openapi,
        "This document.",
        answers={JSON: "OpenAPI 3.1."},
    ),
    Route(
        "GET",
        "/docs",
        HttpApi.docs,
        "This document as a page.",
        answers={"text/html": "A page that fetches nothing."},
    ),
    Route(
        "GET",
        "/health",
        HttpApi.health,
        "What runs here: code, schema, model version, snapshot.",
        answers={JSON: answer_models.Health},
    ),
    Route(
        "GET",
        "/ready",
        HttpApi.ready,
        "Whether requests are answered; open to load balancers.",
        answers={JSON: answer_models.Ready},
        refuses=(503,),
        open=True,
    ),
)
"""Every route of a deployment."""
