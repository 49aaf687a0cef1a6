"""The report stands alone, escapes what it is given and does without optional parts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from tests.reports import Page, full, heads_of, model, page, section

from interactrank.features.schema import FeatureSchema
from prerank.evaluation.baselines.suite import BASELINES
from prerank.evaluation.report import ablations as report_ablations
from prerank.evaluation.report import plots as report_plots
from prerank.evaluation.report.text import METRICS, Results, metrics_table, write_metrics
from prerank.evaluation.results import LEAD


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


def test_every_family_of_cross_features_is_explained(tmp_path: Path) -> None:
    schema = FeatureSchema(
        ("impression", "click"),
        ("impression",),
        ("engagement",),
        segments=("country",),
        retriever=("score", "rank"),
    )
    results = full() | {"fusion_weights": [(name, 1.0) for name in schema.cross]}
    part = page(tmp_path, results).source
    part = part[part.index("<h2>What the fusion weighs") :]
    explained = set(re.findall(r"<dt>([^<]*)</dt>", part[: part.index("<h2>", 4)]))
    assert explained == {name.split(":")[0] for name in schema.cross}


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


def test_only_what_was_measured_has_a_column(made: Page) -> None:
    source = made.source
    for title in ("Difference from", "Where it helps"):
        part = source[source.index(f"<h2>{title}") :]
        heads = re.findall(r"<th>([^<]*)</th>", part[: part.index("</thead>")])
        assert [head for head in heads if head in METRICS] == ["hits@3", "mrr"]


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
    results["models"] |= {f"baseline {i}": model(0.9 - i / 20, 0.1 * i + 0.1) for i in range(9)}
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


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("name", ["popularity", "bm25", "iqp", *BASELINES, LEAD])
def test_every_ranker_is_described(name: str, tmp_path: Path) -> None:
    results = full()
    results["models"] = {name: model(0.5, 0.1)}
    assert f"<dt>{name}</dt>" in page(tmp_path, results).source
