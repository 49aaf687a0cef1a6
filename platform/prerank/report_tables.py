"""The tables and lists of a report as HTML; every name and value is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from prerank.report_values import (
    FASTEST,
    METRICS,
    RIVAL,
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

_Cell = tuple[str, str]
"""Text (escaped where it is written) and CSS class."""


def _table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[_Cell | str]]]) -> str:
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

    def cells(name: str, model: Mapping[str, Any], may_win: bool) -> list[_Cell | str]:
        row: list[_Cell | str] = [name]
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
    return _table(["", *METRICS], rows) + f'<p class="note">{note}</p>'


def paired(results: Results) -> str:
    """Differences from the two-tower, for the metrics that were compared."""
    compared = results.get("paired", {})
    names = [name for name in ordered(results["models"]) if compared.get(name)]
    shown = [metric for metric in METRICS if any(metric in compared[name] for name in names)]
    rows = []
    for name in names:
        cells: list[_Cell | str] = [name]
        for metric in shown:
            found = compared[name].get(metric)
            if not found or not known(found["p"]):
                cells.append("-")
                continue
            low, high = found["ci"]
            sure = "best" if low > 0 else ""
            span = f"{signed(low)} to {signed(high)}\np {p_value(found['p'])}"
            cells.append((f"{signed(found['difference'])}\n{span}", sure))
        rows.append(("", cells))
    note = f"Small print: 95% interval and p. Shaded: better than {RIVAL}, whole interval above 0."
    return _table(["", *shown], rows) + f'<p class="note">{note}</p>' if rows else ""


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
        "evaluation, on one thread; the features were already at hand."
    )
    return _table(head, rows) + f'<p class="note">{note}</p>' if rows else ""


def slices(results: Results) -> str:
    """The slices as numbers, folded away."""
    names = ordered(results["models"])
    parts = results.get("slices", {})
    measured = {
        metric for part in parts.values() for name in names for metric in part.get(name, {})
    }
    shown = [metric for metric in METRICS if metric in measured]
    rows: list[tuple[str, list[_Cell | str]]] = []
    for slice_name, part in parts.items():
        for name in names:
            if model := part.get(name):
                first = f"{slice_name} ({part.get('requests', 0):,} requests)"
                rows.append(("", [first, name, *(share(model.get(m)) for m in shown)]))
    if not rows:
        return ""
    inner = _table(["slice", "model", *shown], rows)
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
    if known(facts.get("truth_coverage")):
        said.append(("engaged items reachable", percent(facts["truth_coverage"])))
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
    return _table(["stage", "seconds"], rows) if rows else ""
