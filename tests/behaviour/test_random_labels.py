"""Labels permuted within the request teach nothing (invariant 5); the true ones do.

Features are rebuilt from the permuted log, so whatever of a request's own labels finds its way
into its features shows as an AUC above one half.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from interactrank.metrics.ranking import request_metrics
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.candidates import shown_candidates
from prerank.dataset.examples import request_arrays
from prerank.dataset.requests import event_days, requests_between
from prerank.dataset.splits import Splits
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.suite import FITTED, NEURAL, Neural, load_ranker
from prerank.features.offline import offline_inputs
from prerank.registry.bundle import save_bundle
from prerank.simulate import simulate
from prerank.training.fit import total_steps
from prerank.training.reader import Reader, new_model

BuildHome = Callable[..., Home]
REQUESTS = 3_000
TRAIN = TrainConfig(epochs=4, batch_requests=64, warmup_steps=10)
SCORERS = ("interactrank", *NEURAL, *FITTED)
MODEL = ModelConfig(width=16, text_width=16, id_width=8, mask_blocks=1, mask_width=32, hidden=(32,))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("labels")
    simulate(folder, "tiny", requests=REQUESTS, progress=False)
    log = pq.read_table(folder / "events").to_pandas()
    return log, pq.read_table(folder / "items.parquet").to_pandas()


def permuted(log: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Within each request, what happened to an item happens to another shown one instead."""
    rng = np.random.default_rng(seed)
    shown = log[log["action"] == "impression"]
    places = (
        shown[["request_id", "item_id", "position"]]
        .assign(draw=rng.random(len(shown)))
        .sort_values(["request_id", "position"])
    )
    drawn = places.sort_values(["request_id", "draw"])
    places["new_item"], places["new_position"] = (
        drawn["item_id"].to_numpy(),
        drawn["position"].to_numpy(),
    )
    engaged = log[log["action"] != "impression"].merge(
        places.drop(columns=["draw", "position"]),
        on=["request_id", "item_id"],
        how="left",
        validate="many_to_one",
    )
    assert engaged["new_item"].notna().all()
    engaged = engaged.assign(
        item_id=engaged["new_item"].astype(np.int64),
        position=engaged["new_position"].astype(np.int32),
    )
    return pd.concat([log[log["action"] == "impression"], engaged[log.columns]], ignore_index=True)


def trained(home: Home, name: str, folder: Path) -> Ranker:
    """A briefly trained scorer of each kind."""
    reader = Reader(home)
    if name in FITTED:
        FITTED[name](home, reader.schema, folder, TRAIN.seed)
        return load_ranker(name, folder)
    model, train = NEURAL.get(name, Neural()).configs(MODEL, TRAIN)
    trainer = Trainer(new_model(reader, model, train), train, total_steps(home, train))
    for epoch in range(train.epochs):
        trainer.model.train()
        for batch in reader.split("train", train.batch_requests, train.seed + epoch):
            trainer.step(batch)
    save_bundle(folder, trainer.model, reader.catalogue, {})
    return load_ranker(name, folder)


def held_out_auc(home: Home, ranker: Ranker) -> tuple[float, float]:
    """Mean AUC over the test requests, and its standard error."""
    reader = Reader(home)
    manifest = LogManifest.load(home)
    made = home.read_json(home.training_set / "manifest.json", "training-set")
    splits = Splits(**made["splits"])
    auc = []
    for files in event_days(home, splits.test_from, splits.closed_before):
        requests = requests_between(files, manifest, splits.test_from, splits.closed_before)
        queries = requests["query"].to_pylist()
        arrays = request_arrays(
            reader.schema,
            queries,
            offline_inputs(home, requests),
            shown_candidates(requests),
            reader.catalogue,
            reader.table,
        )
        scores = ranker.score(arrays, queries).astype(np.float64)
        auc.append(request_metrics(scores, arrays.labels & 1 > 0, arrays.offsets)["auc"])
    values = np.concatenate(auc)
    values = values[~np.isnan(values)]
    assert len(values) > 300
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def test_permutation_keeps_the_log_lawful(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    log, _ = world
    mixed = permuted(log, 1)
    per_request = ["request_id", "action"]
    assert mixed.groupby(per_request).size().equals(log.groupby(per_request).size())
    shown = set(
        zip(
            *log.loc[log["action"] == "impression", ["request_id", "item_id", "position"]]
            .to_numpy()
            .T,
            strict=True,
        )
    )
    rows = zip(*mixed[["request_id", "item_id", "position"]].to_numpy().T, strict=True)
    assert set(rows) == shown
    engaged = log["action"] != "impression"
    before = log.loc[engaged].set_index("event_id")["item_id"]
    after = mixed[mixed["action"] != "impression"].set_index("event_id")["item_id"]
    assert (before != after.loc[before.index]).mean() > 0.9


@pytest.fixture(scope="module")
def random_home(
    world: tuple[pd.DataFrame, pd.DataFrame],
    build_home: BuildHome,
    tmp_path_factory: pytest.TempPathFactory,
) -> Home:
    log, items = world
    folder = tmp_path_factory.mktemp("random")
    return build_home(folder, permuted(log, 1), items, training_set=True)


@pytest.fixture(scope="module")
def true_home(
    world: tuple[pd.DataFrame, pd.DataFrame],
    build_home: BuildHome,
    tmp_path_factory: pytest.TempPathFactory,
) -> Home:
    log, items = world
    return build_home(tmp_path_factory.mktemp("true"), log, items, training_set=True)


@pytest.mark.parametrize("name", SCORERS)
def test_random_labels_teach_nothing(name: str, random_home: Home, tmp_path: Path) -> None:
    auc, error = held_out_auc(random_home, trained(random_home, name, tmp_path))
    assert error < 0.02, "the test has no power"
    assert abs(auc - 0.5) < 3 * error, f"AUC {auc:.3f} of {error:.3f}"


@pytest.mark.parametrize("name", SCORERS)
def test_true_labels_teach(name: str, true_home: Home, tmp_path: Path) -> None:
    auc, error = held_out_auc(true_home, trained(true_home, name, tmp_path))
    assert auc > 0.6
    assert auc - 0.5 > 6 * error, f"AUC {auc:.3f} of {error:.3f}"
