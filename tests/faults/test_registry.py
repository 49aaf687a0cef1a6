"""The registry is away, or names a version that cannot be served."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from tests.faults.deployment import REPLICAS, Deployment, until
from tests.load import Load
from tests.online_log import MANIFEST

from prerank.core.errors import PrerankError
from prerank.registry import versions as registry
from prerank.registry.bundle import Version
from prerank.registry.index import VECTORS

Record = Callable[..., None]
POLLS_S = 8.0
"""Four polls of the registry."""


def point(version: Version) -> None:
    """Move the alias as the MLflow UI does, which looks at nothing."""
    MlflowClient().set_registered_model_alias(
        registry.MODEL_NAME, registry.CHAMPION, version.number
    )


def only(load: Load, version: Version) -> None:
    """See that every ranking was answered, by one version."""
    assert set(load.statuses()) == {200}
    assert {s.version for s in load.seen} == {version.number}


def test_the_registry_is_away_at_a_promotion(deployment: Deployment, record: Record) -> None:
    first, second = deployment.versions
    with deployment.load("promotion", rate=40.0) as load:
        time.sleep(2)
        deployment.stop_mlflow()
        with pytest.raises(PrerankError):
            registry.alias_version(registry.CHAMPION)
        time.sleep(POLLS_S)
        assert "last known champion" in " ".join(deployment.health()["notes"])
        deployment.start_mlflow()
        registry.promote(deployment.home, second)
        promoted = time.monotonic()
        time.sleep(POLLS_S)
    record("MLflow is killed before a promotion", load)
    assert set(load.statuses()) == {200}
    assert {s.version for s in load.seen} == {first.number, second.number}
    late = [s for s in load.seen if s.began > promoted + POLLS_S - 1]
    assert {s.version for s in late} == {second.number}


def test_the_registry_is_away_when_a_replica_starts(deployment: Deployment, record: Record) -> None:
    with deployment.load("start", rate=40.0) as load:
        deployment.stop_mlflow()
        time.sleep(2)
        killed = deployment.serve.replicas()[0]
        killed.kill()

        def started() -> bool:
            now = {p.pid for p in deployment.serve.replicas()}
            return len(now) == REPLICAS and killed.pid not in now

        seconds = until(started, 180)
        time.sleep(POLLS_S)
    record("MLflow is away while a replica starts", load, started_s=seconds)
    assert seconds < 180
    only(load, deployment.versions[0])


def test_the_index_of_a_new_version_is_damaged(deployment: Deployment, record: Record) -> None:
    version = deployment.new_version(3)
    vectors = deployment.home.index / version.name / VECTORS
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:10] + bytes([whole[10] ^ 255]) + whole[11:])
    with deployment.load("index", rate=40.0) as load:
        point(version)
        time.sleep(POLLS_S)
        notes = deployment.health()["notes"]
    record("the index of a new version is damaged", load)
    only(load, deployment.versions[0])
    assert "prerank index" in " ".join(notes)


def test_a_new_version_is_of_another_schema(deployment: Deployment, record: Record) -> None:
    schema = replace(MANIFEST.schema, segments=("country",))
    version = deployment.new_version(4, schema)
    with deployment.load("schema", rate=40.0) as load:
        point(version)
        time.sleep(POLLS_S)
        notes = deployment.health()["notes"]
    record("a new version is of another schema", load)
    only(load, deployment.versions[0])
    assert "not materialised" in " ".join(notes)
