"""A promoted version is served when it passes the gate; else the old one stays, and it is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.following import ONE, TWO, engine_of, scores, servable
from tests.golden import REQUESTS
from tests.http_calls import api_of, client_of
from tests.small_versions import build_index, save_model

from prerank.core.files import read_json, write_json
from prerank.core.home import Home
from prerank.registry.bundle import DIGEST, META, WEIGHTS, Version, digest_of
from prerank.registry.golden import GOLDEN
from prerank.serving import metrics
from prerank.serving.engine import Engine

Promote = Callable[[Version], None]


def refused(engine: Engine, caplog: pytest.LogCaptureFixture) -> str:
    """The cause for which a version is refused, of which everything tells."""
    engine.refresh()
    (cause,) = engine.health()["notes"]
    assert cause == engine.refused
    logged = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert logged == [cause]
    api = api_of(engine)
    api.sample()
    assert api.metrics.value(metrics.MODEL_REFUSED) == 1.0
    with client_of(api) as client:
        answer = client.get("/ready")
    assert cause in answer.text
    assert answer.status_code == (503 if engine.model_version is None else 200)
    return cause


def tamper(bundle: Path) -> None:
    """Change the weights, and every checksum with them."""
    weights = load_file(bundle / WEIGHTS)
    name = "query_tower.body.mlp.0.weight"
    save_file(weights | {name: weights[name].flip(0).contiguous()}, bundle / WEIGHTS)
    meta = read_json(bundle / META)
    write_json(bundle / META, meta | {DIGEST: digest_of(bundle / WEIGHTS)})


@pytest.fixture
def engine(model_home: Home, promote: Promote) -> Engine:
    """Serves version 1."""
    engine = engine_of(model_home)
    servable(model_home, ONE, 1)
    promote(ONE)
    engine.refresh()
    assert engine.health()["notes"] == []
    return engine


def test_a_version_that_scores_as_at_training_is_served(
    engine: Engine, model_home: Home, promote: Promote, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "prerank")
    servable(model_home, TWO, 2)
    promote(TWO)
    engine.refresh()
    assert (engine.model_version, engine.health()["notes"], engine.refused) == ("2", [], "")
    assert engine.ready() == (True, "")
    assert f"model version 2 scores {REQUESTS} golden requests as training did" in caplog.text
    api = api_of(engine)
    api.sample()
    assert api.metrics.value(metrics.MODEL_REFUSED) == 0.0


def test_a_version_that_scores_other_than_at_training_is_refused(
    engine: Engine, model_home: Home, promote: Promote, caplog: pytest.LogCaptureFixture
) -> None:
    before = scores(engine)
    bundle = save_model(model_home.models / TWO.name, 2)
    tamper(bundle)
    build_index(model_home, bundle, TWO)
    promote(TWO)
    cause = refused(engine, caplog)
    assert cause.startswith("model version 2 is refused: ")
    assert f"of its {REQUESTS} golden requests differ. Request 1: item " in cause
    assert "Run `prerank index --version 2` again" in cause
    assert scores(engine) == before
    # Until something changes, it is not loaded again at each poll.
    caplog.clear()
    engine.refresh()
    assert engine.health()["notes"] == [cause]
    assert caplog.text == ""


def test_without_an_old_version_none_is_served(
    model_home: Home, promote: Promote, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = save_model(model_home.models / ONE.name, 1)
    tamper(bundle)
    build_index(model_home, bundle, ONE)
    promote(ONE)
    engine = engine_of(model_home)
    assert "golden requests differ" in refused(engine, caplog)
    assert engine.model_version is None


def test_a_replica_that_starts_while_a_version_is_refused_serves_the_last_one(
    engine: Engine, model_home: Home, promote: Promote
) -> None:
    build_index(model_home, save_model(model_home.models / TWO.name, 2), TWO)
    tamper(model_home.models / TWO.name)
    promote(TWO)
    started = engine_of(model_home)
    for _ in range(2):
        started.refresh()
        assert started.model_version == "1"
        assert started.refused.startswith("model version 2 is refused: ")
        assert started.health()["notes"] == [started.refused]
    assert scores(started) == scores(engine)


def test_a_version_that_is_too_slow_is_refused(
    engine: Engine, model_home: Home, promote: Promote, caplog: pytest.LogCaptureFixture
) -> None:
    servable(model_home, TWO, 2)
    hasty = engine_of(model_home, golden_ms=1e-6)
    # Else it would fall back on version 1, which is too slow for it as well.
    (model_home.models / "served.json").unlink()
    promote(TWO)
    assert "golden_ms allows 1e-06" in refused(hasty, caplog)
    assert hasty.model_version is None
    engine.refresh()
    assert engine.model_version == "2"


def test_damaged_golden_requests_are_refused_by_their_file(
    engine: Engine, model_home: Home, promote: Promote, caplog: pytest.LogCaptureFixture
) -> None:
    servable(model_home, TWO, 2)
    path = model_home.models / TWO.name / GOLDEN
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes(9))
    promote(TWO)
    cause = refused(engine, caplog)
    assert f"{path} is damaged: it does not match its checksum. Remove {path.parent}" in cause
    assert engine.model_version == "1"


def test_a_version_of_another_schema_is_refused(
    engine: Engine, model_home: Home, promote: Promote, caplog: pytest.LogCaptureFixture
) -> None:
    servable(model_home, TWO, 2)
    meta = model_home.models / TWO.name / META
    write_json(meta, read_json(meta) | {"schema_hash": "0123456789abcdef"})
    promote(TWO)
    assert "it reads features 0123456789abcdef" in refused(engine, caplog)
    assert engine.model_version == "1"


def test_a_version_without_golden_requests_is_served_and_said_to_be_unchecked(
    model_home: Home, promote: Promote
) -> None:
    servable(model_home, ONE, 1, golden=False)
    promote(ONE)
    engine = engine_of(model_home)
    engine.refresh()
    assert engine.model_version == "1"
    (note,) = engine.health()["notes"]
    assert note.startswith("model version 1 was registered without golden requests")
    assert engine.refused == ""
