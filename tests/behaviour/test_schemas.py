"""A log whose schema changes: the live model keeps its features, and going back works.

The log of tests/online_log.py is replaced by one with other actions and segments. Real Feast and a
real engine; the registry alone is a dictionary.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
import torch
from redis import Redis
from tests import online_log
from tests.online_log import CANDIDATES, ITEMS, MANIFEST, UNTIL, as_table, start_over

from interactrank.features.engagement import cross_features
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.feature_sets import manifests
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.features.offline import offline_inputs
from prerank.online.history import Event
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV, open_store
from prerank.online.writer import HistoryWriter
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, load_bundle, save_bundle
from prerank.registry.index import SliceTask, encode_task, write_index
from prerank.serving.api import parse_json
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine

# Actions are coded by their place: what is a click there is hidden here, a save an impression.
NEXT = replace(
    MANIFEST,
    actions=("buy", "hide", "impression", "save"),
    heads={"engagement": ("buy", "save")},
    segments=("device",),
    fingerprint="two",
)
A, B = MANIFEST.schema, NEXT.schema
SMALL = ModelConfig(width=16, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,))
QUERY, USER = online_log.log()[["query", "user_id"]].iloc[0]
Champion = dict[str, Version]
ONE, TWO = Version("1", "a1a1a1a1a1"), Version("2", "b2b2b2b2b2")


def version_of(home: Home, manifest: LogManifest, version: Version) -> None:
    """An untrained model of the log's schema, with its index."""
    catalogue = online_log.catalogue()
    torch.manual_seed(int(version.number))
    model = InteractRank(SMALL, manifest.schema, catalogue)
    if model.fusion.crosses:
        torch.nn.init.normal_(model.fusion.weight)
    bundle, index = home.models / version.name, home.index / version.name
    save_bundle(bundle, model, catalogue, {})
    index.mkdir(parents=True)
    encode_task(SliceTask(bundle, 0, ITEMS, 0, index / "part"))
    write_index(index, load_bundle(bundle), version, 0, [index / "part"])


def replace_log(home: Home) -> None:
    """What `prerank ingest --replace` and `prerank features` do to a home, with another log."""
    start_over(home, NEXT)
    events = online_log.log()
    events["action"] = events["action"].replace("click", "buy")
    online_log.build(home, NEXT, events)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, built: Home) -> Home:
    """The first log's features and a version 1 that was trained with them. Read only."""
    home = Home.at(tmp_path_factory.mktemp("first") / "home")
    shutil.copytree(built.root, home.root)
    version_of(home, MANIFEST, ONE)
    return home


