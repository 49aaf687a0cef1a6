"""Shards of an index follow versions, on files and on a Ray of their own process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.experiments import experiment
from tests.following import ONE, REQUEST, TWO, scores
from tests.local_shards import shards_of as local_shards_of
from tests.online_log import UNTIL, beside
from tests.small_versions import build_index as index_of
from tests.small_versions import save_model

from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV
from prerank.registry import versions as registry
from prerank.registry.bundle import Version
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.metrics import Metrics
from prerank.serving.shard import Shard
from prerank.serving.shards import Shards
from prerank.serving.variants import Variants

SHARDS = 2
PATIENT_S = 120.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, built: Home) -> Home:
    """Two versions that can be served. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(REDIS_ENV, raising=False)
        home = beside(built, tmp_path_factory.mktemp("shards"))
        materialise(home, UNTIL, progress=False)
    for seed, version in enumerate((ONE, TWO)):
        index_of(home, save_model(home.models / version.name, seed), version)
    return home


@pytest.fixture
def promote(monkeypatch: pytest.MonkeyPatch) -> Callable[[Version], None]:
    """Moves the alias of a registry."""
    monkeypatch.delenv(REDIS_ENV, raising=False)
    aliases: dict[str, Version] = {}
    monkeypatch.setattr(registry, "alias_version", aliases.get)

    def move(version: Version) -> None:
        aliases[registry.CHAMPION] = version

    return move


def engine_of(home: Home, shards: Shards | None = None) -> Engine:
    config = ServeConfig(
        home=str(home.root),
        clock="replay",
        poll_seconds=25.0,
        golden_ms=1e5,
        shards=SHARDS,
        require_gate=False,
    )
    return Engine(config, shards)


def alone(home: Home) -> tuple[str, list[float]]:
    """Version and scores of the request, from one process."""
    engine = engine_of(home)
    engine.refresh()
    return scores(engine)


def test_a_new_version_is_served_once_every_shard_has_it(
    home: Home, promote: Callable[[Version], None]
) -> None:
    own = [Shard(home, shard, SHARDS) for shard in range(SHARDS)]
    away = True

    def load(version: Version) -> None:
        if away and version == TWO:
            raise NotReadyError("shard 1 of the index has not started")
        for shard in own:
            shard.load(version)

    engine = engine_of(home, local_shards_of([shard.score for shard in own], load))
    expected = {}
    for version in (ONE, TWO):
        promote(version)
        expected[version] = alone(home)
    promote(ONE)
    engine.refresh()
    assert scores(engine) == expected[ONE]
    promote(TWO)
    engine.refresh()
    assert scores(engine) == expected[ONE]
    (note,) = engine.health()["notes"]
    assert note.endswith("is refused: shard 1 of the index has not started")
    away = False
    # It is tried again later; a front that starts now need not wait.
    later = engine_of(home, local_shards_of([shard.score for shard in own], load))
    later.refresh()
    assert scores(later) == expected[TWO]
    # The front of before is answered with its own version still.
    assert scores(engine) == expected[ONE]


def test_the_version_before_answers_where_a_shard_has_yet_to_load_the_new_one(
    home: Home, promote: Callable[[Version], None]
) -> None:
    own = [Shard(home, shard, SHARDS) for shard in range(SHARDS)]

    def load(version: Version) -> None:
        # As of a shard with two replicas, of which requests meet the one that was not told.
        for shard in own if version == ONE else own[:1]:
            shard.load(version)

    engine = engine_of(home, local_shards_of([shard.score for shard in own], load))
    promote(ONE)
    engine.refresh()
    expected = alone(home)
    promote(TWO)
    engine.refresh()
    assert engine.model_version == "2"
    assert scores(engine) == expected
    own[1].load(TWO)
    assert scores(engine) == alone(home)
    # A shard that has neither is missed, and the answer says so.
    stranger = Shard(home, 1, SHARDS)
    fresh = engine_of(home, local_shards_of([own[0].score, stranger.score], lambda _: None))
    fresh.refresh()
    body = fresh.answer(REQUEST).body
    assert body["degraded"] == ["shards"]
    assert body["missing_shards"] == [{"shard": 1, "cause": "version", "share": 0.5}]


@pytest.fixture(scope="module")
def handles(home: Home, ray_local: None) -> Iterator[list[Any]]:
    """Two shards on Ray Serve, without HTTP."""
    from ray import serve

    from prerank.serving.deployment import IndexShard

    shard: Any = IndexShard
    serve.start(proxy_location="Disabled")
    config = {"home": str(home.root), "shards": SHARDS}
    try:
        yield [
            serve.run(
                shard.options(ray_actor_options={"num_cpus": 0}).bind(config, at),
                name=f"part-{at}",
                route_prefix=None,
            )
            for at in range(SHARDS)
        ]
    finally:
        serve.shutdown()


def kill(application: str) -> None:
    """End the replica of an application, as a lost node would."""
    import ray
    from ray.util import list_named_actors

    for actor in list_named_actors(all_namespaces=True):
        if actor["name"].startswith(f"SERVE_REPLICA::{application}#"):
            ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))


@pytest.mark.slow
@pytest.mark.faults
def test_an_experiment_has_its_versions_loaded_by_the_shards(
    home: Home,
    promote: Callable[[Version], None],
    handles: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prerank.serving.deployment import shards_of

    promote(ONE)
    monkeypatch.setattr(registry, "version_of", {"2": TWO}.get)
    engine = engine_of(home, shards_of(handles, timeout_s=20.0))
    engine.refresh()
    variants = Variants(engine, Metrics())
    variants.follow(experiment()).join()
    assert variants.notes() == []
    seen = {}
    for n in range(20):
        answer = variants.answer(replace(REQUEST, request_id=f"r{n}", user_id=""))
        body = answer.body
        assert (body["degraded"], "fallback" in body) == ([], False)
        seen[body["variant"]] = body["model_version"]
    variants.stop()
    assert seen == {"a": "1", "b": "2"}
    assert scores(engine) == alone(home)


@pytest.mark.slow
@pytest.mark.faults
def test_a_shard_that_is_killed_is_missed_and_comes_back(
    home: Home, promote: Callable[[Version], None], handles: list[Any], tmp_path: Path
) -> None:
    from prerank.serving.deployment import shards_of

    promote(ONE)
    engine = engine_of(home, shards_of(handles, timeout_s=5.0))
    engine.refresh()
    assert engine.ready() == (True, ""), engine.ready()
    assert scores(engine) == alone(home)
    kill("part-1")
    seen = []
    until = time.monotonic() + PATIENT_S
    while time.monotonic() < until:
        body = engine.answer(REQUEST).body
        seen.append(body["degraded"])
        if body["degraded"]:
            (missing,) = body["missing_shards"]
            assert (missing["shard"], missing["share"]) == (1, 0.5)
            assert len(body["items"]) == len(REQUEST.keys) / 2
        elif ["shards"] in seen:
            break
        time.sleep(0.05)
    assert ["shards"] in seen, "nobody missed it"
    assert seen[-1] == [], "it did not come back"
    assert scores(engine) == alone(home)
