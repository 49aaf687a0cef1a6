"""The report stands alone, escapes what it is given and does without optional parts."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.reports import Page, full, model, page, reliability, section, with_mean, words

from interactrank.features.schema import FeatureSchema
from prerank.evaluation.baselines.suite import BASELINES
from prerank.evaluation.metrics_file import to_json
from prerank.evaluation.report.drawing import inline
from prerank.evaluation.report.plots import figures
from prerank.evaluation.report.text import metrics_table
from prerank.evaluation.results import (
    LEAD,
    METRICS,
    Ablation,
    Calibration,
    Counterfactual,
    Cut,
    DatasetFacts,
    Measured,
    NotMeasured,
    Reference,
    Results,
    Slice,
)

SECTIONS = [
    "Metrics",
    "interactrank against every other ranker",
    "Difference from two_tower, request by request",
    "What the cut keeps",
    "Where it helps: slices",
    "Quality against cost",
    "What each part is worth",
    "With fewer requests to learn from",
    "Calibration",
    "Had it been shown: counterfactual estimate",
    "Learning curves",
    "What the fusion weighs",
    "Data",
    "How it was measured",
    "Ingest",
    "Features",
    "Time per stage",
    "Glossary",
]
PLOTTED = {
    "bars": "Metrics",
    "slices": "Where it helps: slices",
    "cost": "Quality against cost",
    "ablations": "What each part is worth",
    "curve": "With fewer requests to learn from",
    "calibration": "Calibration",
    "counterfactual": "Had it been shown",
    "curves": "Learning curves",
    "weights": "What the fusion weighs",
}
"""Plot -> the section where it stands."""
OPTIONAL = sorted({field.name for field in fields(Results)} - {"dataset", "models"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page with every part."""
    return page(tmp_path_factory.mktemp("full"), full())


def without(part: str) -> Results:
    """All results but one optional part."""
    kept = {f.name: getattr(full(), f.name) for f in fields(Results) if f.name != part}
    return Results(**kept)


def lines(figure: Any) -> list[dict[str, list[list[float]]]]:
    """Of each pane of a plot: label -> points (x, y) of what has one."""
    found = []
    for axes in figure.axes:
        by_label = {}
        for artist, label in zip(*axes.get_legend_handles_labels(), strict=True):
            points = artist.get_xydata() if hasattr(artist, "get_xydata") else artist.get_offsets()
            by_label[label] = points.tolist()
        found.append(by_label)
    return found


def legend(figure: Any) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def test_the_file_stands_alone(made: Page) -> None:
    assert not re.search(r"https?:|//|@import|<script|<link|<img|<iframe", made.source)
    assert made.references
    assert all(reference.startswith("#") for reference in made.references)
    assert not re.search(r"url\((?!#)", made.source)
    assert made.source.startswith("<!doctype html>")


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
    assert "prefers-color-scheme:dark" in source
    named = set(re.findall(r"var\((--\w+)\)", source))
    light, dark = re.findall(r":root\{([^}]*)\}", source)
    for theme in (light, dark):
        assert named <= set(re.findall(r"--\w+", theme))


def test_every_part_is_told(made: Page) -> None:
    results = full()
    for text in (*results.models, "all-knowing", "q:engage:7d", "tail query", "12,345"):
        assert text in made.text
    for text in ("3 rows quarantined", "daily snapshots", "97.0%", "2011-08-11", *METRICS):
        assert text in made.text
    assert made.headings == SECTIONS


def test_every_value_stands_in_the_row_of_its_ranker(made: Page) -> None:
    results = full()
    for name in ("interactrank", "two_tower", "bm25"):
        row = made.row("Metrics", name)
        assert [row[metric].text for metric in METRICS] == [
            f"{results.models[name].means[metric]:.3f}".removeprefix("0") for metric in METRICS
        ]
        best = "best" if name == "interactrank" else ""
        assert {row[metric].css for metric in METRICS} == {best}
    assert made.row("Metrics", "bm25")["mrr"].small == ".530–.550"
    assert made.row("Metrics", "all-knowing")["recall@cut"].text == ".900"
    assert made.row("Metrics", "reachable ceiling")["auc"].text == ".970"
    gained = made.row("Difference from two_tower, request by request", "interactrank")["mrr"]
    assert (gained.text, gained.small) == ("+.190", "+.180 to +.200\np < .001")
    cost = made.row("Quality against cost", "bm25")
    assert [cell.text for cell in cost.values()] == ["bm25", ".540", "142", "128", "0.4"]
    part = made.row("Where it helps: slices", "tail query (100 requests)", "bm25")
    assert (part["hits@3"].text, part["mrr"].text) == (".600", ".500")
    learned = made.row("With fewer requests to learn from", "7,000")
    assert (learned["interactrank"].text, learned["linear"].small) == (".510", "± .014")
    assert learned["interactrank − linear"].text == "+.100"
    calibrated = made.row("Calibration", "interactrank", "save")
    assert calibrated["calibration error"].text == "0.0123"
    assert calibrated["impressions"].text == "24,680"
    shown = made.row("Had it been shown: counterfactual estimate", "as shown")
    assert (shown["mrr"].text, shown["mrr"].small) == (".300", ".300–.300")
    assert made.row("Time per stage", "ingest")["seconds"].text == "3.2"


