"""The tables and lists of a report as HTML; every name and value is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from prerank.evaluation.results import (
    BASELINE,
    FASTEST,
    LEAD,
    METRICS,
    Results,
    best_of,
    interval,
    known,
    number,
    ordered,
    p_value,
    percent,
    share,
    signed,
)

Cell = tuple[str, str]
"""Text (escaped where it is written) and CSS class."""


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[Cell | str]]]) -> str:
    """HTML table of (row class, cells); a line break in a cell sets the rest small beneath it."""
    body = []
    for kind, cells in rows:
        made = []
        for cell in cells:
            text, css = (cell, "") if isinstance(cell, str) else cell
            main, _, small = text.partition("\n")
            below = f"<small>{escape(small)}</small>" if small else ""
            made.append(f'<td class="{css}">{escape(main)}{below}</td>')
        body.append(f'<tr class="{kind}">{"".join(made)}</tr>')
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def metrics(results: Results) -> str:
    """Every ranker, the oracles and the ceiling, with intervals."""
    models = results["models"]

    def cells(name: str, model: Mapping[str, Any], may_win: bool) -> list[Cell | str]:
        row: list[Cell | str] = [name]
        for metric in METRICS:
            value = share(model.get(metric))
            wins = may_win and value == best_of(models, metric) != "-"
            ci = interval(model.get("ci", {}).get(metric)).replace("-", "–")
            row.append((f"{value}\n{ci}", "best" if wins else ""))
        return row

    rows = [("", cells(name, models[name], True)) for name in ordered(models)]
    oracles = results.get("oracles", {})
    rows += [("aside", cells(name, oracles[name], False)) for name in ordered(oracles)]
    if ceiling := results.get("reachable_ceiling"):
        rows.append(("aside", cells("reachable ceiling", ceiling, False)))
    note = "Small print: 95% bootstrap interval over requests. Shaded: best of the column."
    if oracles:
        note += " Oracles, in italics, see into the simulated world and show what is left to win."
    return table(["", *METRICS], rows) + f'<p class="note">{note}</p>'


def _differences(compared: Mapping[str, dict[str, Any]], names: Sequence[str]) -> str:
    """Rows of differences with interval and p; shaded where the whole interval is above 0."""
    chosen = [name for name in names if compared.get(name)]
    shown = [metric for metric in METRICS if any(metric in compared[name] for name in chosen)]
    rows = []
    for name in chosen:
        cells: list[Cell | str] = [name]
        for metric in shown:
            found = compared[name].get(metric)
            if not found or not known(found["p"]):
                cells.append("-")
                continue
            low, high = found["ci"]
            span = f"{signed(low)} to {signed(high)}\np {p_value(found['p'])}"
            cells.append((f"{signed(found['difference'])}\n{span}", "best" if low > 0 else ""))
        rows.append(("", cells))
    return table(["", *shown], rows) if rows else ""


def versus(results: Results) -> str:
    """What the lead gains on every other ranker."""
    made = _differences(results.get("versus", {}), ordered(results["models"]))
    note = f"Small print: 95% interval and p. Shaded: {LEAD} is better, whole interval above 0."
    return made + f'<p class="note">{note}</p>' if made else ""


def paired(results: Results) -> str:
    """Differences from the two-tower, for the metrics that were compared."""
    made = _differences(results.get("paired", {}), ordered(results["models"]))
    note = (
        f"Small print: 95% interval and p. Shaded: better than {BASELINE}, whole interval above 0."
    )
    return made + f'<p class="note">{note}</p>' if made else ""


def cut(results: Results) -> str:
    """What every ranker's cut keeps."""
    found = results.get("cut", {})
    models = found.get("models", {})
    names = [n for n in ordered(results["models"]) if n in models]
    heads = {
        "recall@cut": "engaged items in the best tenth",
        "recall@100": "in the best 100",
        "recall@1000": "in the best 1,000",
    }
    if reference := found.get("reference"):
        heads["agreement"] = f"best {reference['top']} of {reference['name']} in the best tenth"
    shown = [m for m in heads if any(known(models[n].get(m)) for n in names)]
    rows = []
    for name in names:
        cells: list[Cell | str] = [name]
        for metric in shown:
            value = share(models[name].get(metric))
            wins = value == best_of({n: models[n] for n in names}, metric) != "-"
            ci = interval(models[name].get("ci", {}).get(metric)).replace("-", "–")
            cells.append((f"{value}\n{ci}", "best" if wins else ""))
        rows.append(("", cells))
    if not shown:
        return ""
    note = "Sizes that no request's candidates exceed are left out."
    if not found.get("reference"):
        note += " No costly full ranker was measured, so there is none to agree with."
    return table(["", *(heads[m] for m in shown)], rows) + f'<p class="note">{note}</p>'


def absent(part: Mapping[str, Any]) -> str:
    """Why a part could not be measured."""
    return f"<p>Not measured. {escape(part['absent'])}</p>" if "absent" in part else ""


