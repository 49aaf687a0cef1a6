"""The Grafana dashboard: it shows every metric that is exported, under its name, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prerank.playground.metrics import METRICS as OF_PLAYGROUND
from prerank.serving.metrics import METRICS as OF_REPLICA

ROOT = Path(__file__).parents[3]
BOARD: dict[str, Any] = json.loads((ROOT / "deployments" / "grafana" / "prerank.json").read_text())
METRICS = (*OF_REPLICA, *OF_PLAYGROUND)
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
EXPORTED = {f"ray_{m.name}{s}": m for m in METRICS for s in SUFFIXES[m.kind]}
"""Series as Prometheus reads them from Ray."""
OF_RAY = {"WorkerId", "le"}


def expressions() -> Iterator[str]:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]


def test_every_metric_that_is_queried_is_exported_and_every_one_is_shown() -> None:
    queried = {name for text in expressions() for name in re.findall(r"\bray_\w+", text)}
    assert queried <= EXPORTED.keys()
    assert {EXPORTED[name].name for name in queried} == {m.name for m in METRICS}


def test_what_is_grouped_and_chosen_by_is_a_label_of_the_metric() -> None:
    for text in expressions():
        labels = set(re.findall(r"(\w+)=~", text))
        for group in re.findall(r"by \(([^)]+)\)", text):
            labels |= set(re.split(r",\s*", group))
        (metric,) = {EXPORTED[name] for name in re.findall(r"\bray_\w+", text)}
        assert labels - OF_RAY <= set(metric.labels), text


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_every_metric_is_in_the_handbook() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.partition("## What to watch")[2].partition("\n## ")[0]
    assert {m.name for m in METRICS} == set(re.findall(r"`(prerank_\w+?)`", section))
