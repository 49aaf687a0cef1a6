"""The gate, promotion and rollback, over a registry; and a replica that asks for the gate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import gated_log
from tests.following import engine_of
from tests.gated_log import DAYS, REQUESTS, TEST_FROM, Registry, counts, counts_reversed
from tests.object_stores import nodes
from tests.online_log import DAY, START
from tests.small_versions import build_index

from prerank.core.errors import DataError, NotReadyError, StateError
from prerank.core.files import publish
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import micros
from prerank.features import build as features
from prerank.features.config import FeatureConfig
from prerank.ingest.publish import new_log
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV
from prerank.promotion import newest as newest_module
from prerank.promotion.champion import promote, rollback
from prerank.promotion.config import GateConfig
from prerank.promotion.gate import judge, put_to_gate
from prerank.promotion.newest import newest_requests
from prerank.promotion.verdict import Verdict
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import Version
from prerank.registry.gates import JUDGED, RESULT, read_gate

# MLflow's, of the loader of a registered version.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
GATE = GateConfig(golden_ms=1e5)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A home with a log, its features and three versions in MLflow: good, as good, bad. Read only.

    Nobody is the champion, and none was judged.
    """
    import mlflow

    root, before = tmp_path_factory.mktemp("gated"), mlflow.get_tracking_uri()
    found = Registry(Home.at(root / "home"), root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(REDIS_ENV, raising=False)
        gated_log.build(found.home)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        for model in (counts, counts, counts_reversed):
            found.add(model)
    mlflow.set_tracking_uri(before)
    return found


@pytest.fixture
def made(built: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A copy of it; runs and versions that are added have their artifacts beside the first ones."""
    import mlflow

    before = mlflow.get_tracking_uri()
    monkeypatch.delenv(REDIS_ENV, raising=False)
    shutil.copytree(built.home.root, tmp_path / "home", ignore=shutil.ignore_patterns("mlflow"))
    shutil.copy(built.root / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    home = Home.at(tmp_path / "home")
    tracking.use(home)
    yield Registry(home, tmp_path, list(built.made))
    mlflow.set_tracking_uri(before)


def status(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.status for check in verdict.checks}


def text(verdict: Verdict, name: str) -> str:
    (found,) = [check.text for check in verdict.checks if check.name == name]
    return found


ALL = ("schema", "golden", "latency", "scores", "mrr", "recall@cut")


def tags(version: Version) -> dict[str, str]:
    from mlflow import MlflowClient

    return dict(MlflowClient().get_model_version(registry.MODEL_NAME, version.number).tags)


def test_without_a_champion_a_sound_version_passes_and_mlflow_shows_it(made: Registry) -> None:
    from mlflow import MlflowClient

    version = made.made[0]
    verdict = put_to_gate(made.home, version, GATE)
    assert status(verdict) == dict.fromkeys(ALL, "passed")
    assert text(verdict, "mrr") == "there is no champion to compare with"
    assert "finite and distinct over 380 requests" in text(verdict, "scores")
    found = tags(version)
    assert (found[RESULT], found["gate_champion"]) == ("passed", "")
    assert found["gate_at"].endswith("Z")
    client = MlflowClient()
    assert {f.path for f in client.list_artifacts(version.run_id, "gate")} == {
        "gate/gate.json",
        "gate/gate.md",
    }
    written = json.loads(
        Path(client.download_artifacts(version.run_id, "gate/gate.json")).read_text()
    )
    assert (written["result"], written["champion"]) == ("passed", None)
    assert [check["name"] for check in written["checks"]] == list(ALL)


def test_a_version_that_ranks_worse_than_the_champion_fails(made: Registry) -> None:
    good, _, bad = made.made
    promote(made.home, good, GATE)
    with pytest.raises(NotReadyError, match="did not pass the gate: mrr failed: "):
        promote(made.home, bad, GATE)
    assert registry.alias_version(registry.CHAMPION) == good
    assert tags(bad)[RESULT] == "failed"
    assert "-0.02 is allowed" in read_gate(bad).reason
    # The better one is no worse than the worse one.
    promote(made.home, bad, GATE, without_gate=True)
    verdict = judge(made.home, good, GATE)
    assert status(verdict) == dict.fromkeys(ALL, "passed")
    (check,) = [c for c in verdict.checks if c.name == "mrr"]
    assert check.numbers["difference"] == pytest.approx(
        check.numbers["own"] - check.numbers["champion"]
    )
    assert check.numbers["ci"][0] > 0.1


def test_a_version_that_is_about_as_good_passes(made: Registry) -> None:
    first, again, _ = made.made
    promote(made.home, first, GATE)
    # Of another seed, which decides nothing here.
    verdict = judge(made.home, again, GATE)
    assert status(verdict) == dict.fromkeys(ALL, "passed")
    itself = judge(made.home, first, replace(GATE, margin=0.0))
    assert text(itself, "mrr") == "the version is the champion itself"


def test_what_cannot_be_told_is_said_and_counts_as_configured(made: Registry) -> None:
    promote(made.home, made.made[0], GATE)
    later = made.add(test_from=START + (DAYS - 2) * DAY)
    verdict = judge(made.home, later, GATE)
    assert (status(verdict)["mrr"], verdict.result) == ("undecided", "failed")
    assert "100 are needed" in text(verdict, "recall@cut")
    lenient = judge(made.home, later, replace(GATE, undecided="pass"))
    assert lenient.result == "passed"
    assert "mrr undecided: " in lenient.reason
    # A day of which nothing is labelled.
    empty = judge(made.home, later, GATE, date(2031, 1, 1))
    assert status(empty)["scores"] == status(empty)["mrr"] == "undecided"
    assert "no request of 2031-01-01" in text(empty, "mrr")


def test_an_interval_that_is_too_wide_is_undecided(
    made: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again, _ = made.made
    promote(made.home, first, GATE)
    verdict = judge(made.home, again, replace(GATE, margin=1e-9))
    found = status(verdict)
    differs = [m for m in ("mrr", "recall@cut") if "+0.0000 [+0.0000" not in text(verdict, m)]
    assert differs, "two seeds that rank alike tell nothing of this"
    assert {found[metric] for metric in differs} <= {"undecided", "failed"}
    for metric in differs:
        if found[metric] == "undecided":
            assert "too wide to tell, some " in text(verdict, metric)


def test_a_champion_that_cannot_be_measured_leaves_it_undecided(made: Registry) -> None:
    first, second = made.add(), made.made[1]
    promote(made.home, first, GATE)
    made.retag(first, schema_hash="0123456789abcdef")
    verdict = judge(made.home, second, GATE)
    assert status(verdict)["mrr"] == "undecided"
    assert "the champion cannot be measured: " in text(verdict, "mrr")
    assert status(verdict)["scores"] == "passed"
    # Its files are gone, from this home and from MLflow.
    from mlflow import MlflowClient

    shutil.rmtree(made.home.models / first.name)
    source = MlflowClient().get_model_version_download_uri(registry.MODEL_NAME, first.number)
    shutil.rmtree(source.removeprefix("file://"))
    verdict = judge(made.home, second, GATE)
    assert "cannot be fetched" in text(verdict, "mrr")
    assert verdict.result == "failed"


def test_a_version_that_cannot_be_served_fails_with_the_cause(made: Registry) -> None:
    version = made.add(index=False)
    verdict = put_to_gate(made.home, version, GATE)
    assert status(verdict) == {"schema": "failed"}
    assert "prerank index --version 4" in read_gate(version).reason
    slow = judge(made.home, made.made[0], replace(GATE, golden_ms=1e-6))
    assert (status(slow)["latency"], slow.result) == ("failed", "failed")


def test_scores_that_are_no_numbers_fail(made: Registry) -> None:
    verdict = judge(made.home, made.add(gated_log.broken), GATE)
    assert status(verdict)["scores"] == "failed"
    assert "are no finite numbers" in text(verdict, "scores")
    assert status(verdict)["golden"] == "undecided"


def test_only_requests_that_neither_version_learned_from_are_measured(made: Registry) -> None:
    home, window = made.home.pin(), LogManifest.load(made.home).label_window_us
    found = newest_requests(home, TEST_FROM, 10_000)
    times = micros(found.requests["request_time"])
    assert times.min() >= TEST_FROM
    assert times.max() <= LogManifest.load(home).last_us - window
    assert (np.diff(times) >= 0).all()
    # Fewer than a thousand: all days of the test split.
    assert found.found == pytest.approx(REQUESTS * (DAYS - 10 - 1) / DAYS, abs=2)
    sample = newest_requests(home, TEST_FROM, 50)
    assert (sample.requests.num_rows, sample.found) == (50, found.found)
    one = newest_requests(home, 0, 10_000, date(2020, 9, 20))
    assert {f"{t:%Y-%m-%d}" for t in one.requests["request_time"].to_pylist()} == {"2020-09-20"}
    with pytest.raises(DataError, match="whose label window has closed"):
        newest_requests(home, START + (DAYS - 1) * DAY + 1, 10_000)


def test_of_many_requests_the_last_day_is_measured(
    made: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest_module, "ENOUGH", 5)
    found = newest_requests(made.home.pin(), TEST_FROM, 10_000)
    times = micros(found.requests["request_time"])
    assert times.max() - times.min() < DAY
    assert len(times) == pytest.approx(REQUESTS / DAYS, abs=1)


def test_a_copied_or_edited_tag_proves_nothing(made: Registry) -> None:
    from mlflow import MlflowClient

    first, _, second = made.made
    put_to_gate(made.home, first, GATE)
    client = MlflowClient()
    for name, value in tags(first).items():
        if name.startswith("gate"):
            client.set_model_version_tag(registry.MODEL_NAME, second.number, name, value)
    client.set_registered_model_alias(registry.MODEL_NAME, registry.CHAMPION, second.number)
    engine = engine_of(made.home, require_gate=True)
    engine.refresh()
    assert engine.model_version is None
    assert "(passed) are not its own: they were copied or edited" in engine.refused
    put_to_gate(made.home, second, replace(GATE, golden_ms=1e-6))
    client.set_model_version_tag(registry.MODEL_NAME, second.number, RESULT, "passed")
    engine.refresh()
    assert "were copied or edited" in engine.refused
    assert tags(second)[JUDGED] != tags(first)[JUDGED]


def test_promotion_asks_the_gate_again_only_where_the_champion_is_another(
    made: Registry,
) -> None:
    first, second, _ = made.made
    third = made.add()
    assert promote(made.home, first, GATE) is not None
    put_to_gate(made.home, second, GATE)
    put_to_gate(made.home, third, GATE)
    assert promote(made.home, second, GATE) is None
    again = promote(made.home, third, GATE)
    assert again is not None
    assert again.champion == second


def test_rollback_goes_to_the_champion_before_and_from_there_to_the_one_before(
    made: Registry,
) -> None:
    with pytest.raises(NotReadyError, match="nothing to roll back"):
        rollback(made.home)
    first, second, third = made.made
    for version in made.made:
        promote(made.home, version, GATE, without_gate=version == third)
    assert rollback(made.home) == (third, second)
    assert rollback(made.home) == (second, first)
    assert registry.alias_version(registry.CHAMPION) == first
    with pytest.raises(StateError, match="is not recorded"):
        rollback(made.home)
    assert rollback(made.home, third) == (first, third)
    with pytest.raises(StateError, match="version 3 is the champion"):
        rollback(made.home, third)


def point_alias(version: Version) -> None:
    """As a person does in the MLflow UI."""
    from mlflow import MlflowClient

    MlflowClient().set_registered_model_alias(
        registry.MODEL_NAME, registry.CHAMPION, version.number
    )


def test_a_replica_refuses_a_version_without_a_passed_gate_and_goes_on_with_the_old_one(
    made: Registry,
) -> None:
    old, _, new = made.made
    promote(made.home, old, GATE)
    engine = engine_of(made.home, require_gate=True)
    engine.refresh()
    assert (engine.model_version, engine.refused) == ("1", "")
    point_alias(new)
    engine.refresh()
    assert engine.model_version == "1"
    assert engine.health()["notes"] == [engine.refused]
    assert engine.refused.startswith(
        "model version 3 is refused: model version 3 was not put to the gate. "
        "Run `prerank gate --version 3`"
    )
    put_to_gate(made.home, new, GATE)
    engine.refresh()
    assert "the gate of model version 3 failed: mrr failed" in engine.refused
    # One that starts meanwhile serves what the others serve.
    started = engine_of(made.home, require_gate=True)
    started.refresh()
    assert (started.model_version, started.refused) == ("1", engine.refused)
    # Without a restart, as soon as a person takes it on themselves.
    promote(made.home, new, GATE, without_gate=True)
    for follower in (engine, started):
        follower.refresh()
        assert (follower.model_version, follower.health()["notes"]) == ("3", [])
    assert read_gate(new).reason.startswith("promoted without the gate (failed: mrr failed")
    assert engine_of(made.home).refused == ""


def test_a_champion_of_before_there_was_a_gate_is_served_and_said_to_lack_it(
    made: Registry,
) -> None:
    """The update of an installation must not stop it."""
    version = made.made[0]
    point_alias(version)
    before = engine_of(made.home)
    before.refresh()
    assert (before.model_version, before.refused) == ("1", "")
    updated = engine_of(made.home, require_gate=True)
    for _ in range(2):
        updated.refresh()
        assert updated.model_version == "1"
        assert "was not put to the gate" in updated.refused
        assert updated.health()["notes"] == [updated.refused]
    put_to_gate(made.home, version, GATE)
    updated.refresh()
    assert (updated.model_version, updated.refused) == ("1", "")


def test_the_configuration_is_checked() -> None:
    for wrong in ({"margin": -0.1}, {"margin": float("nan")}, {"requests": 0}, {"golden_ms": 0}):
        given: dict[str, Any] = wrong
        with pytest.raises(Exception, match=f"gate {next(iter(wrong))}"):
            GateConfig(**given)


def test_counts_rank_the_liked_items_first(made: Registry) -> None:
    """What the tests above rest on."""
    (check,) = [c for c in judge(made.home, made.made[0], GATE).checks if c.name == "scores"]
    assert check.numbers["mrr"] > 0.6


def test_nodes_that_have_nothing_judge_promote_and_go_back(
    made: Registry,
    tmp_path: Path,
    new_redis: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(REDIS_ENV, new_redis())
    monkeypatch.setattr(features, "ray_map", lambda do, tasks, _: [do(task) for task in tasks])
    good, other, _ = made.made
    with nodes(tmp_path / "store") as store:
        with store.node("maker") as home:
            with new_log(home, starts_over=True) as new:
                for folder in ("events", "items"):
                    shutil.copytree(made.home.log / folder, new.log / folder, dirs_exist_ok=True)
                LogManifest.load(made.home).save(new)
            features.build_features(home, FeatureConfig())
            materialise(home, progress=False)
            for version in (good, other):
                build_index(home, registry.download(home, version), version)
                publish(home.index / version.name)
        for name, version in (("a", good), ("b", other)):
            with store.node(name) as home:
                verdict = promote(home, version, GATE)
                assert verdict is not None
                assert status(verdict) == dict.fromkeys(ALL, "passed")
        with store.node("c") as home:
            assert rollback(home) == (other, good)
