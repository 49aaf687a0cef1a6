"""Trainings that differ by their seed are averaged request by request."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.reports import full, page, section

from interactrank.metrics.ranking import METRICS
from prerank.evaluation.done import Done, RankerCost
from prerank.evaluation.over_seeds import averaged, labelled, of_first, seed_metrics
from prerank.evaluation.report.text import metrics_table, seeds_note

NAMES = ["iqp", "linear seed 8", "linear seed 7"]


def frame() -> pd.DataFrame:
    """Three requests; a metric is undefined for the second, whoever ranks."""
    values = {"iqp": [0.5, 0.5, 0.0], "linear seed 8": [1.0, 1.0, 0.5], "linear seed 7": [0, 1, 1]}
    columns = {f"{n}|{m}": np.array(v, np.float64) for n, v in values.items() for m in METRICS}
    for name in values:
        columns[f"{name}|auc"][1] = math.nan
    return pd.DataFrame({"request_id": ["a", "b", "c"], "positives": [1, 2, 0], **columns})


def test_each_request_has_the_mean_of_the_seeds_and_other_columns_stay() -> None:
    found = averaged(frame(), NAMES)
    assert found["linear|mrr"].tolist() == [0.5, 1.0, 0.75]
    np.testing.assert_array_equal(found["linear|auc"], [0.5, math.nan, 0.75])
    assert found["iqp|mrr"].tolist() == [0.5, 0.5, 0.0]
    assert found["positives"].tolist() == [1, 2, 0]
    assert not [c for c in found.columns if "seed" in c]


def test_only_what_was_trained_several_times_has_values_by_seed() -> None:
    found = seed_metrics(frame(), NAMES)
    assert found.keys() == {"linear"}
    assert found["linear"]["mrr"] == pytest.approx([2.5 / 3, 2 / 3])
    assert found["linear"]["auc"] == pytest.approx([0.75, 0.5])
    assert seed_metrics(frame(), NAMES[:1]) == {}


def test_costs_and_predictions_are_of_the_first_seed() -> None:
    costs = {name: RankerCost(float(n), 1.0, 1.0) for n, name in enumerate(NAMES)}
    histograms = {(name, "click"): np.full((2, 3), n) for n, name in enumerate(NAMES)}
    (found,) = of_first([Done(3, 9, costs, histograms)], NAMES)
    assert {name: cost.seconds for name, cost in found.costs.items()} == {"iqp": 0, "linear": 1}
    assert {key: int(h[0, 0]) for key, h in found.histograms.items()} == {
        ("iqp", "click"): 0,
        ("linear", "click"): 1,
    }


def test_one_seed_needs_no_label() -> None:
    assert labelled({"a": {7: Path("x")}}) == {"a": Path("x")}
    both = labelled({"a": {8: Path("y"), 7: Path("x")}})
    assert list(both.items()) == [("a seed 8", Path("y")), ("a seed 7", Path("x"))]


def test_the_report_shows_the_spread_and_says_which_seed_is_the_version(
    tmp_path: Path,
) -> None:
    bare = full()
    assert seeds_note(bare) == ""
    assert "+-" not in metrics_table(bare)
    results = replace(
        bare,
        seeds={"interactrank": {"mrr": [0.5, 0.54, 0.52], "auc": [0.5, math.nan, 0.5]}},
        trainings={8: 0.61, 7: 0.605, 9: 0.6},
    )
    table = metrics_table(results)
    assert table.count("+-.020") == 1
    assert table.count("+-") == 1, "an undefined value has no spread"
    assert "seed 8, which was best on validation: MRR .610" in seeds_note(results)
    shown = page(tmp_path, results)
    assert "± .020" in section(shown.source, "Metrics")
    assert "which was best on validation" in shown.text
