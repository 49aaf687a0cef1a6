"""A restated history: late events and flags as if they had been on time, apart from what stands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from tests import forgetting, growing_log
from tests.forgetting import DAY, START, STAYS
from tests.object_stores import nodes
from tests.without_ray import stages_here

from prerank import cli
from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.trust import add_flags
from prerank.dataset.build import build_training_set
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.forget import forget
from prerank.ingest.restated import histories_of, restate_log

LOG = forgetting.log()
CUT = pd.Timestamp(START + 3 * DAY, unit="us", tz="UTC")
LATE = (LOG["request_time"] < CUT) & (LOG.index % 17 == 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with late events, and a user who was distrusted late. Read only."""
    home = Home.at(tmp_path_factory.mktemp("late") / "home")
    forgetting.ingested(home, LOG[~LATE & (LOG["request_time"] < CUT)])
    config = FeatureConfig(cadence_hours=6)
    with stages_here():
        build_features(home, config)
        add_flags(home, [STAYS, STAYS], [0.5, 0.25], [START, START + DAY])
        forgetting.ingested(home, LOG[LATE | (LOG["request_time"] >= CUT)])
        build_features(home, config)
    return home


@pytest.fixture(scope="module")
def on_time(home: Home) -> Home:
    """Its restated history, by the command. Read only."""
    before = {path: path.read_bytes() for path in home.root.rglob("*") if path.is_file()}
    assert LogManifest.load(home).late == LATE.sum()
    config = home.root.with_name("job.yaml")
    config.write_text("features: {cadence_hours: 6}\n")
    verb = ["features", "--restate", "on-time", "--config", str(config)]
    with stages_here():
        cli.main([*verb, "--workdir", str(home.root)])
    assert {path: path.read_bytes() for path in before} == before
    return Home.at(home.root / "restated" / "on-time")


def test_its_rows_are_those_of_a_log_without_late_events(on_time: Home, tmp_path: Path) -> None:
    never_late = Home.at(tmp_path / "home")
    forgetting.ingested(never_late, LOG)
    add_flags(never_late, [STAYS], [0.25], [0])
    with stages_here():
        build_features(never_late, FeatureConfig(cadence_hours=6))
    growing_log.same(on_time, never_late)
    made, plain = LogManifest.load(on_time), LogManifest.load(never_late)
    assert (made.fingerprint, made.schema, made.late) == (plain.fingerprint, plain.schema, 0)


def test_it_differs_from_what_was_published(home: Home, on_time: Home) -> None:
    with pytest.raises(AssertionError):
        growing_log.same(home, on_time)


def test_it_says_what_it_is_and_can_be_trained_from(on_time: Home) -> None:
    assert LogManifest.load(on_time).restated == "on-time"
    with stages_here():
        assert build_training_set(on_time)["train_requests"] > 0


def test_a_log_that_is_none_does_not_have_the_field(home: Home) -> None:
    assert "restated" not in home.manifest.read_text()


@pytest.mark.parametrize("label", ["", "../up", "a/b", ".hidden", "x" * 65])
def test_a_label_names_a_folder(label: str, home: Home) -> None:
    with pytest.raises(ConfigError, match="a label is"):
        restate_log(home, label)


def test_a_history_does_not_change(home: Home, on_time: Home) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        restate_log(home, "on-time")
    with pytest.raises(ConfigError, match="Restate the home that it was made of"):
        restate_log(on_time, "again")
    with pytest.raises(ConfigError, match="to which nothing is added"):
        forgetting.ingested(on_time, LOG)


def test_forget_names_the_histories_that_it_did_not_touch(
    home: Home, on_time: Home, tmp_path: Path
) -> None:
    shutil.copytree(home.root, tmp_path / "home")
    with stages_here():
        remains = forget(Home.at(tmp_path / "home"), [forgetting.GONE]).remains
    place = tmp_path / "home" / "restated" / on_time.root.name
    assert str(place) in remains["restated history on-time"]


def test_a_history_in_an_object_store_is_built_there(on_time: Home, tmp_path: Path) -> None:
    with nodes(tmp_path) as made:
        with made.node("one") as there:
            forgetting.ingested(there, LOG[~LATE & (LOG["request_time"] < CUT)])
            with stages_here():
                build_features(there, FeatureConfig(cadence_hours=6))
                add_flags(there, [STAYS, STAYS], [0.5, 0.25], [START, START + DAY])
            forgetting.ingested(there, LOG[LATE | (LOG["request_time"] >= CUT)])
            restated, late = restate_log(there, "on-time")
            with stages_here():
                build_features(restated, FeatureConfig(cadence_hours=6))
            assert late == LATE.sum()
        with made.node("two") as there:
            assert histories_of(there) == ["on-time"]
            found = Home.at(f"{there.place}/restated/on-time")
            found.look()
            found.fetch(found.root)
            growing_log.same(found, on_time)
