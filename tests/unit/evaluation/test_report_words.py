"""What a report says without its page: the headline, the terminal's table and the metrics file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from tests.reports import full, with_mean

from prerank.evaluation.metrics_file import from_json, to_json
from prerank.evaluation.report.text import headline, metrics_table, versus_table
from prerank.evaluation.results import (
    COMPARED,
    METRICS,
    Comparisons,
    Difference,
    NotMeasured,
    Results,
)


def with_difference(part: Comparisons, name: str, metric: str, found: Difference) -> Comparisons:
    return {**part, name: {**part[name], metric: found}}


def test_headline_says_what_was_found() -> None:
    results = full()
    said = headline(results)
    assert said.startswith("Cut to the best tenth, the candidates keep 80.0% of engaged items")
    assert "interactrank places an engaged item among its three best in 82.0%" in said
    assert "19.0 points more than two_tower (95% interval +18.0 to +20.0 points, p < .001)" in said

    def paired(difference: float, high: float, p: float) -> Results:
        found = Difference(difference, (-0.1, high), p)
        return replace(
            results, paired=with_difference(results.paired, "interactrank", "hits@3", found)
        )

    assert "cannot be told apart from two_tower" in headline(paired(0.001, 0.1, 0.9))
    worse = paired(-0.05, 0, 0.05)
    worse = replace(
        worse, models={**worse.models, "bm25": with_mean(worse.models["bm25"], "mrr", 0.95)}
    )
    assert "bm25 ranks better by MRR: .950 against .840." in headline(worse)
    others = {name: model for name, model in worse.models.items() if name != "interactrank"}
    assert "interactrank places" not in headline(replace(worse, models=others))
    assert "bm25 places" in headline(replace(worse, models=others))


def test_headline_counts_whom_the_lead_beats() -> None:
    results = full()
    assert "better than each of the 2 other rankers with p < .01" in headline(results)
    unsure = replace(results.versus["bm25"]["mrr"], p=0.02)
    results = replace(results, versus=with_difference(results.versus, "bm25", "mrr", unsure))
    assert "better than 1 of the 2 other rankers" in headline(results)
    lost = replace(results.versus["two_tower"]["mrr"], difference=-0.1)
    results = replace(results, versus=with_difference(results.versus, "two_tower", "mrr", lost))
    assert "better than 0 of the 2 other rankers" in headline(results)


def test_paired_tests_are_a_table_of_their_own() -> None:
    results = full()
    lines = versus_table(results).splitlines()
    assert lines[0].split() == ["interactrank", "against", *COMPARED]
    assert [line.split()[0] for line in lines[1:]] == ["two_tower", "bm25"]
    assert results.versus["two_tower"]["mrr"].difference == pytest.approx(0.1)
    assert "+.100 (+.050 to +.150), p < .001" in lines[1]
    assert versus_table(replace(results, versus={})) == ""


def test_on_requests_that_the_models_saw_it_says_so() -> None:
    seen = replace(full(), split="validation")
    for said in (headline(seen), versus_table(seen)):
        assert "compare rankers on the test split" in said
    for said in (headline(full()), versus_table(full())):
        assert "compare rankers on the test split" not in said


def test_headline_leaves_out_a_ceiling_that_says_nothing() -> None:
    results = full()
    assert "would reach 97.0%" in headline(results)
    assert "keep 80.0% of engaged items (97.0% at most)" in headline(results)
    perfect = replace(results, reachable_ceiling=dict.fromkeys(METRICS, 1.0))
    assert "100.0%" not in headline(perfect)


def test_terminal_table_is_aligned_ascii() -> None:
    lines = metrics_table(full()).splitlines()
    assert lines[0].split() == list(METRICS)
    assert [line.split()[0] for line in lines[1::2]] == [
        "interactrank",
        "two_tower",
        "bm25",
        "all-knowing",
        "reachable",
    ]
    assert ".850-.870" in lines[2]
    assert lines[1].count("*") == len(METRICS)
    assert "*" not in "".join(lines[3:])
    assert all(line.isascii() and len(line) <= 120 for line in lines)
    ends = {m.end() for m in re.finditer(r"\S+", lines[0])}
    assert {m.end() for m in re.finditer(r"\S+", lines[2])} == ends


def undefined() -> Results:
    """With a NaN and a number that is numpy's."""
    results = full()
    models = {
        **results.models,
        "bm25": with_mean(results.models["bm25"], "auc", math.nan),
        "two_tower": with_mean(results.models["two_tower"], "mrr", cast("float", np.float32(0.5))),
    }
    return replace(results, models=models)


