"""A replica follows the champion: over versions of one registry, and of two; without Ray."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.following import ONE, SCHEMA, TWO, engine_of, scores, servable
from tests.small_versions import build_index, save_model

from prerank.core.errors import NotReadyError, StateError
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, load_bundle
from prerank.registry.index import load_index
from prerank.registry.registration import register


@pytest.fixture
def home(model_home: Home) -> Home:
    return model_home


def test_a_request_sees_one_version_while_another_takes_its_place(
    home: Home, promote: Callable[[Version], None]
) -> None:
    engine, expected = engine_of(home), {}
    for version in (ONE, TWO):
        servable(home, version, int(version.number))
        promote(version)
        engine.refresh()
        number, expected[version.number] = scores(engine)
        assert number == version.number
    assert not np.allclose(expected["1"], expected["2"])
    seen: list[tuple[str, list[float]]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.append(scores(engine))

    caller = threading.Thread(target=ask)
    caller.start()
    for version in 3 * (ONE, TWO):
        promote(version)
        engine.refresh()
        before = len(seen)
        while len(seen) < before + 2 and caller.is_alive():
            time.sleep(0.001)
    done.set()
    caller.join()
    assert {number for number, _ in seen} == {"1", "2"}
    for number, found in seen:
        assert found == expected[number]


def test_a_version_that_cannot_be_served_is_not_loaded_at_each_poll(
    home: Home, promote: Callable[[Version], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "prerank")
    engine = engine_of(home)
    servable(home, ONE, 1)
    promote(ONE)
    engine.refresh()
    save_model(home.models / TWO.name, 2)
    promote(TWO)
    caplog.clear()
    for _ in range(5):
        engine.refresh()
        assert engine.health()["model_version"] == "1"
        assert engine.health()["notes"] == [
            "model version 2 is refused: model version 2 has no item index. "
            "Run `prerank index --version 2`."
        ]
    assert tried(caplog) == ["looking at model version 2"]
    # What it lacked is there.
    build_index(home, home.models / TWO.name, TWO)
    engine.refresh()
    assert engine.health()["model_version"] == "2"
    assert engine.health()["notes"] == []


def tried(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [record.getMessage() for record in caplog.records]
    return [text for text in texts if text.startswith(("looking at", "loading"))]


def test_features_that_are_not_online_are_noticed_before_anything_large_is_read(
    home: Home, promote: Callable[[Version], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "prerank")
    servable(home, ONE, 1)
    promote(ONE)
    path = home.materialised_of(SCHEMA.hash())
    state = json.loads(path.read_text())
    path.unlink()
    engine = engine_of(home)
    for _ in range(3):
        engine.refresh()
        assert "not materialised" in engine.ready()[1]
    assert tried(caplog) == ["looking at model version 1"]
    write_json(path, state)
    engine.refresh()
    assert engine.ready() == (True, "")


@pytest.fixture
def use(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Points MLflow at store "a" or "b", as another MLFLOW_TRACKING_URI would."""
    import mlflow

    before, folder = mlflow.get_tracking_uri(), home.root.parent

    def point(name: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / name}.db")
        tracking.connect(home)

    # An empty store takes seconds to make.
    point("a")
    shutil.copy(folder / "a.db", folder / "b.db")
    yield point
    mlflow.set_tracking_uri(before)


# MLflow's, of the loader of a registered version.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_a_second_registrys_version_1_is_not_the_firsts(
    home: Home, tmp_path: Path, use: Callable[[str], None]
) -> None:
    engine, of = engine_of(home), {}
    for seed, name in enumerate("ab"):
        use(name)
        with tracking.job_run(home, "train", {}, {}) as run_id:
            pass
        of[name] = register(save_model(tmp_path / name, seed), run_id, {}, {})
        assert str(of[name]) == "1"
        assert registry.version_of("1") == of[name]
        fetched = registry.download(home, of[name])
        digest = load_bundle(fetched).digest
        assert digest == load_bundle(tmp_path / name).digest
        with pytest.raises(NotReadyError, match="no item index"):
            load_index(home, of[name], digest)
        build_index(home, fetched, of[name])
        registry.promote(home, of[name])
        engine.refresh()
        assert engine.health()["run_id"] == run_id
    first, second = of["a"], of["b"]
    served = scores(engine)
    use("a")
    engine.refresh()
    assert engine.health()["run_id"] == first.run_id
    assert not np.allclose(scores(engine)[1], served[1])
    with pytest.raises(StateError, match="other weights"):
        load_index(home, second, load_bundle(tmp_path / "a").digest)
