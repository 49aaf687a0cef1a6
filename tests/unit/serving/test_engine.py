"""What /health says of a replica's online store and of errors: the remedy, and no secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.small_tables import write_tables

from prerank.core.errors import RegistryAwayError
from prerank.core.home import Home, write_json
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV
from prerank.registry import versions as registry
from prerank.serving.engine import Engine, ServeConfig


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Of a home whose store is filled, and where nothing is promoted."""
    monkeypatch.delenv(REDIS_ENV, raising=False)
    monkeypatch.setattr(registry, "alias_version", lambda alias: None)
    home = Home.at(tmp_path / "home")
    write_tables(home)
    materialise(home, progress=False)
    engine = Engine(ServeConfig(home=str(home.root), store_timeout_ms=10_000))
    yield engine
    engine.stop()


def notes(engine: Engine) -> str:
    engine.refresh()
    return " ".join(engine.health()["notes"])


def test_a_store_that_is_not_what_was_materialised_is_in_health(engine: Engine) -> None:
    assert "online store" not in notes(engine)
    state = engine.home.read_json(engine.home.materialised, "")
    write_json(engine.home.materialised, state | {"epoch": "another"})
    assert "online store was filled from another home" in notes(engine)
    assert "Run `prerank materialise`." in notes(engine)


def test_the_cause_of_an_internal_error_is_for_the_log(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(alias: str) -> None:
        raise ValueError("row 7 of table secret")

    monkeypatch.setattr(registry, "alias_version", fails)
    assert "the replica's log has the cause" in notes(engine)
    assert "row 7" not in notes(engine) + engine.ready()[1]
    assert "row 7" in caplog.text


def test_no_password_of_the_registry_is_in_health(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(alias: str) -> None:
        raise RegistryAwayError("MLflow at https://ann:s3cret@mlflow cannot be asked")

    monkeypatch.setattr(registry, "alias_version", away)
    assert "https://***@mlflow" in notes(engine)
    assert "s3cret" not in notes(engine) + engine.ready()[1]
