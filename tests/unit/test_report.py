"""The report stands alone, escapes what it is given and does without optional parts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from prerank import report_ablations, report_plots
from prerank.report import (
    METRICS,
    MORE,
    Results,
    headline,
    metrics_table,
    write_metrics,
    write_report,
)

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects text, ids and references; notices tags that do not close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.tags: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in ("src", "href", "xlink:href", "srcset", "data"):
                self.references.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def model(mrr: float, us: float) -> dict[str, Any]:
    means = {name: min(1.0, mrr + 0.02 * i) for i, name in enumerate(METRICS)}
    ci = {name: [mean - 0.01, mean + 0.01] for name, mean in means.items()}
    cost = {"flops_per_candidate": 142, "bytes_per_candidate": 128, "us_per_candidate": us}
    return {**means, "ci": ci, "cost": cost}


def full() -> Results:
    models = {
        "two_tower": model(0.61, 0.02),
        "interactrank": model(0.8, 0.03),
        "bm25": model(0.5, 0.4),
    }
    return {
        "dataset": {
            "name": "bestbuy",
            "requests": {"train": 70_000, "validation": 10_000, "test": 20_000},
            "users": 38_000,
            "queries": 17_000,
            "items": 12_345,
            "time_span": ("2011-08-11", "2011-10-31"),
            "positives": 21_000,
            "candidates": "BM25, popular and engaged items of the query's keys",
            "truth_coverage": 0.97,
        },
        "split": "test",
        "models": models,
        "oracles": {"all-knowing": model(0.9, 1.0)},
        "paired": {
            "interactrank": {
                "hits@3": {"difference": 0.19, "ci": [0.18, 0.2], "p": 0.0005},
                "mrr": {"difference": 0.19, "ci": [0.18, 0.2], "p": 0.0005},
            }
        },
        "slices": {
            name: {"requests": 100, **{m: {"mrr": 0.5, "hits@3": 0.6} for m in models}}
            for name in ("head query", "tail query", "new item")
        },
        "reachable_ceiling": dict.fromkeys(METRICS, 0.97),
        "training": {
            "interactrank": [
                {
                    "epoch": e,
                    "train_loss": 1 / e,
                    "validation_loss": 1.1 / e,
                    "validation_mrr": 1 - 1 / e,
                }
                for e in (1, 2, 3)
            ]
        },
        "versus": {
            name: {"mrr": {"difference": 0.1, "ci": [0.05, 0.15], "p": 0.0005}}
            for name in ("two_tower", "bm25")
        },
        "cut": {
            "reference": {"name": "bm25", "top": 10},
            "models": {
                "interactrank": {"recall@cut": 0.9, "agreement": 0.77, "ci": {}},
                "bm25": {"recall@cut": 0.8, "ci": {"recall@cut": [0.7, 0.9]}},
            },
        },
        "calibration": {
            "models": {
                "interactrank": {
                    head: {
                        "ece": 0.0123,
                        "predicted": 0.05,
                        "observed": 0.04,
                        "impressions": 24_680,
                        "curve": [[10, 0.001, 0.0], [10, 0.01, 0.02], [10, 0.1, 0.09]],
                    }
                    for head in ("engagement", "save")
                }
            }
        },
        "counterfactual": {
            "models": {
                name: {"mrr": v, "dcg": v, "ci": {"mrr": [v, v], "dcg": [v, v]}}
                for name, v in (("interactrank", 0.6), ("bm25", 0.4), ("as shown", 0.3))
            },
            "propensities": {
                "first_place": [1, 2, 5],
                "value": [1.0, 0.5, 0.25],
                "engagements": 4_321,
                "strata": "query and item",
            },
            "requests": 900,
            "effective_engagements": 765.4,
        },
        "ablations": {
            "full": {"metrics": {"mrr": [0.5, 0.52, 0.51]}, "parts": "nothing"},
            "no attention": {"metrics": {"mrr": [0.4, 0.42, 0.41]}, "parts": "cross-attention"},
            "no time": {"metrics": {"mrr": [0.509]}, "parts": "time buckets"},
        },
        "fusion_weights": [("q:engage:7d", 1.25), ("user:touched", -0.5)],
        "ingest": ["3 rows quarantined"],
        "features": ["daily snapshots"],
        "stages": {"ingest": 3.25},
    }


def heads_of(results: Results) -> dict[str, Any]:
    heads: dict[str, Any] = results["calibration"]["models"]["interactrank"]
    return heads


def page(tmp_path: Path, results: Results) -> Page:
    path = tmp_path / "made" / "report.html"
    write_report(path, results)
    made = Page(path)
    assert made.open == []
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page with every part."""
    return page(tmp_path_factory.mktemp("full"), full())


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are drawn but not written, which is what takes the time."""

    def sketch(name: str, caption: str, height: float, draw: Callable[[Figure], None]) -> str:
        draw(Figure())
        return "<figure></figure>"

    for module in (report_plots, report_ablations):
        monkeypatch.setattr(module, "svg", sketch)


def test_the_file_stands_alone(made: Page) -> None:
    assert not re.search(r"https?:|//|@import|<script|<link|<img|<iframe", made.source)
    assert made.references
    assert all(reference.startswith("#") for reference in made.references)
    assert not re.search(r"url\((?!#)", made.source)
    assert made.tags.count("svg") == 8


def test_ids_are_unique_and_references_resolve(made: Page) -> None:
    assert len(made.ids) == len(set(made.ids))
    used = {reference[1:] for reference in made.references}
    used |= set(re.findall(r"url\(#([^)]+)\)", made.source))
    assert used <= set(made.ids)


def test_plots_follow_the_theme(made: Page) -> None:
    source = made.source
    assert "currentColor" in source
    assert not re.search(r"#0[1-4]0[1-4][0-9a-f]{2}", source)
    svgs = re.findall(r"<svg.*?</svg>", source, re.DOTALL)
    assert not any(re.search(r"(fill|stroke): #(000000|ffffff)", svg) for svg in svgs)


def test_every_part_is_told(made: Page) -> None:
    results = full()
    for text in (*results["models"], "all-knowing", "q:engage:7d", "tail query", "12,345"):
        assert text in made.text
    for text in ("3 rows quarantined", "daily snapshots", "97.0%", "2011-08-11", *METRICS):
        assert text in made.text
    assert len(made.headings) == 17


def test_optional_parts_may_be_absent(tmp_path: Path) -> None:
    bare: Results = {"dataset": {"name": "tiny"}, "models": {"popularity": {"mrr": 0.25}}}
    made = page(tmp_path, bare)
    assert made.headings == ["Metrics", "Data", "How it was measured", "Glossary"]
    assert "popularity" in made.text
    assert ".250" in metrics_table(bare)
    write_metrics(tmp_path / "metrics.json", bare)


@pytest.mark.parametrize("part", sorted(set(full()) - {"dataset", "models"}))
@pytest.mark.usefixtures("sketched")
def test_each_optional_part_may_be_absent_alone(part: str, tmp_path: Path) -> None:
    less = {key: value for key, value in full().items() if key != part}
    assert "interactrank" in page(tmp_path, less).text  # type: ignore[arg-type]


def test_values_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&\"$x_1$"
    results = full()
    results["dataset"]["name"] = results["dataset"]["candidates"] = evil
    results["models"][evil] = model(0.7, 0.1)
    results["oracles"] = {evil + "o": model(0.7, 0.1)}
    results["paired"][evil] = results["paired"]["interactrank"]
    results["slices"][evil] = {"requests": 3, evil: {"mrr": 0.5, "hits@3": 0.5}}
    results["training"][evil] = results["training"]["interactrank"]
    results["fusion_weights"].append((evil, 3.0))
    results["ingest"] = results["features"] = [evil]
    results["stages"][evil] = 1.0
    results["versus"][evil] = results["versus"]["bm25"]
    results["cut"]["reference"]["name"] = evil
    results["cut"]["models"][evil] = results["cut"]["models"]["bm25"]
    results["calibration"]["models"][evil] = {evil: heads_of(results)["save"]}
    results["counterfactual"]["models"][evil] = results["counterfactual"]["models"]["bm25"]
    results["ablations"][evil] = {"metrics": {"mrr": [0.4]}, "parts": evil}
    made = page(tmp_path, results)
    assert "script" not in made.tags
    assert made.text.count(evil) > 20


def test_text_without_a_font_at_hand_is_no_warning(tmp_path: Path) -> None:
    results = full()
    results["fusion_weights"] = [("検索 🔍", 1.0)]
    assert "検索 🔍" in page(tmp_path, results).text


def test_undefined_values_show_as_dashes(tmp_path: Path) -> None:
    results = full()
    results["models"]["bm25"] |= {"auc": math.nan, "mrr": math.nan}
    results["models"]["bm25"]["ci"] |= {"auc": [math.nan, math.nan], "mrr": [math.nan, math.nan]}
    results["training"]["interactrank"][0]["validation_mrr"] = math.nan
    assert "nan" not in page(tmp_path, results).text.lower()
    assert "nan" not in metrics_table(results)


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


def test_headline_leaves_out_a_ceiling_that_says_nothing() -> None:
    results = full()
    assert "would reach 97.0%" in headline(results)
    assert "keep 90.0% of engaged items (97.0% at most)" in headline(results)
    results["reachable_ceiling"] = dict.fromkeys(METRICS, 1.0)
    assert "100.0%" not in headline(results)


def test_only_what_was_measured_has_a_column(made: Page) -> None:
    source = made.source
    for title in ("Difference from", "Where it helps"):
        part = source[source.index(f"<h2>{title}") :]
        heads = re.findall(r"<th>([^<]*)</th>", part[: part.index("</thead>")])
        assert [head for head in heads if head in METRICS] == ["hits@3", "mrr"]


def section(source: str, title: str) -> str:
    return source[source.index(f"<h2>{title}") :].split("<h2>")[1]


def test_studies_are_told(made: Page) -> None:
    source = made.source
    assert "+.100" in section(source, "interactrank against every other")
    kept = section(source, "What the cut keeps")
    assert "best 10 of bm25 in the best tenth" in kept
    assert ".770" in kept
    calibrated = section(source, "Calibration")
    for text in ("0.0123", "24,680", "save"):
        assert text in calibrated
    shown = section(source, "Had it been shown")
    for text in ("as shown", "900 requests", "765 of equal weight", "4,321 training"):
        assert text in shown
    assert "overstated" not in shown


def test_ablations_are_compared_with_the_whole_model(made: Page) -> None:
    source = section(made.source, "What each part is worth")
    assert ".510 ± .010" in source
    assert re.search(r'class="sure">\.410 ± \.010<small>−\.100', source)
    assert '<td class="">.509<small>−.001' in source  # one seed: nothing is sure
    rows = re.findall(r"<td class=\"\">(full|no \w+)<small>", source)
    assert rows == ["full", "no attention", "no time"]


@pytest.mark.usefixtures("sketched")
def test_what_could_not_be_measured_says_why(tmp_path: Path) -> None:
    results = full()
    results["calibration"] = {"absent": "The log has no <impressions>."}
    results["counterfactual"] = {"absent": "The log has no positions."}
    made = page(tmp_path, results)
    assert "Not measured. The log has no <impressions>." in made.text
    assert "Not measured. The log has no positions." in made.text
    results["counterfactual"] = full()["counterfactual"]
    results["counterfactual"]["propensities"]["strata"] = "item"
    assert "the bias of places is overstated" in page(tmp_path, results).text


def test_models_of_a_plot_differ_in_colour(tmp_path: Path) -> None:
    results = full()
    results["models"] |= {f"rival {i}": model(0.9 - i / 20, 0.1 * i + 0.1) for i in range(9)}
    points = section(page(tmp_path, results).source, "Quality against cost")
    assert set(re.findall(r"--s\d+", points)) == {f"--s{i}" for i in range(12)}


def test_times_are_readable(tmp_path: Path) -> None:
    results = full()
    results["dataset"]["time_span"] = ("2011-08-11T03:59:04.270000Z", "soon")
    results["models"]["bm25"]["cost"]["us_per_candidate"] = 8.37e-06
    text = page(tmp_path, results).text
    assert "2011-08-11 03:59 UTC to soon" in text
    assert "< 0.001" in text
    assert "≤ 0.001" in text
    assert "e-06" not in text


@pytest.mark.usefixtures("sketched")
def test_names_of_ours_are_explained(tmp_path: Path) -> None:
    results = full()
    assert "The exact query." in page(tmp_path, results).text
    assert "Item-query popularity" not in page(tmp_path, results).text
    results["models"]["iqp"] = model(0.4, 0.1)
    assert "Item-query popularity" in page(tmp_path, results).text


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
