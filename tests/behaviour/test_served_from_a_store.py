"""A replica whose home is in an object store follows what other nodes publish; without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.following import ONE, REQUEST, TWO, engine_of, scores
from tests.object_stores import Nodes, nodes, watched
from tests.online_log import ITEMS, MANIFEST, START, UNTIL, log
from tests.small_versions import save_model

from interactrank.features.catalogue import Catalogue
from prerank.core.errors import ConfigError, StateError
from prerank.core.files import replaced
from prerank.core.home import Home
from prerank.features import build as features
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.ingest.publish import new_log
from prerank.online.compaction import JournalConfig
from prerank.online.logs import open_log
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV
from prerank.registry.additions import add_items
from prerank.registry.bundle import Version, load_bundle
from prerank.registry.index import SliceTask, encode_task, write_index


def serially(function: Callable[[Any], Any], tasks: Sequence[Any], name: str) -> list[Any]:
    return [function(task) for task in tasks]


@pytest.fixture
def store(
    tmp_path: Path, new_redis: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Nodes]:
    """A home with features online and no model."""
    monkeypatch.setenv(REDIS_ENV, new_redis())
    monkeypatch.setattr(features, "ray_map", serially)
    with nodes(tmp_path) as made:
        with made.node("maker") as home:
            with new_log(home, starts_over=True) as new:
                (new.events / "day=2020-09-13").mkdir(parents=True)
                events = pa.Table.from_pandas(log(), preserve_index=False)
                pq.write_table(events, new.events / "day=2020-09-13" / "part-0.parquet")
                MANIFEST.save(new)
            build_features(home, FeatureConfig(lag_minutes=20))
            materialise(home, UNTIL, progress=False)
        yield made


def build(home: Home, version: Version, seed: int) -> None:
    """A version in MLflow, as far as this node is concerned, and its index in the store."""
    bundle = save_model(home.models / version.name, seed)
    loaded = load_bundle(bundle)
    with replaced(home.index / version.name) as out:
        encode_task(SliceTask(bundle, 0, len(loaded.catalogue), UNTIL, out / "part"))
        write_index(out, loaded, version, UNTIL, [out / "part"])


def test_a_replica_follows_what_another_node_publishes(
    store: Nodes, promote: Callable[[Version], None]
) -> None:
    with store.node("replica") as replica:
        engine = engine_of(replica)
        engine.refresh()
        assert "no model is champion" in engine.ready()[1]
        found = {}
        for seed, version in enumerate((ONE, TWO)):
            promote(version)
            engine.refresh()
            assert "no item index" in engine.ready()[1] or version is TWO
            with store.node("maker") as maker:
                build(maker, version, seed)
                # What the replica would download from MLflow.
                own = replica.models / version.name
                shutil.copytree(maker.models / version.name, own)
            engine.refresh()
            assert engine.health()["notes"] == []
            assert engine.model_version == version.number
            found[version.number] = scores(engine)[1]
        assert not np.allclose(found["1"], found["2"])
        with store.node("maker") as maker:
            none = np.zeros((1, 0), np.float32)
            new = Catalogue.build(np.array([ITEMS + 1]), ["new"], [""], none, np.full(1, START))
            add_items(maker, load_bundle(maker.models / TWO.name), TWO, new)
        engine.refresh()
        assert engine.health()["items"] == ITEMS + 1
        engine.stop()


def test_a_replica_serves_what_it_has_while_the_store_does_not_answer(
    store: Nodes, promote: Callable[[Version], None]
) -> None:
    def away(what: str, path: str) -> None:
        raise OSError("503 Slow Down")

    with store.node("maker") as maker:
        build(maker, ONE, 1)
        promote(ONE)
        engine = engine_of(maker)
        with watched(away):
            engine.refresh()
            assert engine.model_version == "1"
            assert engine.answer(REQUEST).body["items"]
            (note,) = engine.health()["notes"]
            assert note.startswith("the state of before is served:")
        engine.refresh()
        assert engine.health()["notes"] == []
        engine.stop()


def test_events_ask_for_redis(store: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REDIS_ENV)
    with (
        store.node("replica") as home,
        pytest.raises(ConfigError, match=r"PRERANK_HOME=disk://.*set PRERANK_REDIS"),
    ):
        open_log(home, 0, 1, JournalConfig(), 0.0)


def test_a_second_filling_of_the_store_is_seen_by_a_node_that_did_not_do_it(store: Nodes) -> None:
    with store.node("other") as home:
        # It goes on from the state that the first node left, and does not go back before it.
        with pytest.raises(StateError, match="already holds the state of"):
            materialise(home, UNTIL - 86_400_000_000, progress=False)
        assert materialise(home, progress=False)["until_us"] > UNTIL
