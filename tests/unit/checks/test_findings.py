"""What a check says, writes and exits with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prerank.checks.drift import Drift
from prerank.checks.findings import Findings, Limits
from prerank.checks.leaks import Leaks
from prerank.checks.log import Busy, Clock
from prerank.checks.schema import Change
from prerank.core.errors import ConfigError, DataError

FINE = Findings(
    dataset="shop",
    version="3",
    since="2025-03-01T00:00:00+00:00",
    until="2025-03-02T00:00:00+00:00",
    trained=4_000,
    compared=900,
    features=(Drift("q:engage:all", 0.05, 0.3, 0.31, 1.0, 1.1),),
    missing=(),
    thin=(),
    clock=Clock(1_000, 0, 12.0, 400.0, 0.001),
    busy=(),
    limits=Limits(),
)
BAD = replace(
    FINE,
    features=(Drift("u:<touched>", 0.8, 0.3, 0.0, 1.0, 0.0), *FINE.features),
    missing=("2025-02-11",),
    clock=replace(FINE.clock, future=7),
    busy=(Busy("u<1>", 300, 5_000),),
)
SOUND = Leaks(9_000, 500, 0, 0.501, 0.004, 0, 0, 0)
LEAKING = Leaks(9_000, 500, 12, 0.7, 0.01, 3, 4, 5)


def test_a_log_within_the_limits_passes() -> None:
    assert FINE.problems() == []
    FINE.check()
    assert "q:engage:all" in FINE.table()
    assert "!" not in FINE.table()


def test_each_limit_that_is_passed_is_a_problem_and_the_exit_code_says_so() -> None:
    problems = " | ".join(BAD.problems())
    for says in ("u:<touched> drifted: PSI 0.80", "2025-02-11", "7 events", "u<1>"):
        assert says in problems
        assert says in BAD.table()
    with pytest.raises(DataError, match=r"u:<touched> drifted.*and 3 more") as failed:
        BAD.check()
    assert failed.value.exit_code == 3


def test_the_limit_of_drift_is_the_callers() -> None:
    replace(FINE, limits=Limits(psi=0.06)).check()
    with pytest.raises(DataError, match="drifted"):
        replace(FINE, limits=Limits(psi=0.04)).check()
    with pytest.raises(ConfigError, match="--psi 0"):
        Limits(psi=0)


def test_leaks_come_first_and_each_is_a_problem(tmp_path: Path) -> None:
    problems = replace(BAD, leaks=LEAKING).problems()
    for says, problem in zip(
        ("12 of 500 requests", "an AUC of 0.700", "3 engagement rows", "4 histories", "5 training"),
        problems,
        strict=False,
    ):
        assert says in problem
    fine = replace(FINE, leaks=SOUND)
    assert fine.problems() == []
    assert "AUC 0.501" in fine.table()
    assert "AUC" in fine.write(tmp_path)[1].read_text()
    for auc, error in ((0.519, 0.001), (0.56, 0.02), (0.3, 0.01)):
        assert replace(FINE, leaks=replace(SOUND, auc=auc, error=error)).problems() == []
    unknown = replace(FINE, leaks=replace(SOUND, auc=None, error=None))
    assert unknown.problems() == []
    assert "not measured" in unknown.table()
    assert "no impressions" in unknown.write(tmp_path)[1].read_text()


def test_changes_of_columns_are_problems(tmp_path: Path) -> None:
    found = replace(FINE, schema=(Change("2025-03-01", "price", "is <gone>"),))
    assert found.problems() == ["2025-03-01: price is <gone>"]
    assert "is &lt;gone&gt;" in found.write(tmp_path)[1].read_text()


def test_clocks_that_differ_are_a_problem_beyond_one_row_in_a_thousand() -> None:
    for backwards, failed in ((1, False), (2, True)):
        clock = replace(FINE.clock, backwards=backwards, read=1_000)
        assert bool(replace(FINE, clock=clock).problems()) == failed
    assert "2 of 1,000 rows" in replace(FINE, clock=clock).problems()[0]


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    data, page = BAD.write(tmp_path)
    written = json.loads(data.read_text())
    assert written["features"][0]["psi"] == 0.8
    assert written["problems"] == BAD.problems()
    text = page.read_text()
    assert "q:engage:all" in text
    assert "u&lt;1&gt;" in text
    assert "<touched>" not in text
