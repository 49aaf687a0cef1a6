"""The generator of benchmarks/over_http.py counts what a server that stands still makes late."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"
STALL_S = 0.4
REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def open_loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import open_loop

    yield open_loop
    del sys.modules["open_loop"]


def told(open_loop: Any, handler: Handler, folder: Path, **job: Any) -> dict[str, Any]:
    """What the generator says of a server that handles connections so."""
    file = folder / "a.http"
    file.write_bytes(REQUEST)

    async def run() -> dict[str, Any]:
        async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            found: dict[str, Any] = await open_loop.run(open_loop.Job(port, (str(file),), **job))
            return found

    return asyncio.run(run())


def test_requests_that_are_due_while_the_server_stands_still_are_late(
    open_loop: Any, tmp_path: Path
) -> None:
    begun: list[float] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(len(REQUEST)):
            now = asyncio.get_running_loop().time()
            begun.append(now)
            # It answers nothing until then, whenever it was asked.
            await asyncio.sleep(max(begun[0] + STALL_S - now, 0.0))
            writer.write(ANSWER)

    found = told(open_loop, handler, tmp_path, seconds=1.0, rate=200.0)
    assert set(found["status"]) == {200}
    pairs = list(zip(found["due_s"], found["latency_ms"], strict=True))
    first = pairs[0][0]
    for due, ms in pairs:
        if due < first + STALL_S / 2:
            assert ms >= 1e3 * STALL_S / 2, "counted from when it was sent"
    assert len(pairs) > 100, "it waited for answers before it sent more"


def test_refusals_and_requests_without_an_answer_are_counted(
    open_loop: Any, tmp_path: Path
) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(len(REQUEST))
        writer.write(BUSY)

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    found = told(open_loop, refuses, tmp_path, seconds=0.1, rate=100.0)
    assert set(found["status"]) == {503}
    found = told(open_loop, hangs, tmp_path, seconds=0.1, rate=100.0, timeout=0.2)
    assert set(found["status"]) == {0}


def test_arrivals_have_the_rate_and_are_the_same_for_a_seed(open_loop: Any) -> None:
    found = open_loop.arrivals(1000.0, 5.0, 3)
    assert found == sorted(found) == open_loop.arrivals(1000.0, 5.0, 3)
    assert len(found) == pytest.approx(5000, rel=0.05)


def test_a_worker_that_is_refused_does_not_come_again_at_once(
    open_loop: Any, tmp_path: Path
) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(len(REQUEST))
        writer.write(BUSY)

    found = told(open_loop, refuses, tmp_path, seconds=0.12, workers=2)
    assert set(found["status"]) == {503}
    # Of each worker, those at 0, 0.05 and 0.1 s at the most.
    assert 2 <= len(found["status"]) <= 6
