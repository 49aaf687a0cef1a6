"""What Ray Serve itself answers, as the problems of every other refusal.

Serve's HTTP servers stand before the application: one in each replica, and one in its own proxy,
which HAProxy calls while it knows of no replica. Where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH
names ``middlewares``, each of them puts ``ServeRefusals`` before what it does.

Without it the proxy keeps a request until a replica is there, up to ``request_timeout_s``, and
refuses in plain text, or with nothing where a replica died with the request.
"""

from __future__ import annotations

import asyncio
import math

import orjson
from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prerank.serving.problems import HEADERS, MEANINGS, PROBLEM, problem

PATIENCE_S = 1.0
"""How long the proxy keeps a whole request for a replica: callers have budgets, and can come again.

Ten times the default budget, for what a replica that has just started has waiting.
"""
NO_REPLICA = "no replica takes the request now. Send it again, after the seconds in `Retry-After`."
LOST = "the replica ended while it had the request. Send it again."


def middlewares() -> list[Middleware]:
    """What Serve puts before an HTTP server that it starts in this process."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return [Middleware(ServeRefusals, patience_s=PATIENCE_S)]
    # A replica bounds what waits by itself (``prerank.serving.lane``).
    return [Middleware(ServeRefusals)]


class ServeRefusals:
    """ASGI middleware: refusals in plain text become problems, and a wait is bounded.

    Args:
        app: that answers.
        patience_s: from when a request is whole until its answer begins; then it is refused.
    """

    def __init__(self, app: ASGIApp, patience_s: float = math.inf) -> None:
        self._app, self._patience_s = app, patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, receive, send)
        if self._patience_s == math.inf:
            await self._app(scope, receive, answer.send)
            return
        try:
            async with asyncio.timeout(None) as limit:
                loop = asyncio.get_running_loop()

                async def received() -> Message:
                    message = await receive()
                    whole = message["type"] == "http.request" and not message.get("more_body")
                    if whole and not answer.begun:
                        limit.reschedule(loop.time() + self._patience_s)
                    return message

                async def begins(message: Message) -> None:
                    if not answer.begun:
                        limit.reschedule(None)
                    await answer.send(message)

                await self._app(scope, received, begins)
        except TimeoutError:
            if not limit.expired():
                raise
        # Serve takes a cancelled request for one whose caller left: it ends without a word.
        if not answer.begun:
            await answer.refuse(503, NO_REPLICA if limit.expired() else LOST)


class _Answer:
    """What is sent of one answer; a refusal in plain text waits for its words."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._headers: Headers | None = None
        self._status, self._words = 0, b""
        self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            if message["status"] in MEANINGS and _is_plain(headers := Headers(raw=_raw(message))):
                self._status, self._headers = message["status"], headers
                return
        if self._headers is None:
            await self._send(message)
            return
        self._words += message.get("body", b"")
        if not message.get("more_body", False):
            await self.refuse(self._status, self._words.decode(errors="replace"), self._headers)

    async def refuse(self, status: int, detail: str, headers: Headers | None = None) -> None:
        self.begun = True
        given = {} if headers is None else dict(headers)
        id = given.get("x-request-id") or Headers(scope=self._scope).get("x-request-id", "")
        kept = {k: v for k, v in given.items() if k not in ("content-type", "content-length")}
        response = Response(
            orjson.dumps(problem(status, "service", detail, id)),
            status,
            headers={**HEADERS.get(status, {}), **kept},
            media_type=PROBLEM,
        )
        await response(self._scope, self._receive, self._send)


def _raw(message: Message) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in message.get("headers", ())]


def _is_plain(headers: Headers) -> bool:
    return headers.get("content-type", "").startswith("text/plain")
