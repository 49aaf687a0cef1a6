"""Calls of a replica's HTTP routes without Ray and without a socket."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import httpx
from starlette.requests import Request
from starlette.responses import Response

from prerank.online.history import Event
from prerank.online.reader import OnlineRead
from prerank.online.writer import Written
from prerank.serving.answer import Answer
from prerank.serving.api import Limits, PrerankRequest
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.http import HttpApi

URL = "http://127.0.0.1:8000"
LOCAL = {"Host": "127.0.0.1:8000", "Content-Type": "application/json"}


class NoEngine:
    """Answers every request with its candidates, and is ready."""

    refused = ""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def limits(self) -> Limits:
        return self._limits

    event_limits = limits

    def answer(self, request: PrerankRequest) -> Answer:
        items = [{"id": i} for i in request.shown(request.keys[: request.k])]
        return Answer({"items": items}, OnlineRead(cast(Any, None), 0, 0, None, ()))

    def health(self) -> dict[str, Any]:
        return {"clock": "wall", "notes": []}

    def ready(self) -> tuple[bool, str]:
        return True, ""


class Held(NoEngine):
    """Scores only while it is let, and counts how many it scores at once."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.let, self.begun = threading.Event(), threading.Event()
        self.now, self.most, self.scored = 0, 0, 0
        self.waited: list[float] = []

    def answer(self, request: PrerankRequest) -> Answer:
        self.waited.append(time.monotonic() - request.arrived)
        self.now += 1
        self.most = max(self.most, self.now)
        self.begun.set()
        assert self.let.wait(20)
        self.now -= 1
        self.scored += 1
        return super().answer(request)


async def no_writers(events: list[Event]) -> Written:
    """Acknowledges everything."""
    return Written(len(events), 0, True)


def api_of(engine: Any, **config: Any) -> HttpApi:
    """The routes before ``engine``, with no writers behind the events."""
    return HttpApi(ServeConfig(**config), cast(Engine, engine), no_writers)


def token_file(folder: Path, text: str) -> str:
    """A file of tokens that its owner alone may read."""
    file = folder / "tokens"
    file.touch(mode=0o600)
    file.write_text(text)
    return str(file)


async def whole(body: bytes) -> AsyncIterator[bytes]:
    """A body that is there at once."""
    yield body


async def endless(body: bytes) -> AsyncIterator[bytes]:
    """The beginning of a body whose rest never comes."""
    yield body
    await asyncio.Event().wait()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def call(
    api: HttpApi,
    path: str,
    chunks: AsyncIterator[bytes] | None = None,
    headers: Mapping[str, str] = LOCAL,
    method: str | None = None,
    query: bytes = b"",
) -> Response:
    """Send a request whose body arrives as ``chunks`` come; a GET where there are none."""
    source = whole(b"") if chunks is None else chunks

    async def receive() -> dict[str, Any]:
        chunk = await anext(source, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    scope = {
        "type": "http",
        "method": method or ("GET" if chunks is None else "POST"),
        "path": path,
        "query_string": query,
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
    }
    return await api.answer(Request(scope, receive))


def client_of(api: HttpApi) -> httpx.Client:
    """A client whose calls end at ``api``."""

    def handle(request: httpx.Request) -> httpx.Response:
        path, _, query = request.url.raw_path.partition(b"?")
        got = asyncio.run(
            call(
                api,
                unquote(path.decode()),
                whole(request.content),
                dict(request.headers),
                request.method,
                query,
            )
        )
        return httpx.Response(got.status_code, headers=dict(got.headers), content=bytes(got.body))

    return httpx.Client(transport=httpx.MockTransport(handle), base_url=URL)
