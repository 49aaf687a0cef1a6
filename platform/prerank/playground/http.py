"""The HTTP routes of the playground, without Ray: the page's files, and what the page asks.

The files hold nothing of the log and are open to whoever may call by Host and Origin. What the page
asks is answered with a token that opens ``admin``, as it tells of users and their searches. It is
asked by POST, so that no query or user stands in a proxy's log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from prerank.core.tokens import ADMIN
from prerank.playground.config import PlaygroundConfig
from prerank.playground.metrics import DEGRADED, FILE, LATENCY, OTHER, REQUESTS, causes
from prerank.playground.service import Playground
from prerank.serving.fields import RequestError, json_object, shown
from prerank.serving.guard import Guard, content_type, require
from prerank.serving.lane import Lane
from prerank.serving.metrics import NS_PER_MS
from prerank.serving.problems import reason_of, refusal_of
from prerank.serving.ranking import json_answer
from prerank.serving.tokens import Tokens

PREFIX, API = "/playground", "/api/"
STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # Nothing from elsewhere, nothing inline; and no text is ever taken for markup.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
MAX_BODY = 4 << 20
"""Bytes of what the page asks; pasted ids are most of it."""
THREADS = 2
"""A ranking of the whole catalogue does not stop names from being found."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """A file of the page."""

    content: bytes
    kind: str


class PlaygroundHttp:
    """Answers every route below ``/playground``.

    Args:
        config: of the playground.
        playground: that knows the answers.
    """

    def __init__(self, config: PlaygroundConfig, playground: Playground) -> None:
        self._playground = playground
        self._tokens = Tokens(config.token_file)
        hosts, origins = config.allowed_hosts, config.allowed_origins
        self._files_guard = Guard(None, hosts, origins)
        self._guard = Guard(self._tokens, hosts, origins)
        self._lane = Lane("playground", config.max_waiting, config.body_seconds, THREADS)
        self._files = {
            path.name: File(path.read_bytes(), KINDS[path.suffix])
            for path in STATIC.iterdir()
            if path.suffix in KINDS
        }

    async def answer(self, request: Request) -> Response:
        """Answer any route; whatever the caller did wrong is a 4xx that says so."""
        # Once: behind Serve, the path begins with the root, or without it, by the proxy.
        path = request.scope["path"].removeprefix(request.scope.get("root_path") or PREFIX)
        began = time.perf_counter_ns()
        try:
            response = await self._route(request, path)
        except Exception as error:
            # Never the error's text here: it may repeat what the caller sent.
            logger.info("refused: %s", reason_of(error))
            response = refusal_of(error)
        response.headers.update(HEADERS)
        action, metrics = action_of(path), self._playground.metrics
        metrics.add(REQUESTS, 1, action, str(response.status_code))
        metrics.observe(LATENCY, (time.perf_counter_ns() - began) / NS_PER_MS, action)
        return response

    async def _route(self, request: Request, path: str) -> Response:
        if path.startswith(API):
            return await self._asked(request, path.removeprefix(API))
        self._files_guard.check(request.headers)
        if request.method not in ("GET", "HEAD"):
            raise RequestError("method", "files are got", 405, headers={"Allow": "GET, HEAD"})
        if not path:
            # The page names its files beside itself. The Host was looked at above.
            return RedirectResponse(f"{PREFIX}/", 308)
        if (file := self._files.get(path.removeprefix("/") or INDEX)) is None:
            raise RequestError("path", f"{shown(path)} is no file of the page; open {PREFIX}/", 404)
        # It may have changed with the next start: browsers ask each time.
        return Response(file.content, media_type=file.kind, headers={"Cache-Control": "no-cache"})

    async def _asked(self, request: Request, name: str) -> Response:
        require(ADMIN, self._guard.check(request.headers))
        ask = ROUTES.get(name)
        if ask is None:
            raise RequestError("path", f"{shown(name)} is none of {', '.join(ROUTES)}", 404)
        if request.method != "POST":
            raise RequestError("method", "ask by POST", 405, headers={"Allow": "POST"})
        content_type(request.headers, ("application/json",))
        async with self._lane.body(request) as body:
            if len(body) > MAX_BODY:
                raise RequestError("body", f"{len(body)} bytes; at most {MAX_BODY} are taken", 413)
            found = await self._lane.run(self._work, ask, body)
        for cause in causes(found):
            self._playground.metrics.add(DEGRADED, 1, cause)
        response = json_answer(found)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _work(self, ask: Ask, body: bytes) -> dict[str, Any]:
        return ask(self._playground, json_object(body))


Ask = Callable[[Playground, Mapping[str, Any]], dict[str, Any]]
ROUTES: dict[str, Ask] = {
    "state": Playground.state,
    "suggest": Playground.suggest,
    "requests": Playground.requests,
    "rank": Playground.rank,
    "explain": Playground.explain,
    "query": Playground.query,
    "item": Playground.item,
    "user": Playground.user,
}
"""What the page may ask, below ``/playground/api/``."""


def action_of(path: str) -> str:
    """What was asked, as a value of a metric's label: one of a few, whatever was sent."""
    if not path.startswith(API):
        return FILE
    name = path.removeprefix(API)
    return name if name in ROUTES else OTHER
