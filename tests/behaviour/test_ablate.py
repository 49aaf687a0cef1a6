"""Ablations: every variant is a change of its own, and a run that was cut off goes on."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.architectures import build
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.config import JobConfig
from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.evaluation import ablations as ablate
from prerank.evaluation import budget, trials
from prerank.evaluation.results import FULL
from prerank.features.config import FeatureConfig
from prerank.training.reader import Reader

SCHEMA = FeatureSchema(
    ("view", "click", "save"),
    ("view",),
    ("engagement", "save"),
    segments=("country",),
    retriever=("score", "rank"),
    candidate_features=("price",),
)
MODEL = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=16, hidden=(16,))
CONFIG = JobConfig(FeatureConfig(), MODEL, TrainConfig(epochs=2, batch_requests=64, warmup_steps=2))
BUDGET = budget.Budget(train_requests=200, validation_requests=80, measured_candidates=2_000)
CHOSEN = ("full", "no attention", "no cross features")


def test_every_variant_changes_one_thing_and_builds() -> None:
    asked = ablate.trials_of(CONFIG.model, CONFIG.train, SCHEMA, 1)
    assert next(iter(asked)) == FULL
    full = asked[FULL][0]
    seen = set()
    catalogue = Catalogue.build(
        np.arange(3), ["a", "b", "c"], [""] * 3, np.zeros((3, 0), np.float32), np.zeros(3, np.int64)
    )
    for name, (trial,) in asked.items():
        changed = [trial.model != full.model, trial.train != full.train, bool(trial.masked)]
        assert sum(changed) == (name != FULL), name
        seen.add(json.dumps(trial.to_dict() | {"name": ""}))
        build(trial.model, SCHEMA, catalogue)
    assert len(seen) == len(asked), "two variants are the same"


def test_every_cross_feature_is_in_a_family_and_only_thinness_in_two() -> None:
    for of in (replace(SCHEMA, graph=True), replace(SCHEMA, exposure=True)):
        families = ablate.families(of)
        for column in of.cross:
            member = [f for f, columns in families.items() if column in columns]
            assert len(member) == 1 + column.startswith("sparse:"), (column, member)
        assert set(families) == {
            *(f for f in ablate.FAMILIES if of.graph or f not in ("item graph", "item vectors")),
            *("exposure",) * of.exposure,
        }


def test_seeds_differ_by_seed_alone() -> None:
    for own in ablate.trials_of(CONFIG.model, CONFIG.train, SCHEMA, 3).values():
        assert [t.train.seed for t in own] == [7, 8, 9]
        assert len({replace(t.train, seed=0) for t in own}) == 1


@pytest.fixture
def home(tiny_world: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The tiny world's data with results of its own, and three variants."""
    for name in ("log", "features", "training_set"):
        os.symlink(tiny_world.root / name, tmp_path / name)
    whole = ablate.variants
    monkeypatch.setattr(
        ablate, "variants", lambda schema: [v for v in whole(schema) if v.name in CHOSEN]
    )
    return Home.at(tmp_path)


def test_it_measures_logs_and_goes_on_where_it_was_cut_off(home: Home) -> None:
    results = ablate.ablate(home, CONFIG.model, CONFIG.train, 2, BUDGET)
    assert tuple(results["ablations"]) == CHOSEN
    for own in results["ablations"].values():
        assert own["parts"]
        assert set(own["metrics"]) == set(trials.METRICS)
        for values in own["metrics"].values():
            assert len(values) == 2
            assert all(0 <= v <= 1 for v in values)
    assert json.loads((home.root / ablate.FILE).read_text()) == results
    assert ablate.load_results(home) == results
    printed = ablate.table(results)
    assert all(name in printed for name in CHOSEN)
    assert "200 of" in printed
    assert "recall@cut - full" in printed

    files = sorted((home.root / "ablations" / "validation").glob("*.json"))
    assert len(files) == 6
    before = {f: f.stat().st_mtime_ns for f in files}
    lost, stale = files[0], files[3]
    lost.unlink()
    old = json.loads(stale.read_text())
    old["asked"]["budget"]["epochs"] = 99
    stale.write_text(json.dumps(old))
    before[stale] = stale.stat().st_mtime_ns
    again = ablate.ablate(home, CONFIG.model, CONFIG.train, 2, BUDGET)
    assert again == results
    redone = {f for f in files if f.stat().st_mtime_ns != before[f]}
    assert redone == {lost, stale}


def test_variants_may_be_chosen(home: Home) -> None:
    only = ["no attention"]
    results = ablate.ablate(home, CONFIG.model, CONFIG.train, 1, BUDGET, only)
    assert [*results["ablations"]] == [FULL, *only]
    with pytest.raises(ConfigError, match="--only 'no luck': the variants are full, no attention"):
        ablate.ablate(home, CONFIG.model, CONFIG.train, 1, BUDGET, ["no luck"])


def test_masked_features_do_not_reach_the_model(home: Home) -> None:
    trial = ablate.trials_of(CONFIG.model, CONFIG.train, Reader(home).schema, 1)[
        "no cross features"
    ][0]
    trainer, reader, epochs = trials.fitted(home, trial, BUDGET)
    assert epochs <= BUDGET.epochs
    assert all(not b.x.any() for b in reader.split("train", 64))
    assert any(b.request.any() for b in reader.split("train", 64))
    # A feature that never varied in training says nothing even where it does vary.
    assert float(trainer.model.fusion.x_std.min()) > 1e5


def test_what_is_measured_was_not_fitted_on(home: Home) -> None:
    reader = trials.TrialReader(home, BUDGET, ())
    fitted = {i for t in reader.tables("validation") for i in t["request_id"].to_pylist()}
    measured = set(budget.measured_requests(home, "validation", 10_000)["request_id"].to_pylist())
    assert fitted
    assert measured
    assert not fitted & measured