def test_metrics_file_holds_exactly_the_agreed_keys() -> None:
    def refuse(name: str) -> float:
        pytest.fail(f"{name} is no JSON")

    read = json.loads(to_json(undefined()), parse_constant=refuse)
    agreed = {"dataset", "split", "models", "reachable_ceiling", "paired"}
    studies = {"versus", "cut", "calibration", "counterfactual", "ablations", "curve"}
    assert set(read) == agreed | studies
    assert (read["dataset"], read["split"]) == ("bestbuy", "test")
    assert set(read["models"]["interactrank"]) == {*METRICS, "ci"}
    assert read["models"]["bm25"]["auc"] is None
    assert read["models"]["two_tower"]["mrr"] == 0.5
    gain = {"difference": 0.19, "ci": [0.18, 0.2], "p": 0.0005}
    assert read["paired"] == {"interactrank": {"hits@3": gain, "mrr": gain}}
    assert read["versus"]["bm25"] == {"mrr": {"difference": 0.1, "ci": [0.05, 0.15], "p": 0.0005}}


def test_studies_keep_their_keys_in_the_metrics_file() -> None:
    read = json.loads(to_json(full()))
    assert read["cut"] == {
        "reference": {"name": "bm25", "top": 10},
        "models": {
            "interactrank": {"recall@cut": 0.9, "agreement": 0.77, "ci": {}},
            "bm25": {"recall@cut": 0.8, "ci": {"recall@cut": [0.7, 0.9]}},
        },
    }
    assert read["calibration"]["models"]["interactrank"]["save"] == {
        "ece": 0.0123,
        "predicted": 0.05,
        "observed": 0.04,
        "impressions": 24_680,
        "curve": [[10, 0.001, 0.0], [10, 0.01, 0.02], [10, 0.1, 0.09]],
    }
    own = {"mrr": 0.3, "dcg": 0.3, "ci": {"mrr": [0.3, 0.3], "dcg": [0.3, 0.3]}}
    assert read["counterfactual"]["models"]["as shown"] == own
    assert read["counterfactual"]["propensities"] == {
        "first_place": [1, 2, 5],
        "value": [1.0, 0.5, 0.25],
        "engagements": 4_321,
        "strata": "query and item",
    }
    assert read["counterfactual"]["requests"] == 900
    assert read["counterfactual"]["effective_engagements"] == 765.4
    assert read["ablations"]["no time"] == {"parts": "time buckets", "metrics": {"mrr": [0.509]}}
    absent = json.loads(to_json(replace(full(), calibration=NotMeasured("no impressions"))))
    assert absent["calibration"] == {"absent": "no impressions"}


@pytest.mark.parametrize("change", ["nothing", "undefined", "no reference", "not measured"])
def test_the_metrics_file_reads_back(change: str) -> None:
    results = undefined() if change == "undefined" else full()
    if change == "no reference":
        assert results.cut
        results = replace(results, cut=replace(results.cut, reference=None))
    if change == "not measured":
        why = NotMeasured("The log has no impressions.")
        results = replace(results, calibration=why, counterfactual=why, cut=None)
    read = from_json(to_json(results))
    assert to_json(read) == to_json(results)
    assert versus_table(read) == versus_table(results)
    assert headline(read) == headline(results)
    assert metrics_table(read) == metrics_table(replace(results, oracles={}))
    if change != "undefined":  # NaN equals nothing
        assert (read.paired, read.versus, read.cut) == (
            results.paired,
            results.versus,
            results.cut,
        )
        assert (read.calibration, read.counterfactual) == (
            results.calibration,
            results.counterfactual,
        )
        assert read.ablations == results.ablations