def test_every_plot_stands_in_its_section(made: Page) -> None:
    drawn = figures(full())
    assert set(drawn) == set(PLOTTED)
    for name, title in PLOTTED.items():
        (label,) = re.findall(r'<svg role="img" aria-label="([^"]*)"', section(made.source, title))
        assert label == drawn[name].get_label()


def test_plots_hold_every_ranker_with_its_values() -> None:
    results = full()
    drawn = figures(results)
    names = ["interactrank", "two_tower", "bm25"]
    for name in ("slices", "cost"):
        assert legend(drawn[name]) == names
    mrr = {name: results.models[name].means["mrr"] for name in names}
    operations, times = lines(drawn["cost"])
    assert operations == {name: [[142, mrr[name]]] for name in names}
    assert [times[name][0][0] for name in names] == [0.03, 0.02, 0.4]
    for pane, value in zip(lines(drawn["slices"]), (0.7, 0.5), strict=True):
        assert {name: [x for x, _ in points] for name, points in pane.items()} == {
            name: [value] * len(results.slices) for name in names
        }
    for axes, metric in zip(drawn["bars"].axes, ("recall@cut", "mrr"), strict=True):
        bars: Any = axes.patches
        assert [bar.get_width() for bar in bars] == [
            results.models[name].means[metric] for name in reversed(names)
        ]
    for pane in lines(drawn["calibration"]):
        assert pane == {"interactrank": [[0.01, 0.02], [0.1, 0.09]]}
    loss, quality = drawn["curves"].axes
    assert [np.asarray(line.get_ydata()).tolist() for line in loss.lines] == [
        [row[key] for row in results.training["interactrank"]]
        for key in ("train_loss", "validation_loss")
    ]
    points = np.asarray(quality.lines[0].get_xydata())
    assert points.tolist() == [[1, 0], [2, 0.5], [3, 1 - 1 / 3]]
    assert legend(drawn["curves"]) == ["interactrank"]


def test_optional_parts_may_be_absent(tmp_path: Path) -> None:
    bare = Results(DatasetFacts("tiny"), {"popularity": Measured({"mrr": 0.25})})
    made = page(tmp_path, bare)
    assert made.headings == ["Metrics", "Data", "How it was measured", "Glossary"]
    assert "popularity" in made.text
    assert ".250" in metrics_table(bare)
    assert '"mrr": 0.25' in to_json(bare)


@pytest.mark.parametrize("part", OPTIONAL)
def test_each_optional_part_may_be_absent_alone(part: str) -> None:
    less = without(part)
    assert "interactrank" in words(less).text
    assert "bars" in figures(less)
    assert "interactrank" in to_json(less)


def test_values_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&\"$x_1$"
    own = full()
    assert isinstance(own.calibration, Calibration)
    assert isinstance(own.counterfactual, Counterfactual)
    assert own.cut
    results = replace(
        own,
        dataset=replace(own.dataset, name=evil, candidates=evil),
        models={**own.models, evil: model(0.7, 0.1)},
        oracles={evil + "o": model(0.7, 0.1)},
        paired={**own.paired, evil: own.paired["interactrank"]},
        curve=[
            replace(
                point,
                models={**point.models, evil: point.models["linear"]},
                versus={**point.versus, evil: point.versus["linear"]},
            )
            for point in own.curve
        ],
        slices={**own.slices, evil: Slice(3, {evil: {"mrr": 0.5, "hits@3": 0.5}})},
        training={**own.training, evil: own.training["interactrank"]},
        fusion_weights=[*own.fusion_weights, (evil, 3.0)],
        ingest=[evil],
        features=[evil],
        stages={**own.stages, evil: 1.0},
        versus={**own.versus, evil: own.versus["bm25"]},
        cut=Cut(Reference(evil, 10), {**own.cut.models, evil: own.cut.models["bm25"]}),
        calibration=Calibration({**own.calibration.models, evil: {evil: reliability()}}),
        counterfactual=replace(
            own.counterfactual,
            models={**own.counterfactual.models, evil: own.counterfactual.models["bm25"]},
        ),
        ablations={**own.ablations, evil: Ablation(evil, {"mrr": [0.4]})},
    )
    made = page(tmp_path, results)
    assert "script" not in made.tags
    assert made.text.count(evil) > 20
    for title in set(SECTIONS) - {"How it was measured", "Glossary"}:
        assert "&lt;script&gt;" in section(made.source, title), title


def test_every_family_of_cross_features_is_explained() -> None:
    schema = FeatureSchema(
        ("impression", "click"),
        ("impression",),
        ("engagement",),
        segments=("country",),
        retriever=("score", "rank"),
    )
    results = replace(full(), fusion_weights=[(name, 1.0) for name in schema.cross])
    part = section(words(results).source, "What the fusion weighs")
    explained = set(re.findall(r"<dt>([^<]*)</dt>", part))
    assert explained == {name.split(":")[0] for name in schema.cross}


