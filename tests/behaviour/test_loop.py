"""Three days through a deployment that learns from nothing but its own traffic.

Every query has a few items that its searchers like, which no log of before knows. Searchers click
what they like of what they are shown; each night a day's work is done.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests import samples
from tests.conftest import BuildHome
from tests.http_calls import LOCAL, NoEngine, call, whole
from tests.served_features import requests_of, served_is_joined

from interactrank.model.architectures import build
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.model.scorer import Scorer
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import DAY_US, iso
from prerank.dataset.build import build_training_set
from prerank.dataset.catalogue import load_catalogue
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest
from prerank.ingest.served import ingest_served
from prerank.online.history import Event
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.store import open_store
from prerank.online.writer import HistoryWriter, Written
from prerank.registry.bundle import Version
from prerank.registry.versions import Wanted
from prerank.serving.answer import Answer, Loaded, answer
from prerank.serving.api import PrerankRequest
from prerank.serving.config import ServeConfig, limits_of
from prerank.serving.http import HttpApi
from prerank.serving.served_log import LogConfig, ServedLog
from prerank.training.fit import fit
from prerank.training.reader import Reader, new_model

DAYS, REQUESTS_A_DAY, CANDIDATES, SHOWN, LIKED = 3, 90, 24, 8, 3
DAILY = FeatureConfig(cadence_hours=24)
SMALL = ModelConfig(
    width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,), dropout=0.1
)


@dataclass(frozen=True)
class World:
    """Who searches for what, and what they like."""

    queries: list[str]
    users: list[str]
    items: np.ndarray[Any, Any]
    liked: dict[str, set[int]]

    @classmethod
    def of(cls, home: Home, rng: np.random.Generator) -> World:
        items = load_catalogue(home).ids
        queries = [f"wish {word}" for word in ("sun", "moon", "rain", "snow", "wind", "hail")]
        liked = {q: set(rng.choice(items, LIKED, replace=False).tolist()) for q in queries}
        return cls(queries, [f"searcher {n}" for n in range(30)], items, liked)

    def search(self, rng: np.random.Generator) -> tuple[str, str, list[int]]:
        """Query, user and candidates, the liked items among them."""
        query = str(rng.choice(self.queries))
        others = rng.choice(self.items, CANDIDATES - LIKED, replace=False).tolist()
        found = list(dict.fromkeys([*others, *self.liked[query]]))
        rng.shuffle(found)
        return query, str(rng.choice(self.users)), found


class Deployment(NoEngine):
    """A replica of ``home`` that serves ``model``, with histories and a served log."""

    def __init__(self, home: Home, model: InteractRank) -> None:
        super().__init__(limits_of(home, ServeConfig(home=str(home.root), clock="replay")))
        catalogue = load_catalogue(home)
        with torch.no_grad():
            vectors = samples.item_vectors(model, catalogue)[1:].to(torch.bfloat16)
        self.loaded = Loaded(
            Wanted("champion", Version("1", "run")),
            Scorer(model, catalogue, catalogue.ids, vectors),
            self.limits(),
            OnlineFeatures(home, self.limits().schema, timeout_s=60.0),
        )
        self.writer = HistoryWriter(home, open_store(home), self.limits().schema)
        self.day = 0.0
        self.log = ServedLog(home, LogConfig(1.0, SHOWN, None), lambda: self.day)
        engine: Any = self
        self.api = HttpApi(ServeConfig(), engine, self.acknowledge, log=self.log)

    def answer(self, request: PrerankRequest) -> Answer:
        return answer(request, self.loaded)

    async def acknowledge(self, events: list[Event]) -> Written:
        return await asyncio.to_thread(self.writer.write, events)

    def send(self, path: str, body: Any) -> dict[str, Any]:
        got = asyncio.run(call(self.api, path, whole(orjson.dumps(body)), LOCAL))
        assert got.status_code == 200, bytes(got.body)
        told: dict[str, Any] = orjson.loads(got.body)
        return told

    def close(self) -> None:
        self.log.close()
        self.writer.close()
        self.loaded.features.close()


def traffic(deployment: Deployment, world: World, day_us: int, rng: np.random.Generator) -> float:
    """A day of searches; mean reciprocal rank of the first liked item that is shown."""
    deployment.day = day_us / 1e6
    ranks = []
    for n in range(REQUESTS_A_DAY):
        at = day_us + (n + 1) * DAY_US // (REQUESTS_A_DAY + 2)
        query, user, candidates = world.search(rng)
        name = f"{day_us // DAY_US}-{n}"
        asked = {"user_id": user, "query": query, "request_id": name, "time": iso(at)}
        told = deployment.send("/v1/prerank", asked | {"candidates": candidates, "k": CANDIDATES})
        assert told["degraded"] == []
        shown = [item["id"] for item in told["items"][:SHOWN]]
        places = [place for place, i in enumerate(shown, 1) if i in world.liked[query]]
        ranks.append(1 / places[0] if places else 0.0)
        clicks = [
            {"user_id": user, "item_id": shown[place - 1], "action": "click", "query": query}
            | {"event_time": iso(at + place * 1_000_000), "request_id": name}
            for place in places
            if rng.random() < 1 / place**0.5
        ]
        if clicks:
            assert deployment.send("/v1/events", {"events": clicks})["online"]
    return float(np.mean(ranks))


def night(deployment: Deployment, home: Home, day_us: int) -> None:
    """What `prerank update --served` does."""
    deployment.log.flush()
    found = ingest_served(home, pd.Timestamp(day_us, unit="us").date())
    assert found is not None
    assert found.answers == REQUESTS_A_DAY
    assert found.credited == found.events > 0
    build_features(home, DAILY)
    materialise(home, progress=False)
    deployment.loaded.features.look()


def trained(home: Home) -> InteractRank:
    """A model of what the home holds, trained here."""
    config = TrainConfig(epochs=6, batch_requests=16, warmup_steps=5, learning_rate=0.01)
    build_training_set(home)
    reader, best = Reader(home), dict[str, torch.Tensor]()
    model = new_model(reader, SMALL, config)
    trainer = Trainer(model, config, 48)

    def after(_: Any, improved: bool, __: Any) -> None:
        if improved:
            best.update({name: value.clone() for name, value in model.state_dict().items()})

    fit(trainer, reader, reader.epochs(config), after)
    model.load_state_dict(best)
    return model.eval()


@pytest.mark.slow
def test_three_days_of_its_own_traffic_make_a_better_model(
    build_home: BuildHome,
    tmp_path: Path,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(5)
    home = build_home(tmp_path, tiny_log, tiny_items, features=DAILY)
    materialise(home, progress=False)
    manifest = LogManifest.load(home)
    world, first = World.of(home, rng), (manifest.last_us // DAY_US + 1) * DAY_US
    torch.manual_seed(1)
    deployment = Deployment(home, build(SMALL, manifest.schema, load_catalogue(home)).eval())
    try:
        found = []
        for day in range(DAYS):
            found.append(traffic(deployment, world, first + day * DAY_US, rng))
            night(deployment, home, first + day * DAY_US)
    finally:
        deployment.close()
    last = requests_of(home, str(pd.Timestamp(first + (DAYS - 1) * DAY_US, unit="us").date()))
    assert len(last) == REQUESTS_A_DAY
    assert served_is_joined(home, last) > 1000

    own = Home.at(tmp_path / "own")
    days = sorted(home.events.glob("day=*"))[-DAYS:]
    log = pa.concat_tables(pq.read_table(f, partitioning=None) for d in days for f in d.iterdir())
    assert log.num_rows > DAYS * REQUESTS_A_DAY * SHOWN
    pq.write_table(log.drop_columns(["known_time"]), tmp_path / "own.parquet")
    ingest(tmp_path / "own.parquet", home.items, own, LogMapping())
    build_features(own, DAILY)
    materialise(own, progress=False)
    after = Deployment(own, trained(own))
    try:
        better = traffic(after, world, first + DAYS * DAY_US, rng)
    finally:
        after.close()
    assert better > found[0] + 0.2, (found, better)
