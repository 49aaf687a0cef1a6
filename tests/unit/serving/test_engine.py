"""What /health says of a replica's online store and of errors: the remedy, and no secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.small_tables import MANIFEST, SCHEMA, write_tables

from interactrank.features.schema import FeatureSchema
from interactrank.model.scorer import Scorer
from prerank.core.errors import RegistryAwayError
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.store import REDIS_ENV
from prerank.registry import versions as registry
from prerank.registry.bundle import Version
from prerank.serving.answer import Loaded
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.fields import Limits

ONE = Version("1", "run")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Serves version 1, whose features are online; nobody asks it for a ranking."""
    monkeypatch.delenv(REDIS_ENV, raising=False)
    monkeypatch.setattr(registry, "alias_version", lambda alias: ONE)
    home = Home.at(tmp_path / "home")
    write_tables(home)
    materialise(home, progress=False)
    engine = Engine(ServeConfig(home=str(home.root), require_gate=False))
    engine.serve(served(home))
    yield engine
    engine.stop()


def served(home: Home) -> Loaded:
    limits = Limits(MANIFEST.item_ids, SCHEMA, replay=False)
    scorer = cast("Scorer", SimpleNamespace(table=()))
    return Loaded(registry.Wanted("champion", ONE), scorer, limits, Watched(home, SCHEMA))


class Watched(OnlineFeatures):
    """Tells when it is closed; with patience, for the machine may be busy."""

    def __init__(self, home: Home, schema: FeatureSchema) -> None:
        super().__init__(home, schema, timeout_s=10.0)
        self.closed = False

    def close(self) -> None:
        """End the thread."""
        super().close()
        self.closed = True


def notes(engine: Engine) -> str:
    engine.refresh()
    return " ".join(engine.health()["notes"])


def test_a_store_that_is_not_what_was_materialised_is_in_health(engine: Engine) -> None:
    assert "online store" not in notes(engine)
    path = engine.home.materialised_of(SCHEMA.hash())
    write_json(path, engine.home.read_json(path, "") | {"epoch": "another"})
    assert "online store was filled from another home" in notes(engine)
    assert "Run `prerank materialise`." in notes(engine)


def test_the_features_of_a_version_are_closed_with_it_and_not_before(engine: Engine) -> None:
    first = engine.current().features
    engine.refresh()
    assert engine.current().features is first
    assert isinstance(first, Watched)
    assert not first.closed
    engine.serve(served(engine.home))
    assert first.closed


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
