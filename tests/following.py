"""Small model versions in a home whose features are online, and an engine that follows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tests import online_log
from tests.golden import golden_for
from tests.online_log import CANDIDATES, ITEMS, MANIFEST, UNTIL

from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.home import Home
from prerank.registry.bundle import Version, load_bundle, save_bundle
from prerank.registry.golden import save_golden
from prerank.registry.index import SliceTask, encode_task, write_index
from prerank.serving.api import PrerankRequest
from prerank.serving.engine import Engine, ServeConfig

ONE, TWO = Version("1", "a1a1a1a1a1"), Version("2", "b2b2b2b2b2")
SCHEMA = MANIFEST.schema
CATALOGUE = online_log.catalogue()
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


def save_model(folder: Path, seed: int, golden: bool = True) -> Path:
    """An untrained model, another for each seed, with golden requests or as before there were."""
    torch.manual_seed(seed)
    config = ModelConfig(width=16, mask_blocks=1, mask_width=16, hidden=(16,))
    save_bundle(folder, InteractRank(config, SCHEMA, CATALOGUE).eval(), CATALOGUE, {})
    if golden:
        save_golden(folder, golden_for(load_bundle(folder)))
    return folder


def build_index(home: Home, bundle: Path, version: Version) -> None:
    """As `prerank index` does, in this process."""
    out = home.index / version.name
    out.mkdir(parents=True)
    encode_task(SliceTask(bundle, 0, ITEMS, UNTIL, out / "part"))
    write_index(out, load_bundle(bundle), version, UNTIL, [out / "part"])


def servable(home: Home, version: Version, seed: int, golden: bool = True) -> None:
    """A version with its index."""
    build_index(home, save_model(home.models / version.name, seed, golden), version)


def engine_of(home: Home, poll_seconds: float = 25.0, golden_ms: float = 1e5) -> Engine:
    """An engine that nobody but the test refreshes, and that tries a failure again after a minute
    at the earliest."""
    return Engine(
        ServeConfig(
            home=str(home.root), clock="replay", poll_seconds=poll_seconds, golden_ms=golden_ms
        )
    )


def scores(engine: Engine) -> tuple[str, list[float]]:
    """Version and scores of the request, by item."""
    body = engine.answer(REQUEST).body
    by_item = sorted(body["items"], key=lambda item: item["id"])
    return body["model_version"], [item["score"] for item in by_item]
