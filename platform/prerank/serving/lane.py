"""One worker thread or a few, and the bounded line of requests before them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from prerank.core.errors import NotReadyError
from prerank.serving.fields import RequestError

MAX_BODY = 32 << 20
MAX_HELD = 8 * MAX_BODY
"""Bytes of all bodies that one lane holds."""

T = TypeVar("T")


class BusyError(NotReadyError):
    """No place is free; the next moment there may be one."""


class Lane:
    """Requests that are worked on in the order in which their bodies arrived, one at a time.

    A request takes a place before its body is read and gives it back when it is answered. Where no
    place is free it is refused at once, so the line never grows; a body that does not arrive in
    time loses its place. Everything else (health, other lanes) stays on the event loop, which
    waits for nobody: bodies are read there, the work is done in the lane's thread.

    Args:
        name: of the thread, and in refusals.
        places: requests that are read, wait or are worked on.
        body_seconds: in which a body must arrive.
        threads: requests that are worked on at a time; more than one where they wait for others.

    Attributes:
        taken: places that are taken.
        line: requests that wait for a thread, or are worked on.
    """

    def __init__(self, name: str, places: int, body_seconds: float, threads: int = 1) -> None:
        self.name, self.places, self.body_seconds = name, places, body_seconds
        self.taken, self.line, self._held = 0, 0, 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of ``request``, which has a place until the block ends.

        Raises:
            BusyError: no place is free, or the bodies of the others fill the memory.
            RequestError: 413 for a body beyond MAX_BODY, told as soon as that is known; 408 for
                one that does not arrive in time.
        """
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > MAX_BODY:
            raise _too_large(declared)
        if self.taken >= self.places:
            raise self._busy(f"{self.places} requests wait")
        body = bytearray()
        self.taken += 1
        try:
            await self._read(request, body)
            yield bytes(body)
        finally:
            self.taken -= 1
            self._held -= len(body)

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """What ``work`` returns, from a thread of the lane."""
        # With the context of the request, so that lines of the log name it.
        inside = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        self.line += 1
        try:
            return await loop.run_in_executor(self._threads, inside, work, *args)
        finally:
            self.line -= 1

    async def _read(self, request: Request, body: bytearray) -> None:
        try:
            async with asyncio.timeout(self.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > MAX_BODY:
                        raise _too_large(f"more than {MAX_BODY}")
                    if self._held > MAX_HELD:
                        raise self._busy("the bodies of waiting requests fill the memory")
        except TimeoutError:
            raise RequestError(
                "body",
                f"{len(body)} bytes in {self.body_seconds:g} s (body_seconds); send it faster",
                408,
            ) from None
        except ClientDisconnect:
            raise RequestError("body", "the connection ended before the body did") from None

    def _busy(self, why: str) -> BusyError:
        return BusyError(f"{self.name} is busy: {why}. Send the request again later.")


def _too_large(size: str) -> RequestError:
    return RequestError("body", f"{size} bytes; at most {MAX_BODY} are taken", 413)
