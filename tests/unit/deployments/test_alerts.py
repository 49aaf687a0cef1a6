"""Alerts: of metrics that are exported, each with its section in the incident book; they fire."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from tests.manifests import ROOT, documents

from prerank.serving.metrics import METRICS

RULES = ROOT / "deployments" / "prometheus" / "alerts.yaml"
CASES = ROOT / "tests" / "unit" / "deployments" / "alerts.test.yaml"
BOOK = ROOT / "docs" / "incidents.md"
QUIET = {
    *("prerank_stage_ms", "prerank_online_keys"),
    *("prerank_shadow_overlap", "prerank_shadow_score_difference"),
}
"""They explain what others alert about, or answer what an experiment asks."""
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
EXPORTED = {f"ray_{m.name}{s}": m.name for m in METRICS for s in SUFFIXES[m.kind]}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here: apt-get install prometheus"
)


def rules() -> dict[str, dict[str, Any]]:
    (found,) = documents(RULES)
    listed = [rule for group in found["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in listed}) == len(listed)
    return {rule["alert"]: rule for rule in listed}


def test_every_metric_is_exported_and_each_has_an_alert_or_explains_others() -> None:
    asked = {name for rule in rules().values() for name in re.findall(r"ray_\w+", rule["expr"])}
    assert asked <= EXPORTED.keys()
    assert {EXPORTED[name] for name in asked} == {m.name for m in METRICS} - QUIET


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    text = BOOK.read_text()
    assert re.findall(r"^## (Prerank\w+)$", text, re.M) == list(rules())
    for section in text.split("\n## Prerank")[1:]:
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in section, section[:40]


@pytest.mark.parametrize("name", rules())
def test_an_alert_names_its_section_and_how_soon_to_come(name: str) -> None:
    rule = rules()[name]
    assert rule["annotations"]["runbook"] == f"docs/incidents.md#{name.lower()}"
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_alert_is_shown_to_fire() -> None:
    shown = set(re.findall(r"Prerank\w+", CASES.read_text()))
    assert shown == rules().keys()
    assert yaml.safe_load(CASES.read_text())["rule_files"]


@needs_promtool
@pytest.mark.parametrize(
    "words",
    [
        ["check", "rules", str(RULES)],
        ["check", "config", str(RULES.parent / "prometheus.yaml")],
        ["test", "rules", str(CASES)],
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing(words: list[str]) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
