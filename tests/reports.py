"""Results with every part a report can have, and a reader of the page made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

from prerank.evaluation.report.page import page as html
from prerank.evaluation.report.page import write_report
from prerank.evaluation.results import (
    METRICS,
    Ablation,
    Calibration,
    Cost,
    Counterfactual,
    CurvePoint,
    Cut,
    DatasetFacts,
    Difference,
    Examination,
    Measured,
    Reference,
    Reliability,
    Results,
    Slice,
)

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects text, ids, references and tables; every tag must close."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.tags: list[str] = []
        self.rows: dict[str, list[list[Cell]]] = {}
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in ("src", "href", "xlink:href", "srcset", "data"):
                self.references.append(value or "")
        rows = self.rows.setdefault(self.headings[-1] if self.headings else "", [])
        if tag == "tr":
            rows.append([])
        if tag in ("th", "td"):
            rows[-1].append(Cell(css=dict(attrs).get("class") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "h2" in self.open:
            self.headings.append(data)
        if "small" in self.open:
            self.rows[self.headings[-1]][-1][-1].small += data
        elif {"td", "th"} & set(self.open):
            self.rows[self.headings[-1]][-1][-1].text += data

    def head(self, title: str) -> list[str]:
        """Names of the columns of a section's table."""
        return [cell.text for cell in self.rows[title][0]]

    def row(self, title: str, *names: str) -> dict[str, Cell]:
        """Column -> cell of the row of a section's table whose first cells are ``names``."""
        (found,) = (
            row for row in self.rows[title] if tuple(c.text for c in row[: len(names)]) == names
        )
        return dict(zip(self.head(title), found, strict=True))


@dataclass
class Cell:
    """What stands in a cell, the small print beneath it, and its class."""

    text: str = ""
    small: str = ""
    css: str = ""


def section(source: str, title: str) -> str:
    """What stands under a heading."""
    return source[source.index(f"<h2>{title}") :].split("<h2>")[1]


def model(mrr: float, us: float) -> Measured:
    means = {name: min(1.0, mrr + 0.02 * i) for i, name in enumerate(METRICS)}
    ci = {name: (mean - 0.01, mean + 0.01) for name, mean in means.items()}
    return Measured(means, ci, Cost(142, 128, us))


def with_mean(model: Measured, metric: str, mean: float) -> Measured:
    """A ranker with another mean; its interval is NaN where the mean is."""
    ci = (mean, mean) if math.isnan(mean) else model.ci[metric]
    return replace(model, means={**model.means, metric: mean}, ci={**model.ci, metric: ci})


def reliability(observed: float = 0.04) -> Reliability:
    curve = [[10, 0.001, 0.0], [10, 0.01, 0.02], [10, 0.1, 0.09]]
    return Reliability(0.0123, 0.05, observed, 24_680, curve)


def full() -> Results:
    models = {
        "two_tower": model(0.61, 0.02),
        "interactrank": model(0.8, 0.03),
        "bm25": model(0.5, 0.4),
    }
    gain, small = Difference(0.19, (0.18, 0.2), 0.0005), Difference(0.1, (0.05, 0.15), 0.0005)
    return Results(
        dataset=DatasetFacts(
            name="bestbuy",
            requests={"train": 70_000, "validation": 10_000, "test": 20_000},
            users=38_000,
            queries=17_000,
            items=12_345,
            time_span=("2011-08-11", "2011-10-31"),
            positives=21_000,
            candidates="BM25, popular and engaged items of the query's keys",
            reachable_share=0.97,
        ),
        models=models,
        split="test",
        oracles={"all-knowing": model(0.9, 1.0)},
        reachable_ceiling=dict.fromkeys(METRICS, 0.97),
        paired={"interactrank": {"hits@3": gain, "mrr": gain}},
        versus={name: {"mrr": small} for name in ("two_tower", "bm25")},
        cut=Cut(
            Reference("bm25", 10),
            {
                "interactrank": Measured({"recall@cut": 0.9, "agreement": 0.77}),
                "bm25": Measured({"recall@cut": 0.8}, {"recall@cut": (0.7, 0.9)}),
            },
        ),
        calibration=Calibration(
            {"interactrank": {head: reliability() for head in ("engagement", "save")}}
        ),
        counterfactual=Counterfactual(
            models={
                name: Measured({"mrr": v, "dcg": v}, {"mrr": (v, v), "dcg": (v, v)})
                for name, v in (("interactrank", 0.6), ("bm25", 0.4), ("as shown", 0.3))
            },
            propensities=Examination([1, 2, 5], [1.0, 0.5, 0.25], 4_321, "query and item"),
            requests=900,
            effective_engagements=765.4,
        ),
        ablations={
            "full": Ablation("nothing", {"mrr": [0.5, 0.52, 0.51]}),
            "no attention": Ablation("cross-attention", {"mrr": [0.4, 0.42, 0.41]}),
            "no time": Ablation("time buckets", {"mrr": [0.509]}),
        },
        curve=[
            CurvePoint(
                share,
                requests,
                {
                    name: {m: [lead - lost, lead - lost + 0.02] for m in METRICS}
                    for name, lost in (("interactrank", 0.0), ("linear", 0.1))
                },
                {"linear": {m: Difference(0.1, (0.05, 0.15), 0.001) for m in METRICS}},
            )
            for share, requests, lead in ((10, 7_000, 0.5), (100, 70_000, 0.6))
        ],
        slices={
            name: Slice(100, {m: {"recall@cut": 0.7, "mrr": 0.5, "hits@3": 0.6} for m in models})
            for name in ("head query", "tail query", "new item")
        },
        training={
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
        fusion_weights=[("q:engage:7d", 1.25), ("user:touched", -0.5)],
        ingest=["3 rows quarantined"],
        features=["daily snapshots"],
        stages={"ingest": 3.25},
    )


def page(tmp_path: Path, results: Results) -> Page:
    """The page as it is written, with its plots."""
    path = tmp_path / "made" / "report.html"
    write_report(path, results)
    return Page(path.read_text(encoding="utf-8"))


def words(results: Results) -> Page:
    """The page without its plots, which take nearly all of the time."""
    return Page(html(results, {}))
