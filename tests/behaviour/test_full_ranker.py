"""A full ranker's scores: from a log to what training aims at, and never to what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank.metrics.recall import recall_at, top
from interactrank.model.config import ModelConfig
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import auxiliary_requests, hold_out, refit
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.candidates import shown_candidates
from prerank.dataset.examples import read_split
from prerank.dataset.requests import read_requests
from prerank.simulate import PRESETS, simulate
from prerank.training.fit import total_steps
from prerank.training.reader import Reader, new_model

BuildHome = Callable[..., Home]
Case = Any
"""The class of that name in conftest.py, which a test module cannot import."""
MODEL = ModelConfig(width=16, text_width=16, id_width=8, mask_blocks=1, mask_width=32, hidden=(32,))
TRAIN = TrainConfig(epochs=5, batch_requests=64, warmup_steps=10)
KEPT = 3


def test_scores_reach_the_candidates_and_text_is_set_aside(case: Case) -> None:
    frame = case.log().assign(stage_two=[f"{0.5 * (i % 4)}" for i in range(40)])
    # Of r0 the click alone has a score, of r1 nothing has, and r2 has words.
    frame.loc[[0, 2, 3], "stage_two"] = None
    frame.loc[4, "stage_two"] = "good"
    frame.loc[6, "stage_two"] = "inf"
    # The second candidate of r4 was scored and not shown.
    frame.loc[9, "action"] = "scored"
    passive, weights = ["impression", "scored"], {"scored": 0, "click": 1}
    mapping = {"events": {"l2_score": "stage_two"}, "passive": passive, "weights": weights}
    report = case.ingest(frame, **mapping)
    assert report.reasons == {"l2_score is no finite number": 2}
    assert report.manifest.full_ranker
    files = sorted(case.home.events.glob("day=*/*.parquet"))
    requests = read_requests(files, report.manifest)
    found = shown_candidates(requests)
    assert found.teacher.dtype == np.float32
    ids = requests["request_id"].to_pylist()
    of = dict(zip(ids, np.split(found.teacher, found.offsets[1:-1]), strict=True))
    np.testing.assert_array_equal(of["r0"], [np.nan, 0.5])
    np.testing.assert_array_equal(of["r1"], [np.nan, np.nan])
    np.testing.assert_array_equal(of["r4"], [0.0, 0.5])
    at = found.offsets[ids.index("r4")]
    assert found.labels[at : at + 2].tolist() == [0, 0]
    assert found.weights[at + 1] == 0.0
    plain = case.ingest(case.log(), replace=True).manifest
    assert not plain.full_ranker
    assert "full_ranker" not in case.home.manifest.read_text()
    files = sorted(case.home.events.glob("day=*/*.parquet"))
    assert not len(shown_candidates(read_requests(files, plain)).teacher)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A log with prices whose full ranker knows the truth, of which one click in ten is left."""
    folder = tmp_path_factory.mktemp("full_ranker")
    simulate(
        folder, replace(PRESETS["tiny"], price=2.0), requests=1_000, full_ranker=0.0, progress=False
    )
    log = pq.read_table(folder / "events").to_pandas()
    lost = (log["action"] != "impression") & (np.random.default_rng(0).random(len(log)) > 0.1)
    return log[~lost], pq.read_table(folder / "items.parquet").to_pandas()


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    build_home: BuildHome,
    world: tuple[pd.DataFrame, pd.DataFrame],
) -> Home:
    root = tmp_path_factory.mktemp("scored")
    return build_home(root, *world, training_set=True, candidate_features=["price"])


def examples(home: Home) -> pa.Table:
    return pa.concat_tables(t for s in ("train", "validation") for t in read_split(home, s))


def test_a_score_that_tells_the_label_is_read_by_no_feature(
    tmp_path: Path, build_home: BuildHome, home: Home, world: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    log, items = world
    engaged = log.loc[log["action"] != "impression", ["request_id", "item_id"]].drop_duplicates()
    told = log[["request_id", "item_id"]].merge(engaged.assign(l2_score=1.0), how="left")
    planted = log.assign(l2_score=told["l2_score"].fillna(0.0).to_numpy())
    leaking = build_home(tmp_path, planted, items, training_set=True, candidate_features=["price"])
    first, other = examples(home), examples(leaking)
    assert not first["teacher"].equals(other["teacher"])
    for name in set(first.column_names) - {"teacher"}:
        values = [np.array(table[name].to_pandas().explode(), object) for table in (first, other)]
        assert pd.Series(values[0]).equals(pd.Series(values[1])), name
    assert LogManifest.load(home).schema == LogManifest.load(leaking).schema


def kept_of_the_teachers_best(home: Home, weight: float) -> float:
    """Share of the teacher's three best that the model's three best hold, on validation."""
    config = replace(TRAIN, loss=LossConfig(teacher=weight))
    reader = Reader(home)
    trainer = Trainer(new_model(reader, MODEL, config), config, total_steps(home, config))
    batches = list(reader.split("train", config.batch_requests, config.seed))
    for epoch in range(config.epochs):
        trainer.epoch(epoch, batches, ())
    fusion = trainer.model.fusion
    refit(fusion, auxiliary_requests(batches, "cpu"), config.loss)
    found = []
    for held in hold_out(trainer.model, reader.split("validation", 256)):
        scores = fusion.logits(held.dots, held.x, held.statistics, held.request)[:, 0]
        offsets = np.searchsorted(held.request.numpy(), np.arange(held.requests + 1))
        keep = np.full(held.requests, KEPT)
        wanted = top(held.teacher.numpy(), offsets, keep)
        found.append(recall_at(scores.detach().numpy(), wanted, offsets, keep))
    return float(np.nanmean(np.concatenate(found)))


def test_what_the_full_ranker_knows_and_few_clicks_tell_is_learned(home: Home) -> None:
    assert kept_of_the_teachers_best(home, 10.0) > kept_of_the_teachers_best(home, 0.0) + 0.02
