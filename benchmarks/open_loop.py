"""Sends HTTP requests at times that were fixed beforehand, in a process of its own.

    python benchmarks/open_loop.py '{"port": 8000, "files": ["a.http"], "seconds": 5, "rate": 200}'

A latency is counted from when its request was *due*, not from when it was sent: a server that
stands still makes all requests late that were due meanwhile, and each of them is counted (no
coordinated omission). Arrivals are independent of each other (a Poisson process), as those of many
callers are. Without a rate, ``workers`` send one request after the other, as fast as they are
answered; one that is refused waits for a moment.

Files hold whole requests, head and body. Prints JSON: due time, latency and status of each
request; 0 is the status of one that had no answer in time. ``degraded`` counts answers that say
that they lack something.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
REFUSED_S = 0.05
"""After which a worker that was refused comes again. At once, it would measure refusals."""


@dataclass(frozen=True)
class Job:
    """What is sent.

    Attributes:
        port: on loopback.
        files: requests, sent in turn.
        seconds: for which requests are due.
        rate: requests per second; None for ``workers`` that wait for their answers.
        timeout: seconds in which a request must be answered, from when it is due.
        seed: of the arrivals.
    """

    port: int
    files: tuple[str, ...]
    seconds: float
    rate: float | None = None
    workers: int = 1
    timeout: float = 5.0
    seed: int = 0


class Sender:
    """Keeps connections open, and opens another where none is free."""

    def __init__(self, job: Job) -> None:
        self.job, self._free = job, list[Connection]()
        self._requests: Iterator[bytes] = itertools.cycle([Path(f).read_bytes() for f in job.files])
        self.told: list[tuple[float, float, int]] = []
        self.sent_late: list[float] = []
        self.degraded = 0

    async def send(self, due: float) -> int:
        """Send the next request, and note its latency from ``due`` and its status; the latter."""
        self.sent_late.append(time.perf_counter() - due)
        status = 0
        try:
            async with asyncio.timeout(self.job.timeout - self.sent_late[-1]):
                status = await self._answer(next(self._requests))
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        self.told.append((due, time.perf_counter() - due, status))
        return status

    async def _answer(self, request: bytes) -> int:
        while self._free:
            connection = self._free.pop()
            if not connection[0].at_eof():
                try:
                    return await self._on(connection, request)
                except (ConnectionError, asyncio.IncompleteReadError):
                    continue  # it was closed while nobody used it
        return await self._on(await asyncio.open_connection("127.0.0.1", self.job.port), request)

    async def _on(self, connection: Connection, request: bytes) -> int:
        reader, writer = connection
        try:
            # Not drained: a refusal may come before the body is read, and must be seen then.
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = LENGTH.search(head)
            body = await reader.readexactly(int(found[1]) if found else 0)
            self.degraded += b'"degraded":["' in body
        except BaseException:
            writer.transport.abort()
            raise
        status = int(head[9:12])
        if status == 200 and not CLOSE.search(head):
            self._free.append(connection)
        else:
            writer.transport.abort()
        return status


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds from the beginning at which requests are due."""
    draw, at, found = random.Random(seed), 0.0, list[float]()
    while (at := at + draw.expovariate(rate)) < seconds:
        found.append(at)
    return found


async def run(job: Job) -> dict[str, Any]:
    """Send what is due and wait for the answers."""
    sender, begun = Sender(job), time.perf_counter()
    if job.rate is None:

        async def work() -> None:
            while (now := time.perf_counter()) < begun + job.seconds:
                if await sender.send(now) != 200:
                    await asyncio.sleep(REFUSED_S)

        await asyncio.gather(*(work() for _ in range(job.workers)))
    else:
        tasks = []
        for at in arrivals(job.rate, job.seconds, job.seed):
            if (wait := begun + at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(sender.send(begun + at)))
        await asyncio.gather(*tasks)
    wall = time.perf_counter() - begun
    told = sorted(sender.told)
    late = sorted(sender.sent_late)
    return {
        "due_s": [due - begun for due, *_ in told],
        "latency_ms": [1e3 * latency for _, latency, _ in told],
        "status": [status for *_, status in told],
        "degraded": sender.degraded,
        "wall_s": wall,
        "cpu_s": time.process_time(),
        "sent_late_p99_ms": 1e3 * late[int(0.99 * (len(late) - 1))] if late else 0.0,
    }


def main() -> None:
    """Run the job that the one argument names."""
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(__doc__)
        return
    given = json.loads(sys.argv[1])
    print(json.dumps(asyncio.run(run(Job(**given | {"files": tuple(given["files"])})))))


if __name__ == "__main__":
    main()
