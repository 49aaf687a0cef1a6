"""What benchmarks/what_trees_find.py finds where it is known what there is to find."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import FeatureSchema
from interactrank.metrics.ranking import request_metrics
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import HeldOut

FOLDER = Path(__file__).parents[3] / "benchmarks"
REQUESTS, CANDIDATES, COLUMNS = 150, 8, 4
N = REQUESTS * CANDIDATES
SCHEMA = FeatureSchema(("click",), (), ("engagement",))


@dataclass(frozen=True)
class World:
    """Requests whose engaged candidate is the one with the greatest product of columns 0 and 1."""

    x: torch.Tensor
    label: torch.Tensor

    @property
    def of(self) -> torch.Tensor:
        return torch.arange(REQUESTS).repeat_interleave(CANDIDATES)

    def held(self) -> HeldOut:
        ones, none = torch.ones(N), torch.zeros(N)
        return HeldOut(
            none[:, None],
            self.x,
            torch.zeros(REQUESTS, 2),
            self.label[:, None],
            ones,
            none,
            torch.full((N,), torch.nan),
            self.of,
            REQUESTS,
        )

    def arrays(self) -> RequestArrays:
        no, whole = np.zeros(0), np.zeros(0, np.int64)
        offsets = np.arange(REQUESTS + 1) * CANDIDATES
        names = ("time", "text", "hist_items", "hist_actions", "hist_times", "top_items")
        empty: dict[str, Any] = dict.fromkeys(names, whole)
        empty |= {f"{n}_offsets": whole for n in ("text", "hist", "top_items")}
        return RequestArrays(
            **empty | {"time": np.zeros(REQUESTS, np.int64)},
            top_items_counts=no.astype(np.float32),
            request=np.zeros((REQUESTS, 2), np.float32),
            candidates=np.zeros(N, np.int64),
            offsets=offsets,
            x=self.x.numpy(),
        )


@pytest.fixture(scope="module")
def world() -> World:
    torch.manual_seed(0)
    x = torch.randn(N, COLUMNS)
    product = (x[:, 0] * x[:, 1]).view(REQUESTS, CANDIDATES)
    label = torch.nn.functional.one_hot(product.argmax(1), CANDIDATES).float().flatten()
    return World(x, label)


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import forms_of_g

    yield forms_of_g
    sys.modules.pop("forms_of_g", None)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import tree_pairs

    yield tree_pairs
    sys.modules.pop("tree_pairs", None)


def mrr(world: World, ranker: Any) -> float:
    arrays = world.arrays()
    engaged = world.label.numpy() > 0
    return float(request_metrics(ranker.score(arrays, []), engaged, arrays.offsets)["mrr"].mean())


def test_the_strongest_pair_is_the_one_that_decides_together(pairs: Any) -> None:
    x = np.random.default_rng(0).standard_normal((3_000, COLUMNS)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + 2 * x[:, 2]
    few = {"verbosity": -1, "num_threads": 1, "seed": 0, "min_data_in_leaf": 5}
    booster = lightgbm.train(few, lightgbm.Dataset(x, y), 60)
    columns, shares = pairs.gains(booster)
    found = pairs.strongest(booster, x, 0)
    assert next(iter(columns)) == 2
    assert sum(columns.values()) == pytest.approx(1)
    assert sum(shares.values()) <= 1
    assert found[0].columns == (0, 1)
    assert found[0].strength > 3 * found[1].strength


def test_a_product_finds_what_a_linear_g_cannot(world: World, forms: Any) -> None:
    def fitted(form: Any) -> Any:
        return forms.G(form, [world.held()], SCHEMA, [(0, 1)], LossConfig())

    linear = mrr(world, fitted(forms.Form("linear", hidden=0)))
    product = mrr(world, fitted(forms.Form("product", hidden=0, products=1)))
    assert linear < 0.5
    assert product > 0.95


def test_cost_is_that_of_the_columns_that_a_form_has(world: World, forms: Any) -> None:
    def flops(**form: Any) -> float:
        made = forms.G(
            forms.Form("", **form), [world.held()], SCHEMA, [(0, 1), (1, 2)], LossConfig()
        )
        return float(made.flops)

    assert flops(hidden=0) == 2 * COLUMNS
    assert flops(hidden=0, products=2) == 2 * (COLUMNS + 2) + 2
    assert flops(hidden=4) == 2 * (COLUMNS + 4 * COLUMNS + 4)
    # Two gated units are two pairs of sums of x, two products and a sum of two.
    assert flops(hidden=4, gated=True) == 2 * (COLUMNS + 4 * COLUMNS + 2) + 2


def test_an_absent_candidate_feature_is_its_median_in_products_and_hinges(forms: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    x[:, 3] = 0
    x[::2, 2:] = torch.tensor([0.0, 1.0])
    form = forms.Form("", products=1, hinges=True)
    columns = forms.Columns(form, x, 1, [(0, 2)])
    at_median = torch.tensor([[1.0, 1.0, float(columns.base.x_mean[2]), 0.0]])
    absent = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    of_value = columns.bent == 2
    made = [columns.of(row)[0, : columns.added] for row in (at_median, absent)]
    assert of_value.any()
    assert torch.allclose(made[0][0], made[1][0])
    assert torch.allclose(made[0][1:][of_value], made[1][1:][of_value], atol=1e-6)
    assert columns.of(absent).shape == (1, columns.added + 4)