def calibration(results: Results) -> str:
    """Expected calibration error by ranker and head."""
    models = results.get("calibration", {}).get("models", {})
    rows: list[tuple[str, list[Cell | str]]] = []
    for name in ordered(results["models"]):
        for head, at in models.get(name, {}).items():
            numbers = [f"{at[k]:.4f}" for k in ("ece", "predicted", "observed")]
            rows.append(("", [name, head, *numbers, f"{at['impressions']:,}"]))
    head = ["", "head", "calibration error", "mean predicted", "mean observed", "impressions"]
    return table(head, rows) if rows else ""


def counterfactual(results: Results) -> str:
    """Estimated value of every order, with what the estimate rests on."""
    found = results.get("counterfactual", {})
    models = found.get("models", {})
    if not models:
        return ""
    rows = []
    for name in sorted(models, key=lambda n: -models[n]["mrr"]):
        cells: list[Cell | str] = [name]
        for gain in ("mrr", "dcg"):
            ci = interval(models[name]["ci"][gain]).replace("-", "–")
            cells.append(f"{share(models[name][gain])}\n{ci}")
        rows.append(("", cells))
    used = found["propensities"]
    note = (
        f"Small print: 95% bootstrap interval over {found['requests']:,} requests; the weighted "
        f"engagements are worth {found['effective_engagements']:,.0f} of equal weight. Examination "
        f"was estimated from {used['engagements']:,} training engagements with the same "
        f"{used['strata']} at several places."
    )
    if used["strata"] == "item":
        note += (
            " Too few pairs of query and item moved; with items alone the bias of places is "
            "overstated where items stand higher for the queries they fit."
        )
    return table(["", "mrr", "dcg"], rows) + f'<p class="note">{escape(note)}</p>'


def cost(results: Results) -> str:
    """Work and time per candidate."""
    keys = ("flops_per_candidate", "bytes_per_candidate", "us_per_candidate")
    rows = []
    for name in ordered(results["models"]):
        model = results["models"][name]
        if spent := model.get("cost"):
            numbers = [number(spent.get(key)) for key in keys[:2]]
            numbers.append(number(spent.get(keys[2]), FASTEST))
            rows.append(("", [name, share(model.get("mrr")), *numbers]))
    head = ["", "mrr", "FLOPs / candidate", "bytes / candidate", "µs / candidate"]
    note = (
        "FLOPs and bytes: what one more candidate adds to a request. µs: the scoring calls of this "
        "evaluation, on one thread, the towers' passes among them; the features were already at "
        "hand. A deployment scores one request at a time over encoded items, which is cheaper."
    )
    return table(head, rows) + f'<p class="note">{note}</p>' if rows else ""


def slices(results: Results) -> str:
    """The slices as numbers, folded away."""
    names = ordered(results["models"])
    parts = results.get("slices", {})
    measured = {
        metric for part in parts.values() for name in names for metric in part.get(name, {})
    }
    shown = [metric for metric in METRICS if metric in measured]
    rows: list[tuple[str, list[Cell | str]]] = []
    for slice_name, part in parts.items():
        for name in names:
            if model := part.get(name):
                first = f"{slice_name} ({part.get('requests', 0):,} requests)"
                rows.append(("", [first, name, *(share(model.get(m)) for m in shown)]))
    if not rows:
        return ""
    inner = table(["slice", "model", *shown], rows)
    return f"<details><summary>The same as numbers</summary>{inner}</details>"


def data(results: Results) -> str:
    """What was evaluated on."""
    facts, split = results["dataset"], results.get("split", "test")
    said: list[tuple[str, str]] = [("log", facts["name"])]
    if counts := facts.get("requests"):
        said.append(("requests", " · ".join(f"{part} {n:,}" for part, n in counts.items())))
    numbers: dict[str, Any] = {k: facts.get(k) for k in ("users", "queries", "items")}
    numbers[f"engaged candidates in {split}"] = facts.get("positives")
    said += [(key, f"{value:,}") for key, value in numbers.items() if value is not None]
    if known(facts.get("reachable_share")):
        said.append(("engaged items reachable", percent(facts["reachable_share"])))
    if span := facts.get("time_span"):
        said.append(("time span", f"{_minute(span[0])} to {_minute(span[1])}"))
    if "candidates" in facts:
        said.append(("candidates", facts["candidates"]))
    return definitions(said, "facts")


def _minute(moment: str) -> str:
    """An ISO time to the minute; anything else, a bare date too, as it is."""
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    if len(moment) <= len("2011-08-11"):
        return moment
    return f"{at:%Y-%m-%d %H:%M}" + (f" {at.tzname()}" if at.tzinfo else "")


def definitions(terms: Iterable[tuple[str, str]], css: str = "") -> str:
    """Terms and what they mean; ``facts`` sets them side by side."""
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in terms)
    return f'<dl class="{css}">{rows}</dl>' if rows else ""


def bullets(lines: Sequence[str]) -> str:
    """One bullet a line."""
    items = "".join(f"<li>{escape(line.strip())}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def stages(results: Results) -> str:
    """Seconds of every stage."""
    rows = [("", [name, f"{seconds:,.1f}"]) for name, seconds in results.get("stages", {}).items()]
    return table(["stage", "seconds"], rows) if rows else ""
