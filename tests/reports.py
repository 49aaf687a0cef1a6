"""Results with every part a report can have, and a reader of the page made of them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from prerank.evaluation.report.text import METRICS, Results, write_report

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
            "reachable_share": 0.97,
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


def section(source: str, title: str) -> str:
    return source[source.index(f"<h2>{title}") :].split("<h2>")[1]
