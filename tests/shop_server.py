"""The shop's deployment and its playground behind one address, as Ray Serve has them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from tests import shop
from tests.http_calls import no_writers

from prerank.core.home import Home
from prerank.online.history import Event
from prerank.online.store import open_store
from prerank.online.writer import HistoryWriter, Written
from prerank.playground.config import PlaygroundConfig
from prerank.playground.http import PREFIX, PlaygroundHttp
from prerank.playground.service import Playground
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.http import HttpApi

POLL_S = 60.0
PATIENT_MS = 20_000.0
"""The machine may be busy; time-outs are not what is tested here."""


@dataclass
class Shop:
    """Answers like the two applications; ``playground`` may be asked directly, too."""

    live: HttpApi
    page: PlaygroundHttp
    playground: Playground

    async def answer(self, request: Request) -> Response:
        path = request.scope["path"]
        of_page = path == PREFIX or path.startswith(f"{PREFIX}/")
        return await (self.page if of_page else self.live).answer(request)


def lose_store(home: Home) -> None:
    """Take the online store from under those who read it: its tables are gone."""
    with closing(sqlite3.connect(open_store(home).config.online_store.path)) as db, db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in tables:
            db.execute(f'DROP TABLE "{name}"')


@contextmanager
def opened(
    home: Home, *, writes: bool = False, page: Mapping[str, Any] | None = None, **config: Any
) -> Iterator[Shop]:
    """Both over ``home``; with ``writes``, which one of them at a time may have, events too.

    ``config`` is of both, ``page`` of the playground alone.
    """
    common: dict[str, Any] = {
        "home": home.place,
        "clock": "replay",
        "poll_seconds": POLL_S,
        # Versions of the shop are registered without a job, and so without a gate.
        "require_gate": False,
    } | config
    settled = PlaygroundConfig(**common, timeout_ms=PATIENT_MS, **(page or {}))
    engine = Engine(ServeConfig(**common, timeout_ms=PATIENT_MS, golden_ms=1e9))
    engine.refresh()
    playground = Playground(settled)
    playground.start()
    with ExitStack() as stack:
        acknowledge = no_writers
        if writes:
            writer = stack.enter_context(
                HistoryWriter(home, open_store(home), shop.MANIFEST.schema)
            )

            async def acknowledge(events: list[Event]) -> Written:
                return await asyncio.to_thread(writer.write, events)

        live = HttpApi(engine.config, engine, acknowledge)
        yield Shop(live, PlaygroundHttp(settled, playground), playground)
    playground.stop()
    engine.stop()
