"""The HTTP routes of a replica, without Ray: ``HttpApi.answer`` takes a request to its answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from prerank.core.errors import PrerankError
from prerank.online.history import Event
from prerank.online.writer import Written
from prerank.serving.answer import Answer
from prerank.serving.api import PrerankRequest, RequestError, parse_events, parse_json, parse_raw
from prerank.serving.engine import Engine, ServeConfig
from prerank.serving.guard import Guard, content_type, token_of
from prerank.serving.lane import Lane

JSON, RAW = "application/json", "application/octet-stream"
ROUTES = {"/v1/prerank": "POST", "/v1/events": "POST", "/health": "GET", "/ready": "GET"}
_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    # What is left of the body is not read, so nothing else can follow it on the connection.
    408: {"Connection": "close"},
    413: {"Connection": "close"},
    503: {"Retry-After": "1"},
}

logger = logging.getLogger(__name__)


class HttpApi:
    """Routes, and what each may cost: scoring and events have a lane each, health has none.

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
        self.engine, self._acknowledge, self._observe = engine, acknowledge, observe
        self._guard = Guard(
            token_of(config.token_file), config.allowed_hosts, config.allowed_origins
        )
        self._lanes = {
            path: Lane(name, config.max_waiting, config.body_seconds)
            for path, name in (("/v1/prerank", "scoring"), ("/v1/events", "events"))
        }

    async def answer(self, request: Request) -> Response:
        """Answer any route; whatever the caller did wrong is a 4xx that says so."""
        try:
            return await self._route(request)
        except RequestError as error:
            return _json(error.body(), error.status)
        except PrerankError as error:
            return _json(_error("service", str(error)), 503)
        except Exception:
            logger.exception("request failed")
            return _json(_error("service", "internal error; the replica's log has the cause"), 500)

    async def _route(self, request: Request) -> Response:
        # Not request.url: that one is made with what the caller wrote into Host.
        path = request.scope["path"].rstrip("/")
        if path != "/ready":
            # Load balancers and probes call it, by any name; it tells nothing but ready or why not.
            self._guard.check(request.headers)
        method = ROUTES.get(path)
        if method is None:
            raise RequestError("path", f"{path or '/'} is unknown; routes: {list(ROUTES)}", 404)
        if request.method != method:
            raise RequestError("method", f"{path} takes {method}", 405)
        if path == "/ready":
            ready, wrong = self.engine.ready()
            if not ready:
                return _json(_error("model", wrong), 503)
            # Degraded answers beat none: a load balancer is not told to turn away.
            return _json({"ready": True} | ({"degraded": wrong} if wrong else {}))
        if path == "/health":
            return await self._health()
        return await (self._prerank if path == "/v1/prerank" else self._events)(request)

    async def _health(self) -> Response:
        # In a thread: it may look at files or at the store, and the event loop waits for nobody.
        found = await asyncio.to_thread(self.engine.health)
        waiting = {lane.name: lane.taken for lane in self._lanes.values()}
        return _json(found | {"waiting": waiting})

    async def _prerank(self, request: Request) -> Response:
        kind, lane = content_type(request.headers, (JSON, RAW)), self._lanes["/v1/prerank"]
        async with lane.body(request) as body:
            arrived = time.monotonic()
            return await lane.run(self._ranked, kind, body, dict(request.query_params), arrived)

    def _ranked(
        self, kind: str, body: bytes, fields: Mapping[str, str], arrived: float
    ) -> Response:
        """Parse, score and serialise: all of it in the lane's thread, one request at a time."""
        started = time.perf_counter()
        limits, now = self.engine.limits(), time.time_ns() // 1000
        wanted: PrerankRequest = (
            parse_raw(body, fields, limits, now) if kind == RAW else parse_json(body, limits, now)
        )
        # What it waited in the lane is of its budget.
        answer = self.engine.answer(replace(wanted, arrived=arrived))
        response = _json(answer.body)
        self._observe(answer, len(wanted.keys), time.perf_counter() - started)
        return response

    async def _events(self, request: Request) -> Response:
        content_type(request.headers, (JSON,))
        lane = self._lanes["/v1/events"]
        async with lane.body(request) as body:
            written = await self._acknowledge(await lane.run(self._parsed, body))
        return _json(
            {
                "accepted": written.accepted,
                "passive": written.passive,
                "online": written.online,
            }
        )

    def _parsed(self, body: bytes) -> list[Event]:
        return parse_events(body, self.engine.event_limits(), time.time_ns() // 1000)


def _error(field: str, message: str) -> dict[str, Any]:
    return {"error": {"field": field, "message": message}}


def _json(data: dict[str, Any], status: int = 200) -> Response:
    return Response(
        orjson.dumps(data), status, headers=_HEADERS.get(status), media_type="application/json"
    )
