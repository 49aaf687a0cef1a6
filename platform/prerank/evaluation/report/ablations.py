"""The report's section on ablations: what each part of the model is worth."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from prerank.evaluation.report.svg import INK, SERIES, SOFT, svg
from prerank.evaluation.report.tables import Cell, table
from prerank.evaluation.results import METRICS, WHOLE, Results, known, share, signed

PLOTTED = ("hits@3", "hits@10", "mrr")


def _seeds(variant: Mapping[str, Any], metric: str) -> list[float]:
    return [float(v) for v in variant["metrics"].get(metric, []) if known(v)]


def _ordered(results: Results) -> list[str]:
    """The whole model first, then the variants that lose most by MRR."""
    variants = results.get("ablations", {})

    def key(name: str) -> tuple[bool, float]:
        seeds = _seeds(variants[name], "mrr")
        return name != WHOLE, fmean(seeds) if seeds else 1.0

    return sorted(variants, key=key)


def ablations(results: Results) -> str:
    """Mean and spread over seeds of every variant, and its difference from the whole model."""
    variants = results.get("ablations", {})
    names = _ordered(results)
    shown = [m for m in METRICS if any(_seeds(variants[n], m) for n in names)]
    if not shown:
        return ""
    rows = []
    for name in names:
        cells: list[Cell | str] = [f"{name}\n{variants[name].get('parts', '')}"]
        cells += [_cell(variants, name, metric) for metric in shown]
        rows.append(("", cells))
    note = (
        "Mean ± standard deviation over seeds. Small print: difference of the means from the "
        f"variant “{WHOLE}”; shaded where it is more than two standard errors below."
    )
    return _plot(results) + table(["", *shown], rows) + f'<p class="note">{note}</p>'


def _cell(variants: Mapping[str, Any], name: str, metric: str) -> Cell | str:
    mine = _seeds(variants[name], metric)
    if not mine:
        return "-"
    text = share(fmean(mine)) + (f" ± {share(stdev(mine))}" if len(mine) > 1 else "")
    whole = _seeds(variants[WHOLE], metric) if WHOLE in variants else []
    if name == WHOLE or not whole:
        return text
    difference = fmean(mine) - fmean(whole)
    sure = False
    if min(len(mine), len(whole)) > 1:
        error = (stdev(mine) ** 2 / len(mine) + stdev(whole) ** 2 / len(whole)) ** 0.5
        sure = difference < -2 * error
    return f"{text}\n{signed(difference)}", "sure" if sure else ""


def _plot(results: Results) -> str:
    variants, names = results.get("ablations", {}), _ordered(results)[::-1]
    metrics = [m for m in PLOTTED if any(_seeds(variants[n], m) for n in names)]
    if not metrics:
        return ""

    def draw(figure: Any) -> None:
        panes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panes, metrics, strict=True):
            for y, name in enumerate(names):
                seeds = _seeds(variants[name], metric)
                axes.scatter(seeds, [y] * len(seeds), color=SOFT, s=12)
                if seeds:
                    colour = SERIES[0] if name == WHOLE else INK
                    axes.scatter([fmean(seeds)], [y], color=colour, marker="D", s=26)
            if WHOLE in variants and (whole := _seeds(variants[WHOLE], metric)):
                axes.axvline(fmean(whole), color=SERIES[0], linestyle=":", linewidth=1)
            axes.set_yticks(range(len(names)), names)
            axes.set(title=metric, ylim=(-0.6, len(names) - 0.4))
            axes.tick_params(length=0)
            axes.grid(axis="x")

    plot = svg("ablations", "Every variant by metric", 0.8 + 0.26 * len(names), draw)
    return plot + '<p class="note">Diamond: mean over seeds. Small dots: the seeds.</p>'
