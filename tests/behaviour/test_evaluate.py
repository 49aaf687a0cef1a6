"""Evaluation of a small world: chunks and tasks change nothing, and every study is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank import pipeline
from prerank.core import propensities
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.propensities import Propensities
from prerank.core.times import DAY_US
from prerank.dataset.catalogue import load_catalogue, load_titles
from prerank.dataset.requests import event_days, requests_between
from prerank.dataset.splits import Splits
from prerank.evaluation import ablations as ablate
from prerank.evaluation import budget, counterfactual
from prerank.evaluation import run as evaluate
from prerank.evaluation.baselines.simple import Bm25Ranker, ColumnRanker
from prerank.evaluation.counterfactual import estimate
from prerank.evaluation.metrics_file import from_json
from prerank.evaluation.per_request import places_of
from prerank.evaluation.results import FULL, Calibration, Counterfactual, Results
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, save_bundle

RANKERS = ("popularity", "bm25", "iqp", "two_tower", "interactrank")
HEADS = ("engagement", "save", "long_click")
PART = "part-00000.parquet"


def linked(home: Home, root: Path) -> Home:
    """A home with the state of another, to which an evaluation may write."""
    root.mkdir()
    for part in home.root.iterdir():
        (root / part.name).symlink_to(part)
    return Home.at(root)


def all_files(home: Home) -> list[str]:
    return [file for day in event_days(home) for file in day]


@pytest.fixture(scope="module")
def models(tiny_world: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained bundles: what is measured here does not depend on how good they are."""
    manifest = LogManifest.load(tiny_world)
    catalogue = load_catalogue(tiny_world)
    folders = {}
    for seed, name in enumerate(("two_tower", "interactrank")):
        torch.manual_seed(seed)
        folders[name] = tmp_path_factory.mktemp(name)
        model = InteractRank(ModelConfig(), manifest.schema, catalogue)
        save_bundle(folders[name], model, catalogue, {})
    return folders


@pytest.fixture(scope="module")
def splits(tiny_world: Home) -> Splits:
    training = tiny_world.read_json(tiny_world.training_set / "manifest.json", "")
    return Splits(**training["splits"])


@pytest.fixture
def little_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propensities, "MIN_ENGAGEMENTS", 20)


@pytest.fixture(scope="module")
def results(
    tiny_world: Home, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Results]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propensities, "MIN_ENGAGEMENTS", 20)
        home = linked(tiny_world, tmp_path_factory.mktemp("evaluated") / "home")
        yield evaluate.evaluate(home, models, "validation")


def test_every_study_covers_every_ranker(results: Results) -> None:
    assert tuple(results.models) == RANKERS
    assert set(results.versus) == set(RANKERS) - {"interactrank"}
    assert set(results.paired) == set(RANKERS) - {"two_tower"}
    gains = {n: results.versus[n]["mrr"].difference for n in results.versus}
    mrr = {n: results.models[n].means["mrr"] for n in RANKERS}
    assert gains == pytest.approx({n: mrr["interactrank"] - mrr[n] for n in gains})
    assert results.cut
    assert set(results.cut.models) == set(RANKERS)
    assert results.cut.reference is None
    assert isinstance(results.counterfactual, Counterfactual)
    assert set(results.counterfactual.models) == {*RANKERS, counterfactual.AS_SHOWN}


