"""What a report says without its page: the headline, the terminal's table and the metrics file."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from tests.reports import full

from prerank.evaluation.report.text import (
    METRICS,
    MORE,
    headline,
    metrics_table,
    versus_table,
    write_metrics,
)


def test_headline_says_what_was_found() -> None:
    results = full()
    said = headline(results)
    assert said.startswith("interactrank places an engaged item among its three best in 82.0%")
    assert "19.0 points more than two_tower (95% interval +18.0 to +20.0 points, p < .001)" in said
    results["paired"]["interactrank"]["hits@3"] = {"difference": 0.001, "ci": [-0.1, 0.1], "p": 0.9}
    assert "cannot be told apart from two_tower" in headline(results)
    results["paired"]["interactrank"]["hits@3"] = {"difference": -0.05, "ci": [-0.1, 0], "p": 0.05}
    results["models"]["bm25"]["mrr"] = 0.95
    assert "bm25 ranks better by MRR: .950 against .860." in headline(results)
    del results["models"]["interactrank"]
    assert headline(results).startswith("bm25 places")


def test_headline_counts_whom_the_lead_beats() -> None:
    results = full()
    assert "better than each of the 2 other rankers with p < .01" in headline(results)
    results["versus"]["bm25"]["mrr"]["p"] = 0.02
    assert "better than 1 of the 2 other rankers" in headline(results)
    results["versus"]["two_tower"]["mrr"]["difference"] = -0.1
    assert "better than 0 of the 2 other rankers" in headline(results)


def test_paired_tests_are_a_table_of_their_own() -> None:
    results = full()
    lines = versus_table(results).splitlines()
    assert lines[0].split() == ["interactrank", "against", "hits@3", "mrr"]
    assert [line.split()[0] for line in lines[1:]] == ["two_tower", "bm25"]
    row = results["versus"]["two_tower"]["mrr"]
    assert f"{row['difference']:+.3f} (" in lines[1]
    assert versus_table(full() | {"versus": {}}) == ""


def test_on_requests_that_the_models_saw_it_says_so() -> None:
    seen = full() | {"split": "validation"}
    for said in (headline(seen), versus_table(seen)):
        assert "compare rankers on the test split" in said
    for said in (headline(full()), versus_table(full())):
        assert "compare rankers on the test split" not in said


def test_headline_leaves_out_a_ceiling_that_says_nothing() -> None:
    results = full()
    assert "would reach 97.0%" in headline(results)
    assert "keep 90.0% of engaged items (97.0% at most)" in headline(results)
    results["reachable_ceiling"] = dict.fromkeys(METRICS, 1.0)
    assert "100.0%" not in headline(results)


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


def test_metrics_file_holds_exactly_the_agreed_keys(tmp_path: Path) -> None:
    results = full()
    results["models"]["bm25"]["auc"] = math.nan
    results["models"]["two_tower"]["mrr"] = np.float32(0.5)
    write_metrics(tmp_path / "a" / "metrics.json", results)

    def refuse(name: str) -> float:
        pytest.fail(f"{name} is no JSON")

    text = (tmp_path / "a" / "metrics.json").read_text()
    read = json.loads(text, parse_constant=refuse)
    agreed = {"dataset", "split", "models", "reachable_ceiling", "paired"}
    assert set(read) == agreed | set(MORE)
    assert (read["dataset"], read["split"]) == ("bestbuy", "test")
    assert set(read["models"]["interactrank"]) == {*METRICS, "ci"}
    assert read["models"]["bm25"]["auc"] is None
    assert read["models"]["two_tower"]["mrr"] == 0.5
    assert read["paired"] == json.loads(json.dumps(results["paired"]))
