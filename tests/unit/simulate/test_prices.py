"""A world with prices of the day: the log has them, they matter, and a model can use them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from tests.plain_requests import Request, as_inputs
from tests.simulated import POSITIVE, mean_reciprocal_rank, read_events

from interactrank.features.engagement import cross_features
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.metrics.ranking import mean, request_metrics
from interactrank.model.fusion import Fusion
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import HeldOut, refit
from prerank.simulate import PRESETS, load_oracles, simulate

SCHEMA = FeatureSchema(
    ("impression", "click"), ("impression",), ("engagement",), candidate_features=("price",)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("priced")
    simulate(folder, replace(PRESETS["tiny"], price=2.0), progress=False)
    return folder


@pytest.fixture(scope="module")
def events(folder: Path) -> pd.DataFrame:
    return read_events(folder)


def test_a_price_is_the_items_and_the_days(events: pd.DataFrame, folder: Path) -> None:
    day = events["request_time"].dt.date
    assert (events.groupby(["item_id", day])["price"].nunique() == 1).all()
    assert (events.groupby("item_id")["price"].nunique() > 3).mean() > 0.9
    items = pd.read_parquet(folder / "items.parquet").set_index("item_id")["price"]
    ratio = np.log(events["price"] / events["item_id"].map(items))
    assert abs(ratio.mean()) < 0.1
    assert ratio.std() == pytest.approx(0.5, abs=0.1)


def test_a_log_without_prices_has_no_such_column(tmp_path: Path) -> None:
    simulate(tmp_path / "log", "tiny", requests=20, progress=False)
    assert "price" not in read_events(tmp_path / "log")


def test_cheap_items_are_clicked_and_the_oracles_know_it(
    events: pd.DataFrame, folder: Path
) -> None:
    clicked = events[events["action"].isin(POSITIVE)]["price"].median()
    assert clicked < 0.8 * events[events["action"] == "impression"]["price"].median()
    oracle = load_oracles(folder)["oracle_log"]
    assert mean_reciprocal_rank(events, oracle) > mean_reciprocal_rank(events, None) + 0.1


def held_out(events: pd.DataFrame, prices: NDArray[np.float32]) -> HeldOut:
    """Requests as the fusion sees them, of which nothing is known but what is given."""
    sizes = events.groupby("request_id", sort=False).size().to_numpy(np.int64)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)))
    inputs = as_inputs([Request()] * len(sizes))
    none = np.zeros(len(events), np.int64)
    x = cross_features(SCHEMA, inputs, events["item_id"].to_numpy(), offsets, none, prices)
    labels = torch.tensor(events["positive"].to_numpy(np.float32)[:, None])
    return HeldOut(
        torch.zeros_like(labels),
        torch.from_numpy(x),
        torch.zeros(len(sizes), len(REQUEST_NUMERIC)),
        labels,
        torch.ones(len(events)),
        torch.zeros(len(events)),
        torch.full((len(events),), torch.nan),
        torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        len(sizes),
    )


def mrr_of_the_last_requests(events: pd.DataFrame, prices: NDArray[np.float32]) -> float:
    """Of a fusion that was fitted on the first three quarters of the requests."""
    requests = events["request_id"].unique()
    early = events["request_id"].isin(requests[: len(requests) * 3 // 4]).to_numpy()
    train, test = (held_out(events[part], prices[part]) for part in (early, ~early))
    torch.manual_seed(0)
    fusion = Fusion(len(SCHEMA.cross), len(REQUEST_NUMERIC), 1, False, 4, optional=1)
    fusion.fit(train.x, train.statistics)
    refit(fusion, [train], LossConfig())
    with torch.no_grad():
        scores = fusion.logits(test.dots, test.x, test.statistics, test.request)[:, 0].numpy()
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.bincount(test.request))))
    return mean(request_metrics(scores, test.labels[:, 0].numpy() > 0, bounds)["mrr"])


def test_a_model_learns_what_the_price_is_worth(events: pd.DataFrame) -> None:
    engaged = events[events["action"].isin(POSITIVE)][["request_id", "item_id"]]
    shown = events[events["action"] == "impression"].copy()
    keys = pd.MultiIndex.from_frame(shown[["request_id", "item_id"]])
    shown["positive"] = keys.isin(pd.MultiIndex.from_frame(engaged))
    shown = shown[shown.groupby("request_id")["positive"].transform("any")]
    prices = shown["price"].to_numpy(np.float32)[:, None]
    rng = np.random.default_rng(0)
    some = np.where(rng.random(prices.shape) < 0.3, np.float32(np.nan), prices)
    without, partly, with_prices = (
        mrr_of_the_last_requests(shown, given)
        for given in (np.full_like(prices, np.nan), some, prices)
    )
    assert without + 0.03 < partly
    assert without + 0.08 < with_prices
