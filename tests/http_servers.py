"""Servers on loopback: a replica's routes over real HTTP, and one that fails as it is told to."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import uvicorn
from starlette.requests import Request

from prerank.serving.http import HttpApi

HANG = "hang"
"""Of a ``FaultyServer``: never answer."""
TRICKLE = "trickle"
"""Begin an answer, and send a byte of it now and then."""


class Served:
    """The address of routes that are served, and the requests that they were sent.

    Attributes:
        url: of the server.
        seen: of each request, method, path, content type and bearer token.
    """

    def __init__(self, api: HttpApi) -> None:
        self.api, self.url = api, ""
        self.seen: list[tuple[str, str, str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        kind, token = (request.headers.get(h, "") for h in ("content-type", "authorization"))
        self.seen.append((request.method, request.scope["path"], kind, token))
        response = await self.api.answer(request)
        await response(scope, receive, send)


@contextmanager
def served(api: HttpApi) -> Iterator[Served]:
    """``api`` under uvicorn in a thread, at a port of its own."""
    found = Served(api)
    config = uvicorn.Config(
        found, port=0, http="h11", ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="served")
    thread.start()
    try:
        until = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.002)
        port = server.servers[0].sockets[0].getsockname()[1]
        found.url = f"http://127.0.0.1:{port}"
        yield found
    finally:
        server.should_exit = True
        thread.join()


def answered(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    """An answer of HTTP, after which the connection is closed."""
    named = {"Content-Type": "application/json"} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in named.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class FaultyServer(socketserver.ThreadingTCPServer):
    """Gives one reply after another, to whomever comes; the last one for ever.

    A reply is bytes to send, None to close the connection without an answer, HANG or TRICKLE.

    Attributes:
        requests: head and body of each, as they came.
    """

    allow_reuse_address, daemon_threads = True, True

    def __init__(self, *replies: bytes | str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = list(replies)
        self.requests: list[tuple[bytes, bytes]] = []
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, name="faults"
        )

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


class _Handler(socketserver.BaseRequestHandler):
    server: FaultyServer

    def handle(self) -> None:
        connection: socket.socket = self.request
        got = b""
        while b"\r\n\r\n" not in got:
            if not (part := connection.recv(65536)):
                return
            got += part
        head, _, body = got.partition(b"\r\n\r\n")
        lengths = [x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0].partition(b":")[2]):
            body += connection.recv(65536)
        self.server.requests.append((head, body))
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, bytes):
            connection.sendall(reply)
        elif reply == TRICKLE:
            connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 1000000\r\n\r\n")
            while not self.server.stopping.wait(0.01):
                connection.sendall(b" ")
        elif reply == HANG:
            self.server.stopping.wait()


RANKED = orjson.dumps(
    {
        "request_id": "r1",
        "model_version": "1",
        "items": [{"id": 3, "score": 0.5}],
        "k": 100,
        "unknown_ids": [1],
        "degraded": [],
        "snapshot_cutoff": "2024-03-01T12:00:00Z",
    }
)
"""Of a ranking whose best item is 3."""
BUSY = answered(503, b'{"detail": "busy", "field": "service"}', Retry_After="0")


def kinds(of: Served) -> list[str]:
    """Content types of what it was sent since last time."""
    found = [kind for _, _, kind, _ in of.seen]
    of.seen.clear()
    return found
