"""The evaluation report: one HTML file, one terminal table and one JSON file from one dict.

The HTML stands alone: style and plots (inline SVG) are inside, nothing is fetched, and both follow
the reader's light or dark theme. Every name and value is escaped. A part that is missing from the
results is left out. Metrics are shares in [0, 1]; times are as their keys say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prerank.evaluation.report.page import page
from prerank.evaluation.results import (
    BASELINE,
    COMPARED,
    LEAD,
    METRICS,
    DatasetFacts,
    Results,
    best_of,
    interval,
    known,
    ordered,
    p_value,
    percent,
    share,
)

__all__ = [
    "METRICS",
    "DatasetFacts",
    "Results",
    "headline",
    "metrics_table",
    "versus_table",
    "write_metrics",
    "write_report",
]

FITTED_ON = (
    "Validation requests chose what is measured here, and in part trained it: compare rankers on "
    "the test split."
)
MORE = ("versus", "cut", "calibration", "counterfactual", "ablations")
"""Parts of the results that metrics.json holds beside the agreed ones."""


def metrics_table(results: Results) -> str:
    """Models × metrics as aligned plain ASCII text; the 95% interval stands under each mean.

    Best models first, ``*`` marks the best value of a column; oracles and the reachable ceiling
    follow, unmarked.
    """
    models, oracles = results["models"], results.get("oracles", {})
    rows = [["", *METRICS]]
    for name in [*ordered(models), *ordered(oracles)]:
        model = models.get(name) or oracles[name]
        means = [share(model.get(metric)) for metric in METRICS]
        best = [
            name in models and v == best_of(models, m) != "-"
            for v, m in zip(means, METRICS, strict=True)
        ]
        rows.append([name, *(v + "*" * b for v, b in zip(means, best, strict=True))])
        rows.append(["", *(interval(model.get("ci", {}).get(metric)) for metric in METRICS)])
    if ceiling := results.get("reachable_ceiling"):
        rows.append(["reachable ceiling", *(share(ceiling.get(metric)) for metric in METRICS)])
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, the first column to the left; rows without a word are left out."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        row[0].ljust(widths[0])
        + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
        if any(row)
    )
    return "\n".join(line.rstrip() for line in lines)


def _paired(row: Mapping[str, Any] | None) -> str:
    if row is None or not known(row["p"]):
        return "-"
    low, high = row["ci"]
    return f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f}), p {p_value(row['p'])}"


def versus_table(results: Results) -> str:
    """What ``interactrank`` gains on each other ranker, paired over requests, as plain text."""
    versus = results.get("versus", {})
    if not versus:
        return ""
    rows = [[f"{LEAD} against", *COMPARED]]
    for name in ordered({n: m for n, m in results["models"].items() if n in versus}):
        rows.append([name, *(_paired(versus[name].get(metric)) for metric in COMPARED)])
    return _aligned(rows) + f"\n{FITTED_ON}" * (results.get("split") == "validation")


def _plain(value: Any) -> Any:
    """``value`` as strict JSON has it: no numpy scalars, no tuples, NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_metrics(path: Path, results: Results) -> None:
    """Write the machine-readable result as JSON, one key per line; NaN becomes null.

    ``{"dataset": name, "split": …, "models": {name: {metric: mean, …, "ci": {metric: [low,
    high]}}}, "reachable_ceiling": {metric: value}, "paired": {…}}``; a metric that a model lacks is
    absent. Of MORE, what was measured follows as :class:`Results` describes it.
    """
    models = {
        name: {key: model[key] for key in (*METRICS, "ci") if key in model}
        for name, model in results["models"].items()
    }
    document: dict[str, Any] = {
        "dataset": results["dataset"]["name"],
        "split": results.get("split", "test"),
        "models": models,
        "reachable_ceiling": results.get("reachable_ceiling", {}),
        "paired": results.get("paired", {}),
    }
    document |= {key: value for key, value in dict(results).items() if key in MORE}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _points(share_difference: float) -> str:
    return f"{100 * share_difference:+.1f}".replace("-", "−")


def _against_baseline(row: Mapping[str, Any]) -> str:
    """The paired comparison in words; an interval around zero is called that."""
    difference, (low, high) = row["difference"], row["ci"]
    span = f"95% interval {_points(low)} to {_points(high)} points"
    if low <= 0 <= high:
        return f"That cannot be told apart from {BASELINE} ({_points(difference)} points, {span})."
    word = "more" if difference > 0 else "fewer"
    points = f"{abs(100 * difference):.1f} points {word}"
    return f"That is {points} than {BASELINE} ({span}, p {p_value(row['p'])})."


def _against_all(versus: Mapping[str, Mapping[str, Any]]) -> str:
    """How many of the others the lead beats by MRR beyond doubt."""
    rows = [row["mrr"] for row in versus.values() if known(row.get("mrr", {}).get("p"))]
    if len(rows) < 2:
        return ""
    won = sum(row["difference"] > 0 and row["p"] < 0.01 for row in rows)
    which = f"each of the {len(rows)}" if won == len(rows) else f"{won} of the {len(rows)}"
    return f"By MRR it is better than {which} other rankers with p < .01."


def _ceiling(results: Results, metric: str) -> float:
    """The reachable ceiling; 1 where it is not known or prints as 100%."""
    value = results.get("reachable_ceiling", {}).get(metric)
    return value if known(value) and value < 0.9995 else 1.0


def headline(results: Results) -> str:
    """The result in a few plain sentences, about ``interactrank`` or else the best model."""
    models = results["models"]
    best = ordered(models)[0]
    lead = LEAD if LEAD in models else best
    model = models[lead]
    said = []
    if known(hits := model.get("hits@3")):
        first = f"{lead} places an engaged item among its three best in {percent(hits)} of requests"
        if (ci := model.get("ci", {}).get("hits@3")) and known(ci[0]):
            first += f" (95% interval {percent(ci[0])} to {percent(ci[1])})"
        said.append(first + ".")
        if (row := results.get("paired", {}).get(lead, {}).get("hits@3")) and known(row["p"]):
            said.append(_against_baseline(row))
        if lead == LEAD and (sentence := _against_all(results.get("versus", {}))):
            said.append(sentence)
        if (ceiling := _ceiling(results, "hits@3")) < 1:
            said.append(f"A perfect order of the same candidates would reach {percent(ceiling)}.")
    if known(kept := model.get("recall@cut")):
        most = _ceiling(results, "recall@cut")
        said.append(
            f"Cut to the best tenth, the candidates keep {percent(kept)} of engaged items"
            + (f" ({percent(most)} at most)." if most < 1 else ".")
        )
    if best != lead:
        pair = f"{share(models[best].get('mrr'))} against {share(model.get('mrr'))}"
        said.append(f"{best} ranks better by MRR: {pair}.")
    if results.get("split") == "validation":
        said.append(FITTED_ON)
    return " ".join(said) or f"{lead} has no measured value."


def write_report(path: Path, results: Results) -> None:
    """Write the report as one HTML file that stands alone; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results, headline(results)), encoding="utf-8")