def test_text_without_a_font_at_hand_is_no_warning(tmp_path: Path) -> None:
    results = replace(full(), fusion_weights=[("検索 🔍", 1.0)])
    assert "検索 🔍" in page(tmp_path, results).text


def test_undefined_values_show_as_dashes(tmp_path: Path) -> None:
    results = full()
    bm25 = with_mean(with_mean(results.models["bm25"], "auc", math.nan), "mrr", math.nan)
    first, *others = results.training["interactrank"]
    results = replace(
        results,
        models={**results.models, "bm25": bm25},
        training={"interactrank": [{**first, "validation_mrr": math.nan}, *others]},
    )
    made = page(tmp_path, results)
    assert "nan" not in made.text.lower()
    assert "nan" not in metrics_table(results)
    row = made.row("Metrics", "bm25")
    assert [(row[m].text, row[m].small) for m in ("mrr", "auc")] == [("-", ""), ("-", "")]


def test_only_what_was_measured_has_a_column(made: Page) -> None:
    shown = {
        "Difference from two_tower, request by request": ["hits@3", "mrr"],
        "Where it helps: slices": ["recall@cut", "hits@3", "mrr"],
    }
    for title, metrics in shown.items():
        assert [head for head in made.head(title) if head in METRICS] == metrics


def test_studies_are_told(made: Page) -> None:
    source = made.source
    assert "+.100" in section(source, "interactrank against every other")
    kept = made.row("What the cut keeps", "interactrank")
    assert kept["best 10 of bm25 in the best tenth"].text == ".770"
    calibrated = section(source, "Calibration")
    for text in ("0.0123", "24,680", "save"):
        assert text in calibrated
    shown = re.sub(r"\s+", " ", section(source, "Had it been shown"))
    for text in ("as shown", "900 requests", "765 of equal weight", "4,321 training"):
        assert text in shown
    assert "overstated" not in shown


def test_ablations_are_compared_with_the_whole_model(made: Page) -> None:
    title = "What each part is worth"
    full = made.row(title, "full")["mrr"]
    assert (full.text, full.small) == (".510 ± .010", "")
    worse = made.row(title, "no attention")["mrr"]
    assert (worse.text, worse.small, worse.css) == (".410 ± .010", "−.100", "sure")
    one_seed = made.row(title, "no time")["mrr"]  # nothing is sure
    assert (one_seed.text, one_seed.small, one_seed.css) == (".509", "−.001", "")
    rows = [row[0].text for row in made.rows[title][1:]]
    assert rows == ["full", "no attention", "no time"]


def test_what_could_not_be_measured_says_why() -> None:
    own = full()
    results = replace(
        own,
        calibration=NotMeasured("The log has no <impressions>."),
        counterfactual=NotMeasured("The log has no positions."),
    )
    made = words(results)
    assert "Not measured. The log has no <impressions>." in made.text
    assert "Not measured. The log has no positions." in made.text
    assert not {"calibration", "counterfactual"} & set(figures(results))
    assert isinstance(own.counterfactual, Counterfactual)
    items = replace(own.counterfactual.propensities, strata="item")
    found = replace(own, counterfactual=replace(own.counterfactual, propensities=items))
    assert "the bias of places is overstated" in words(found).text


def test_models_of_a_plot_differ_in_colour() -> None:
    own = full()
    more = {f"baseline {i}": model(0.9 - i / 20, 0.1 * i + 0.1) for i in range(9)}
    results = replace(own, models={**own.models, **more})
    points = inline("cost", figures(results)["cost"])
    assert set(re.findall(r"--s\d+", points)) == {f"--s{i}" for i in range(12)}


def test_times_are_readable(tmp_path: Path) -> None:
    own = full()
    quick = replace(own.models["bm25"], cost=model(0.5, 8.37e-06).cost)
    span = ("2011-08-11T03:59:04.270000Z", "soon")
    results = replace(
        own,
        dataset=replace(own.dataset, time_span=span),
        models={**own.models, "bm25": quick},
    )
    text = page(tmp_path, results).text
    assert "2011-08-11 03:59 UTC to soon" in text
    assert "< 0.001" in text
    assert "≤ 0.001" in text
    assert "e-06" not in text


def test_names_of_ours_are_explained() -> None:
    own = full()
    assert "The exact query." in words(own).text
    assert "Item-query popularity" not in words(own).text
    results = replace(own, models={**own.models, "iqp": model(0.4, 0.1)})
    assert "Item-query popularity" in words(results).text


@pytest.mark.parametrize("name", ["popularity", "bm25", "iqp", "last_touched", *BASELINES, LEAD])
def test_every_ranker_is_described(name: str) -> None:
    results = replace(full(), models={name: model(0.5, 0.1)})
    assert f"<dt>{name}</dt>" in words(results).source