def test_only_rankers_with_probabilities_are_calibrated(
    results: Results, tiny_world: Home, splits: Splits
) -> None:
    assert isinstance(results.calibration, Calibration)
    found = results.calibration.models
    assert set(found) == {"two_tower", "interactrank"}
    files = all_files(tiny_world)
    manifest = LogManifest.load(tiny_world)
    requests = requests_between(files, manifest, splits.validation_from, splits.test_from)
    shown = requests["shown"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    labels = requests["labels"].combine_chunks().flatten().to_numpy()
    for model in found.values():
        assert tuple(model) == HEADS
        for h, head in enumerate(model.values()):
            assert head.impressions == shown.sum()
            assert head.observed == pytest.approx(((labels[shown] >> h) & 1).mean())


def test_what_was_engaged_but_not_shown_has_no_place() -> None:
    requests = pa.table(
        {
            "positions": [[1, 2, None], [3]],
            "shown": [[True, False, True], [True]],
        }
    )
    np.testing.assert_array_equal(places_of(requests), [1, np.nan, np.nan, 3])


def test_places_are_the_log_s(tiny_world: Home, tiny_log: pd.DataFrame, splits: Splits) -> None:
    manifest = LogManifest.load(tiny_world)
    files = all_files(tiny_world)
    requests = requests_between(files, manifest, splits.test_from, splits.closed_before)
    shown = tiny_log[tiny_log["action"] == "impression"]
    logged = shown.groupby("request_id")["position"].apply(sorted)
    lists = np.split(
        places_of(requests), np.cumsum([len(i) for i in requests["items"].to_pylist()])[:-1]
    )
    for request, places in zip(requests["request_id"].to_pylist(), lists, strict=True):
        assert places[~np.isnan(places)].tolist() == logged[request]


def task_of(
    home: Home, models: dict[str, Path], splits: Splits, out: Path
) -> evaluate.EvaluateTask:
    out.mkdir()
    Bm25Ranker.fit(load_catalogue(home), load_titles(home)).save(out / "bm25")
    return evaluate.EvaluateTask(
        number=0,
        home=home,
        files=all_files(home),
        from_us=splits.validation_from,
        to_us=splits.test_from,
        models=models,
        bm25=out / "bm25",
        oracles=None,
        propensities=Propensities((1, 5), (1.0, 0.5), 1, "item"),
        out=out,
    )


def test_the_size_of_a_chunk_changes_nothing(
    tiny_world: Home,
    models: dict[str, Path],
    splits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames, sums = [], []
    for name, size in (("whole", 600_000), ("small", 64 * 7)):
        monkeypatch.setattr(evaluate, "CANDIDATES_PER_CHUNK", size)
        done = evaluate.evaluate_task(task_of(tiny_world, models, splits, tmp_path / name))
        frames.append(pd.read_parquet(tmp_path / name / PART).reset_index(drop=True))
        sums.append(done)
    assert len(frames[0]) > 30
    pd.testing.assert_frame_equal(frames[0], frames[1], rtol=1e-5)
    whole, small = sums
    assert (whole.requests, whole.candidates) == (small.requests, small.candidates)
    for name, cost in whole.costs.items():
        assert replace(small.costs[name], seconds=0.0) == replace(cost, seconds=0.0)
    assert len(whole.histograms) == 2 * len(HEADS)
    for key, cells in whole.histograms.items():
        np.testing.assert_allclose(small.histograms[key], cells, rtol=1e-4, err_msg=str(key))


def test_chunks_of_a_trial_are_slices_of_one_join(
    tiny_world: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = budget.measured_requests(tiny_world, "test", 60)
    whole = list(budget.chunks(tiny_world, requests))
    monkeypatch.setattr(budget, "CANDIDATES_PER_CHUNK", 64 * 7)
    small = list(budget.chunks(tiny_world, requests))
    assert (len(whole), len(small)) == (1, -(-len(requests) // 7))
    for name in ("x", "candidates", "labels", "request", "hist_items", "top_items", "text"):
        parts = [getattr(arrays, name) for arrays, *_ in small]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(whole[0][0], name))
    assert [query for _, queries, *_ in small for query in queries] == whole[0][1]


def test_the_reference_s_best_are_looked_for_in_every_other_cut(
    tiny_world: Home,
    models: dict[str, Path],
    splits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rankers(schema: Any, *_: Any) -> list[ColumnRanker]:
        return [ColumnRanker(n, schema, "a:engage:all") for n in ("trees", "twin")] + [
            ColumnRanker("other", schema, "user:touched")
        ]

    monkeypatch.setattr(evaluate, "rankers", rankers)
    evaluate.evaluate_task(task_of(tiny_world, models, splits, tmp_path / "out"))
    frame = pd.read_parquet(tmp_path / "out" / PART)
    assert "trees|agreement" not in frame
    assert (frame["twin|agreement"].dropna() == 1).all()
    assert frame["other|agreement"].mean() < 0.9


@pytest.mark.usefixtures("little_evidence")
def test_propensities_come_from_the_training_part_alone(
    tiny_world: Home, splits: Splits, tmp_path: Path
) -> None:
    manifest = LogManifest.load(tiny_world)
    found = estimate(tiny_world, manifest, splits.validation_from)
    assert isinstance(found, Propensities)
    assert found.value[0] == 1.0
    assert min(found.value) < 0.8
    assert found.engagements > 100
    home = Home.at(tmp_path)
    for file in tiny_world.events.glob("*/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        time = table["request_time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        past = table.filter(pa.array(time < splits.validation_from))
        if past.num_rows:
            target = home.events / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(past, target)
    assert estimate(home, manifest, splits.validation_from) == found
    assert estimate(home, manifest, splits.validation_from - 2 * 86_400_000_000) != found


def test_without_positions_or_impressions_the_reason_is_told(
    tiny_world: Home, splits: Splits, tmp_path: Path
) -> None:
    manifest = LogManifest.load(tiny_world)
    bare = replace(manifest, has_impressions=False)
    assert "no impressions" in str(estimate(tiny_world, bare, splits.validation_from))
    first_day = min(manifest.requests_per_day)
    early = int(np.datetime64(first_day, "us").astype(np.int64)) + DAY_US // 2
    assert "Too few" in str(estimate(tiny_world, manifest, early))
    home = Home.at(tmp_path)
    for file in tiny_world.events.glob("*/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        at = table.schema.get_field_index("position")
        nothing = pa.nulls(table.num_rows, table.schema.field(at).type)
        target = home.events / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.set_column(at, "position", nothing), target)
    assert "no positions" in str(estimate(home, manifest, splits.validation_from))


def test_a_version_is_measured_again_with_what_its_job_and_the_ablations_said(
    tiny_world: Home,
    models: dict[str, Path],
    tmp_path: Path,
    ray_local: None,
    monkeypatch: pytest.MonkeyPatch,
    little_evidence: None,
) -> None:
    home = linked(tiny_world, tmp_path / "home")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(registry, "download", lambda home, version: models["interactrank"])
    (home.root / "baselines").mkdir()
    (home.root / "baselines" / "two_tower").symlink_to(models["two_tower"])
    full = {"parts": "", "metrics": {"hits@3": [0.1], "mrr": [0.05], "hits@10": [0.2]}}
    write_json(
        home.root / ablate.FILE,
        {
            "dataset": "tiny",
            "split": "validation",
            "about": "few",
            "ablations": {FULL: full},
        },
    )
    job = {"baselines": ["two_tower"], "ingest": ["17 rows in"]}
    write_json(home.root / pipeline.JOB, {"run_id": "of another version", **job})
    results = pipeline.evaluate_version(home, Version("3", "run"), "validation")
    said = pipeline.tables(home, results)
    assert set(results.models) == set(RANKERS)
    assert from_json((home.root / "metrics-validation.json").read_text()).models.keys() == set(
        RANKERS
    )
    assert "interactrank against" in said
    assert "compare rankers on the test split" in said
    assert "tiny: few" in said
    assert not (home.root / "report.html").exists()
    page = (home.root / "report-validation.html").read_text()
    assert "compare rankers on the test split" in page
    assert "What each part is worth" in page
    assert "17 rows in" not in page

    write_json(home.root / pipeline.JOB, {"run_id": None, **job})
    results = pipeline.evaluate_version(home, Version("3", "run"))
    assert "17 rows in" in (home.root / "report.html").read_text()
    assert "compare rankers on the test split" not in pipeline.tables(home, results)