@pytest.fixture
def home(first: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The same with its features online in a store of its own."""
    monkeypatch.delenv(REDIS_ENV, raising=False)
    shutil.copytree(first.root, tmp_path / "home")
    home = Home.at(tmp_path / "home")
    materialise(home, UNTIL, progress=False)
    return home


@pytest.fixture
def champion(monkeypatch: pytest.MonkeyPatch) -> Champion:
    """Aliases of a registry; version 1 is the champion."""
    aliases = {registry.CHAMPION: ONE}
    monkeypatch.setattr(registry, "alias_version", aliases.get)
    return aliases


def engine_of(home: Home) -> Engine:
    """A replica that starts."""
    engine = Engine(
        ServeConfig(home=str(home.root), clock="replay", timeout_ms=10_000, require_gate=False)
    )
    engine.refresh()
    assert engine.ready() == (True, "")
    return engine


def answered(engine: Engine, user: str = USER) -> dict[str, Any]:
    body = {
        "request_id": "r",
        "user_id": user,
        "query": QUERY,
        "candidates": CANDIDATES.tolist(),
        "k": ITEMS,
        "time": UNTIL + 10,
        "explain": True,
    }
    return engine.answer(parse_json(orjson.dumps(body), engine.limits(), 0)).body


def features_of(answer: dict[str, Any], prefix: str) -> dict[int, dict[str, float]]:
    """The cross features of each item whose names begin with ``prefix``."""
    return {
        item["id"]: {n: v for n, v in item["features"].items() if n.startswith(prefix)}
        for item in answer["items"]
    }


def offline_x(home: Home, user: str = USER) -> np.ndarray:
    """Cross features as the offline tables of the log's present schema give them."""
    inputs = offline_inputs(home, as_table(QUERY, user, {}, UNTIL))
    schema = LogManifest.load(home).schema
    none = np.zeros(ITEMS, np.int64)
    return cross_features(schema, inputs, CANDIDATES, np.array([0, ITEMS]), none)


def test_another_schema_leaves_the_live_model_its_features_and_both_are_served(
    home: Home, champion: Champion
) -> None:
    live = engine_of(home)
    before = answered(live)
    assert before["degraded"] == []
    assert any(features_of(before, "q:").values())
    assert any(features_of(before, "user:touched:click").values())

    replace_log(home)
    materialise(home, UNTIL, progress=False)
    assert answered(live) == before, "the next schema's rows came upon the live model"
    assert answered(engine_of(home)) == before, "a replica that restarts"

    version_of(home, NEXT, TWO)
    champion[registry.CHAMPION] = TWO
    live.refresh()
    after = answered(live)
    assert (after["model_version"], after["degraded"]) == ("2", [])
    expected = offline_x(home)
    assert expected[:, [n.startswith("q:") for n in B.cross]].any()
    served = {item["id"]: item["features"] for item in after["items"]}
    x = [[served[i].get(name, 0.0) for name in B.cross] for i in CANDIDATES.tolist()]
    np.testing.assert_allclose(x, expected, atol=1e-6)

    champion[registry.CHAMPION] = ONE
    live.refresh()
    assert answered(live) == before, "the way back"
    assert live.health()["schema_hash"] == A.hash()


def test_other_action_codes_mislabel_no_history_and_events_reach_both(
    home: Home, champion: Champion
) -> None:
    live = engine_of(home)
    with HistoryWriter(home, open_store(home), A) as writer:
        writer.write([Event("newcomer", 3, "click", UNTIL + 1, 1)])
        writer.write([Event("newcomer", 4, "save", UNTIL + 2, 2)])
        replace_log(home)
        materialise(home, UNTIL, progress=False)
        version_of(home, NEXT, TWO)
        champion[registry.CHAMPION] = TWO
        # The writer that runs knows the first schema; the second's action is taken all the same.
        writer.write([Event("newcomer", 5, "buy", UNTIL + 3, 3)])
    touched = features_of(answered(engine_of(home), "newcomer"), "user:touched:")
    assert {i: list(f) for i, f in touched.items() if f} == {
        4: ["user:touched:save"],
        5: ["user:touched:buy"],
    }
    touched = features_of(answered(live, "newcomer"), "user:touched:")
    assert {i: list(f) for i, f in touched.items() if f} == {
        3: ["user:touched:click"],
        4: ["user:touched:save"],
    }


def rows_online(home: Home) -> set[str]:
    """Feature views that have a row in the SQLite store."""
    with sqlite3.connect(home.feast / "online.db") as db:
        names = [n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        filled = {n for n in names if db.execute(f"SELECT 1 FROM {n} LIMIT 1").fetchone()}
    db.close()
    return {name.removeprefix(f"prerank_{home.id}_") for name in filled}


def test_a_schema_is_removed_once_no_version_needs_it(home: Home, champion: Champion) -> None:
    replace_log(home)
    materialise(home, UNTIL, progress=False)
    both = {s.engagement_view for s in (A, B)} | {s.history_view for s in (A, B)}
    assert rows_online(home) == both
    version_of(home, NEXT, TWO)
    for folder in (home.models, home.index):
        shutil.rmtree(folder / ONE.name)
    (home.feast / "materialised.json").write_text("{}")
    (home.feast / "replayed-redis-0123456789abcdef-0-of-1.json").write_text("{}")
    assert materialise(home, UNTIL, progress=False)["removed"] == [A.hash()]
    assert rows_online(home) == {B.engagement_view, B.history_view}
    assert set(manifests(home)) == {B.hash()}
    assert [p.name for p in home.feast.glob("*.json")] == [f"materialised-{B.hash()}.json"]
    champion[registry.CHAMPION] = TWO
    assert answered(engine_of(home))["degraded"] == []


def test_a_new_store_gets_the_features_of_every_version(
    home: Home,
    champion: Champion,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = answered(engine_of(home))
    replace_log(home)
    materialise(home, UNTIL, progress=False)
    monkeypatch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())
    materialise(home, UNTIL, progress=False)
    assert answered(engine_of(home)) == before
    version_of(home, NEXT, TWO)
    shutil.rmtree(home.models / ONE.name)
    shutil.rmtree(home.index / ONE.name)
    materialise(home, UNTIL, progress=False)
    address, database = os.environ[REDIS_ENV].split(",db=")
    with Redis.from_url(f"redis://{address}/{database}") as client:
        fields = {f for key in client.scan_iter() for f in client.hkeys(key)}
    stamps = {f.decode() for f in fields if f.startswith(b"_ts:")}
    assert stamps == {f"_ts:{B.engagement_view}", f"_ts:{B.history_view}"}


@pytest.fixture
def only_segments_differ(home: Home) -> Callable[[], Home]:
    def change() -> Home:
        manifest = replace(MANIFEST, segments=("device",), fingerprint="two")
        start_over(home, manifest)
        online_log.build(home, manifest)
        materialise(home, UNTIL, progress=False)
        return home

    return change


def test_schemas_with_the_same_actions_share_one_history(
    only_segments_differ: Callable[[], Home],
) -> None:
    home = only_segments_differ()
    assert len([v for v in rows_online(home) if v.startswith("user_history_")]) == 1
    assert len([v for v in rows_online(home) if v.startswith("engagement_")]) == 2


def test_feasts_command_registers_the_same_views(home: Home, tmp_path: Path) -> None:
    """`feast apply` deletes what is not among the definitions: nothing that is online may be."""
    replace_log(home)
    materialise(home, UNTIL, progress=False)
    from prerank.online.store import apply

    views = {view.name: view.online for view in apply(home).list_feature_views()}
    assert {name for name, online in views.items() if online} == rows_online(home)
    neighbours = {s.neighbours_view for s in (A, B) if s.graph}
    assert {name for name, online in views.items() if not online} == neighbours
    services = {service.name for service in apply(home).list_feature_services()}
    assert services == {f"prerank_{s.hash()}" for s in (A, B)}
    frame: pd.DataFrame = (
        apply(home)
        .get_historical_features(
            pd.DataFrame(
                {"user_id": [USER], "event_timestamp": [pd.Timestamp(UNTIL, unit="us", tz="UTC")]}
            ),
            [f"{A.history_view}:item_ids"],
        )
        .to_df()
    )
    assert len(frame) == 1
