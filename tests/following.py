"""Small model versions in a home whose features are online, and an engine that follows them."""

from __future__ import annotations

import numpy as np
from tests.online_log import CANDIDATES, ITEMS, MANIFEST, UNTIL
from tests.small_versions import build_index, save_model

from prerank.core.home import Home
from prerank.registry.bundle import Version
from prerank.serving.api import PrerankRequest
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine

ONE, TWO = Version("1", "a1a1a1a1a1"), Version("2", "b2b2b2b2b2")
SCHEMA = MANIFEST.schema
REQUEST = PrerankRequest(
    request_id="r",
    user_id="u1",
    query="red shoe",
    keys=CANDIDATES,
    originals=None,
    k=ITEMS,
    time_us=UNTIL,
    weights=np.ones(1, np.float32),
    explain=False,
    context={"country": "de", "device": "tv"},
)


def servable(home: Home, version: Version, seed: int, golden: bool = True) -> None:
    """A version with its index."""
    build_index(home, save_model(home.models / version.name, seed, golden=golden), version)


def engine_of(
    home: Home, poll_seconds: float = 25.0, golden_ms: float = 1e5, require_gate: bool = False
) -> Engine:
    """An engine that nobody but the test refreshes, and that tries a failure again after a minute
    at the earliest."""
    return Engine(
        ServeConfig(
            home=home.place,
            clock="replay",
            poll_seconds=poll_seconds,
            golden_ms=golden_ms,
            require_gate=require_gate,
        )
    )


def scores(engine: Engine) -> tuple[str, list[float]]:
    """Version and scores of the request, by item."""
    body = engine.answer(REQUEST).body
    by_item = sorted(body["items"], key=lambda item: item["id"])
    return body["model_version"], [item["score"] for item in by_item]
