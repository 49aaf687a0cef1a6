"""What benchmarks/over_http.py prints: medians, refusals at twice saturation, ratios."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import over_http_tables

    yield over_http_tables
    for name in ("over_http_tables", "printed"):
        sys.modules.pop(name, None)


def values(saturation: float) -> dict[str, list[float]]:
    once = {"alone": [8.0], "peak": [100.0]}
    cores = {f"{of}_cores": [0.25] for of in ("service", "redis", "generator")}
    repeats = {
        "saturation": [saturation] * 3,
        "half_p50": [9.0, 10.0, 12.0],
        "half": [10.0] * 98 + [30.0, 40.0],
        "goodput": [70.0, 90.0, 95.0],
        "refused": [0.4, 0.5, 0.6],
        "late": [0.0, 0.01, 0.02],
        "degraded": [0.0, 0.02, 0.2],
        "memory_before": [1000.0] * 3,
        "memory_after": [1010.0, 1020.0, 1030.0],
    }
    return once | cores | repeats


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("others", [{}, {"plain": values(20.0)}])
def test_each_table_has_what_was_measured(printed: Any, others: dict[str, Any]) -> None:
    found = {(10_000, "int64"): {"ours": values(80.0)} | others}
    scorer = {10_000: {"score": 4.0, "both": 4.9}}
    tables = [table.splitlines() for table in printed.tables(found, scorer).split("\n\n")]
    assert [len(table) - 2 for table in tables] == [1 + len(others), 1 + len(others), 1]
    latency, overload, ratios = (dict(zip(cells(t[0]), cells(t[2]), strict=True)) for t in tables)
    assert latency["at half: p50 ms"] == "10.0 (9.0 to 12.0)"
    assert (latency["p99 ms"], latency["p99.9 ms"]) == ("30.1", "")
    assert (overload["503"], overload["late"], overload["degraded, of answers"]) == (
        "50%",
        "1%",
        "2%",
    )
    assert (overload["goodput /s"], overload["of peak"]) == ("90 (70 to 95)", "90%")
    assert overload["memory, MB"] == "1,000 to 1,030"
    assert ratios["alone - scorer, ms (goal: 3)"] == "4.0"
    assert ratios["saturation, ours / plain (goal at 10,000 int64: 3)"] == ("4.0" if others else "")
