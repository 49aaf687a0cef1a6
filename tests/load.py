"""Load on a live deployment, every answer of which is looked at: what a fault costs, in numbers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

PROBLEM = "application/problem+json"
NOT_REACHED = (0, 404)
"""Nobody took the connection, or a proxy did that knows of no application yet."""
TOLERANCE = 1e-3
"""Of a score. With `clock: wall` ages grow while a test runs."""
Check = Callable[[int, dict[str, Any]], str]
"""(place of the request's body, answer) -> what is wrong with it; empty if nothing."""


def same_items(answer: dict[str, Any], expected: dict[str, Any]) -> str:
    """What tells an answer's ranking from the one expected; empty where they are the same."""
    given, wanted = ({i["id"]: i["score"] for i in a["items"]} for a in (answer, expected))
    if given.keys() != wanted.keys():
        return f"other items: {sorted(given.keys() ^ wanted.keys())[:5]}"
    far = max((abs(given[id] - score) for id, score in wanted.items()), default=0.0)
    return f"scores differ by {far:g}" if far > TOLERANCE else ""


@dataclass(frozen=True)
class Seen:
    """What a caller got of one request.

    Attributes:
        began: when it was sent, by ``time.monotonic``.
        wait: seconds until it was answered, sent again on another connection or not.
        status: of the answer; 0 where nobody took the connection.
        degraded: what the answer lacks.
        version: that it names.
        wrong: what is wrong with it; empty if nothing.
        refused: why it was, in its own words; empty where it was not.
    """

    began: float
    wait: float
    status: int
    degraded: tuple[str, ...] = ()
    version: str = ""
    wrong: str = ""
    refused: str = ""


class Load:
    """Callers that rank, and one that reports events, from the block's beginning to its end.

    A connection that a caller keeps open may be closed at any time, as HTTP allows: the request is
    then sent again on another one, once, and counted in ``closed``. Events are sent again until
    they are acknowledged, as callers are told to.

    Args:
        url: of the deployment.
        bodies: of rankings, as httpx takes them; callers take them in turns.
        check: looks at each answer.
        event: the n-th event; None reports none. Its ``event_id`` must be its own.
        rate: rankings a second, of all callers; None: as many as there can be.
        callers: of rankings.
        event_rate: calls with events a second, each of ``BATCH``.
    """

    BATCH = 5

    def __init__(
        self,
        url: str,
        bodies: Sequence[dict[str, Any]],
        check: Check,
        event: Callable[[int], dict[str, Any]] | None = None,
        rate: float | None = None,
        callers: int = 4,
        event_rate: float = 10.0,
    ) -> None:
        self._url, self._bodies, self._check = url, bodies, check
        self._event, self._event_rate = event, event_rate
        self._pause = 0.0 if rate is None else callers / rate
        self.seen: list[Seen] = []
        self.acknowledged: list[str] = []
        self.event_statuses: Counter[int] = Counter()
        self.longest_event = 0.0
        self.closed = 0
        self.began = self.ended = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._rank, args=(n,)) for n in range(callers)]
        if event is not None:
            self._threads.append(threading.Thread(target=self._report, args=(event,)))

    def __enter__(self) -> Load:
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.ended = time.monotonic()

    def statuses(self, since: float = 0.0) -> Counter[int]:
        """How many rankings were answered how, of those sent since a moment."""
        return Counter(s.status for s in self.seen if s.began >= since)

    def refused(self, since: float = 0.0) -> list[str]:
        """Why rankings were refused, of those sent since a moment."""
        return [
            f"{s.status} after {s.began - self.began:.1f} s: {s.refused}"
            for s in self.seen
            if s.status != 200 and s.began >= since
        ]

    @property
    def wrong(self) -> list[Seen]:
        """Answers that are not what their version says."""
        return [s for s in self.seen if s.wrong]

    def figures(self) -> dict[str, Any]:
        """The numbers of the table of faults."""
        by_class = Counter(s.status // 100 for s in self.seen)
        return {
            "seconds": round(self.ended - self.began, 1),
            "sent": len(self.seen),
            "2xx": by_class[2],
            "degraded": sum(bool(s.degraded) for s in self.seen),
            "5xx": by_class[5],
            "not reached": sum(s.status in NOT_REACHED for s in self.seen),
            "longest wait, s": round(max((s.wait for s in self.seen), default=0.0), 2),
            "events acknowledged": len(self.acknowledged),
            "wrong": len(self.wrong),
        }

    def _rank(self, number: int) -> None:
        turn, due = number, time.monotonic()
        with httpx.Client(base_url=self._url, timeout=90) as client:
            while not self._stop.is_set():
                place = turn % len(self._bodies)
                self.seen.append(self._ask(client, place))
                turn += 1
                due = max(due + self._pause, time.monotonic() - 1)
                self._stop.wait(max(due - time.monotonic(), 0.0))

    def _ask(self, client: httpx.Client, place: int) -> Seen:
        began = time.monotonic()
        answer = self._send(client, "/v1/prerank", **self._bodies[place])
        wait = time.monotonic() - began
        if answer is None:
            # Nobody takes connections: callers do not try again without a pause.
            self._stop.wait(0.05)
            return Seen(began, wait, 0)
        if answer.status_code != 200:
            wrong = refusal_is_wrong(answer)
            return Seen(began, wait, answer.status_code, wrong=wrong, refused=answer.text[:300])
        body = answer.json()
        degraded, version = tuple(body["degraded"]), body["model_version"]
        return Seen(began, wait, 200, degraded, version, self._check(place, body))

    def _send(self, client: httpx.Client, path: str, **body: Any) -> httpx.Response | None:
        for _ in range(2):
            try:
                return client.post(path, **body)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                return None
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                self.closed += 1
        return None

    def _report(self, event: Callable[[int], dict[str, Any]]) -> None:
        sent = 0
        with httpx.Client(base_url=self._url, timeout=90) as client:
            while not self._stop.is_set():
                batch = [event(n) for n in range(sent, sent + self.BATCH)]
                began = time.monotonic()
                answer = self._send(client, "/v1/events", json={"events": batch})
                self.longest_event = max(self.longest_event, time.monotonic() - began)
                self.event_statuses[answer.status_code if answer is not None else 0] += 1
                if answer is not None and answer.status_code == 200:
                    self.acknowledged += [e["event_id"] for e in batch]
                    sent += self.BATCH
                self._stop.wait(1 / self._event_rate)


def refusal_is_wrong(answer: httpx.Response) -> str:
    """What is wrong with a refusal: it is a problem, and 503 says when to come again."""
    if answer.status_code in NOT_REACHED:
        return ""
    if answer.headers.get("content-type") != PROBLEM:
        return f"{answer.status_code} as {answer.headers.get('content-type')}: {answer.text[:200]}"
    if answer.status_code == 503 and "retry-after" not in answer.headers:
        return "503 without Retry-After"
    return ""


@dataclass(frozen=True)
class Head:
    """The beginning of an answer: its status, its headers, and after how many seconds it came."""

    status: int
    headers: dict[str, str]
    wait: float


async def at_once(url: str, path: str, body: dict[str, Any], count: int) -> list[Head]:
    """The answers to so many requests, each on a connection of its own, sent at one moment.

    A client of HTTP would be busy for longer with so many than the deployment is.
    """
    host, port = url.rpartition("//")[2].split(":")
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    began = time.monotonic()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Head:
        writer.write(head.encode() + content)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        wait = time.monotonic() - began
        await reader.read()
        writer.close()
        pairs = (line.split(": ", 1) for line in lines if line)
        headers = {name.lower(): value for name, value in pairs}
        return Head(int(first.split()[1]), headers, wait)

    return list(await asyncio.gather(*(answer(*each) for each in opened)))
