"""Replicas score items that were added to the index, without loading the model or the index."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.documented import run_block
from tests.following import ONE, REQUEST, TWO, engine_of, servable
from tests.online_log import CANDIDATES, ITEMS, START
from tests.small_versions import build_index as make_index
from tests.small_versions import save_model

from interactrank.features.catalogue import Catalogue
from prerank.core.home import ENV, Home
from prerank.core.times import iso
from prerank.registry import index as registry_index
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.additions import AddedItems, add_items
from prerank.registry.bundle import Version, load_bundle
from prerank.registry.delta import POINTER
from prerank.registry.golden import GOLDEN
from prerank.registry.index import build_index
from prerank.registry.registration import register
from prerank.serving.engine import Engine
from prerank.serving.items import item_of

NEW = np.array([ITEMS + 1, ITEMS + 2])
ASKED = replace(REQUEST, keys=np.concatenate((CANDIDATES, NEW)), k=ITEMS + 2)


@pytest.fixture
def engine(model_home: Home, promote: Callable[[Version], None]) -> Engine:
    """Serves version 1."""
    engine = engine_of(model_home)
    servable(model_home, ONE, 1)
    promote(ONE)
    engine.refresh()
    return engine


def items(ids: list[int], title: str) -> Catalogue:
    n = len(ids)
    none, born = np.zeros((n, 0), np.float32), np.full(n, START)
    return Catalogue.build(np.array(ids), [title] * n, [""] * n, none, born)


def add(home: Home, version: Version, catalogue: Catalogue) -> AddedItems:
    return add_items(home, load_bundle(home.models / version.name), version, catalogue)


def scores(engine: Engine) -> dict[int, float]:
    body = engine.answer(ASKED).body
    return {item["id"]: item["score"] for item in body["items"]}


def test_added_items_are_scored_and_changed_ones_otherwise_and_nothing_is_loaded_again(
    engine: Engine, model_home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "prerank")
    before, loaded = scores(engine), engine.current()
    assert engine.answer(ASKED).body["unknown_ids"] == NEW.tolist()
    caplog.clear()
    add(model_home, ONE, items([5, *NEW.tolist()], "a red shoe"))
    engine.refresh()
    found = scores(engine)
    assert found.keys() == before.keys()
    assert {key for key in before if before[key] != found[key]} == {5, *NEW.tolist()}
    assert engine.answer(ASKED).body["unknown_ids"] == []
    assert engine.health()["items"] == ITEMS + 2
    assert engine.health()["notes"] == []
    now = engine.current()
    assert (now.scorer.model, now.scorer.vectors) == (loaded.scorer.model, loaded.scorer.vectors)
    assert now.features is loaded.features
    assert now.limits is loaded.limits
    assert [r.getMessage() for r in caplog.records] == [
        "model version 1 scores 3 items that were added"
    ]
    told = item_of(str(NEW[0]), now)
    assert (told["indexed"], told["trained"], told["created"]) == (True, False, iso(START))
    # At the next poll there is nothing to do.
    caplog.clear()
    engine.refresh()
    assert engine.current().scorer is now.scorer
    assert caplog.text == ""


def test_a_replica_that_starts_and_an_index_that_is_built_score_the_same(
    engine: Engine, model_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(model_home, ONE, items([5, *NEW.tolist()], "a red shoe"))
    engine.refresh()
    found = scores(engine)
    another = engine_of(model_home)
    another.refresh()
    assert scores(another) == found
    monkeypatch.setattr(registry_index, "ray_map", lambda f, tasks, _: [f(task) for task in tasks])
    stamp = model_home.read_json(model_home.index / ONE.name / "index.json", "")["as_of_us"]
    build_index(model_home, model_home.models / ONE.name, ONE, stamp)
    # A live replica takes the index that was built, which passes the gate again.
    old = engine.current().scorer.vectors
    engine.refresh()
    assert engine.current().scorer.vectors is not old
    assert engine.health()["notes"] == []
    assert scores(engine) == found


def test_damaged_additions_are_said_and_what_joined_before_is_scored(
    engine: Engine, model_home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    add(model_home, ONE, items(NEW.tolist(), "a red shoe"))
    engine.refresh()
    found = scores(engine)
    pointer = model_home.index / ONE.name / POINTER
    whole = pointer.read_bytes()
    pointer.write_bytes(whole[:9])
    engine.refresh()
    (note,) = engine.health()["notes"]
    assert "items that were added to model version 1 are not scored" in note
    assert f"{pointer} is damaged" in note
    assert scores(engine) == found
    assert engine.ready()[0]
    # It is not read at each poll.
    caplog.clear()
    engine.refresh()
    assert caplog.text == ""
    assert engine.health()["notes"] == [note]
    # A replica that starts serves what it has, and says what it has not.
    another = engine_of(model_home)
    another.refresh()
    assert another.answer(ASKED).body["unknown_ids"] == NEW.tolist()
    assert another.health()["notes"] == [note]
    # Whoever removes it, as they are told, does without until items are added again.
    pointer.unlink()
    engine.refresh()
    assert engine.health()["notes"] == []
    assert scores(engine) == found
    add(model_home, ONE, items(NEW.tolist(), "a red shoe"))
    for either in (engine, another):
        either.refresh()
        assert either.health()["notes"] == []
        assert scores(either) == found


# MLflow's, of the loader of a registered version.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_the_command_adds_items_to_the_champion_and_says_how_many(
    model_home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv(ENV, str(model_home.root))
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"item_id": [5, *NEW], "title": "a red shoe"}).to_parquet("new_items.parquet")
    try:
        tracking.connect(model_home)
        with tracking.job_run(model_home, "train", {}, {}) as run_id:
            pass
        bundle = save_model(tmp_path / "bundle", 1)
        version = register(bundle, run_id, {}, {})
        fetched = registry.download(model_home, version)
        assert (fetched / GOLDEN).exists()
        make_index(model_home, fetched, version)
        with pytest.raises(SystemExit):
            run_block("add-items")
        assert "no version is the champion: give --version" in capsys.readouterr().err
        registry.promote(model_home, version)
        run_block("add-items")
        said = capsys.readouterr().out
        assert "2 new items, 1 changed, 0 as they were" in said
        assert "prerank index --version 1" in said
        run_block("add-items")
        assert "0 new items, 0 changed, 3 as they were" in capsys.readouterr().out
        # Promotion looks at the index alone, whose golden requests are as they were.
        registry.promote(model_home, version)
    finally:
        mlflow.set_tracking_uri(before)


def test_each_version_has_items_of_its_own(
    engine: Engine, model_home: Home, promote: Callable[[Version], None]
) -> None:
    servable(model_home, TWO, 2)
    add(model_home, ONE, items(NEW.tolist(), "a red shoe"))
    promote(TWO)
    engine.refresh()
    assert engine.answer(ASKED).body["unknown_ids"] == NEW.tolist()
    add(model_home, TWO, items(NEW.tolist(), "a red shoe"))
    engine.refresh()
    assert engine.answer(ASKED).body["unknown_ids"] == []
