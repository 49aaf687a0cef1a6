"""The plots of a report, as matplotlib figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from prerank.evaluation.report.drawing import (
    INK,
    MARKERS,
    SERIES,
    SOFT,
    STYLE,
    empty_figure,
    legend,
    plain_ticks,
    rows_of,
)
from prerank.evaluation.report.numbers import FASTEST, by_loss, is_finite, ordered, share
from prerank.evaluation.results import FULL, LEAD, Calibration, Counterfactual, Results

MAX_WEIGHTS, MAX_HEADS = 25, 3
"""Bars in the plot of the weights, panes in the plot of the calibration."""


def figures(results: Results) -> dict[str, Figure]:
    """The plots by name, as far as the results have something to plot; labels are captions."""
    plots = (bars, slices, cost, ablations, curve, calibration, counterfactual, curves, weights)
    with rc_context(STYLE):
        return {plot.__name__: figure for plot in plots if (figure := plot(results))}


def _styles(results: Results) -> dict[str, dict[str, str]]:
    """Colour and marker of every ranker, best first: the same in all plots, LEAD's its alone."""
    names = ordered(results.models)
    styles = {LEAD: {"color": SERIES[0], "marker": "D"}}
    for i, name in enumerate(n for n in names if n != LEAD):
        colour = SERIES[1 + i % (len(SERIES) - 1)]
        styles[name] = {"color": colour, "marker": MARKERS[i % len(MARKERS)]}
    return {name: styles[name] for name in names}


def bars(results: Results) -> Figure:
    """Recall of the cut and mrr of every model."""
    models, names = results.models, ordered(results.models)[::-1]
    figure = empty_figure("recall@cut and mrr per model", 0.7 + 0.32 * len(names))
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("recall@cut", "mrr"), strict=True):
        values = [models[name].mean(metric) for name in names]
        fill = [SERIES[0] if name == LEAD else SOFT for name in names]
        axes.barh(range(len(names)), values, color=fill, height=0.62, alpha=0.85)
        ends = [models[n].ci.get(metric, (v, v)) for n, v in zip(names, values, strict=True)]
        axes.hlines(range(len(names)), *zip(*ends, strict=True), color=INK, linewidth=1.4)
        for y, value in enumerate(values):
            if is_finite(value):
                axes.text(1.03, y, share(value), va="center")
        if is_finite(ceiling := results.reachable_ceiling.get(metric)):
            axes.axvline(ceiling, color=INK, linestyle=":", linewidth=1)
        axes.set(title=metric, xlim=(0, 1.14), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
        rows_of(axes, names)
    return figure


def slices(results: Results) -> Figure | None:
    """Recall of the cut and mrr of every model in every slice."""
    parts, styles = results.slices, _styles(results)
    if not parts:
        return None
    places = list(parts)[::-1]
    figure = empty_figure("recall@cut and mrr per slice and model", 1.2 + 0.55 * len(places))
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("recall@cut", "mrr"), strict=True):
        for i, (name, style) in enumerate(styles.items()):
            shift = 0.3 * (1 - 2 * (i + 0.5) / len(styles))
            values = [parts[s].models.get(name, {}).get(metric, math.nan) for s in places]
            if any(map(is_finite, values)):
                heights = [y + shift for y in range(len(places))]
                axes.scatter(values, heights, s=26, label=name, **style)
        rows_of(axes, [f"{s}\n{parts[s].requests:,} requests" for s in places])
        axes.set(title=metric, xlim=(-0.03, 1.03))
    legend(figure)
    return figure


def cost(results: Results) -> Figure | None:
    """MRR against operations and against time per candidate."""
    models = results.models
    panels = (
        ("flops_per_candidate", 1.0, "FLOPs per candidate (logarithmic)"),
        ("us_per_candidate", FASTEST, "µs per candidate (logarithmic)"),
    )
    measured = {n for n, m in models.items() if m.cost and is_finite(m.mean("mrr"))}
    chosen = {name: style for name, style in _styles(results).items() if name in measured}
    if len(chosen) < 2:
        return None
    figure = empty_figure("MRR against operations and time per candidate", 4.6)
    panes = figure.subplots(1, 2, sharey=True)
    for axes, (key, least, label) in zip(panes, panels, strict=True):
        for name, style in chosen.items():
            spent = max(getattr(models[name].cost, key), least)
            axes.scatter([spent], [models[name].mean("mrr")], s=42, label=name, **style)
        axes.set(xscale="log", xlabel=label)
        plain_ticks(axes.xaxis, partial(_at_least, least))
        axes.margins(x=0.25, y=0.15)
        axes.tick_params(which="both", length=0, labelleft=True)
    panes[0].set_ylabel("MRR")
    legend(figure)
    return figure


def _at_least(least: float, x: float) -> str:
    """Tick label; what is below ``least`` stands there, and is marked so."""
    if math.isclose(x, least):
        return f"≤ {least:g}"
    return f"{x:,.10g}" if x > least else ""


def ablations(results: Results) -> Figure | None:
    """Every seed and the mean of every variant."""
    variants, names = results.ablations, by_loss(results.ablations)[::-1]
    shown = [m for m in ("hits@3", "hits@10", "mrr") if any(variants[n].seeds(m) for n in names)]
    if not shown:
        return None
    figure = empty_figure("Every variant by metric", 0.8 + 0.26 * len(names))
    panes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panes, shown, strict=True):
        for y, name in enumerate(names):
            if values := variants[name].seeds(metric):
                axes.scatter(values, [y] * len(values), color=SOFT, s=12)
                colour = SERIES[0] if name == FULL else INK
                axes.scatter([fmean(values)], [y], color=colour, marker="D", s=26)
        if FULL in variants and (whole := variants[FULL].seeds(metric)):
            axes.axvline(fmean(whole), color=SERIES[0], linestyle=":", linewidth=1)
        axes.set_title(metric)
        rows_of(axes, names)
    return figure


def curve(results: Results) -> Figure | None:
    """Recall of the cut and MRR of every ranker by how many requests it learned from."""
    points, styles = results.curve, _styles(results)
    if not points:
        return None
    for i, name in enumerate(n for n in points[0].models if n not in styles):
        styles[name] = {"color": SERIES[-1 - i], "marker": MARKERS[-1 - i]}
    figure = empty_figure("Quality by how many requests a ranker learned from", 3.6)
    metrics = ("recall@cut", "mrr")
    for axes, metric in zip(figure.subplots(1, 2), metrics, strict=True):
        for name in points[0].models:
            style = styles[name]
            seeds = [point.models[name][metric] for point in points]
            at = [point.requests for point in points]
            axes.plot(at, [fmean(s) for s in seeds], markersize=4, label=name, **style)
            ends = zip(*((min(s), max(s)) for s in seeds), strict=True)
            axes.fill_between(at, *ends, color=style["color"], alpha=0.15, linewidth=0)
        axes.set(title=metric, xscale="log", xlabel="training requests")
        plain_ticks(axes.xaxis, lambda x: f"{x:,.0f}")
    legend(figure)
    return figure


def calibration(results: Results) -> Figure | None:
    """Observed against predicted engagement of every ranker with probabilities, a pane per head."""
    if not isinstance(results.calibration, Calibration):
        return None
    models, styles = results.calibration.models, _styles(results)
    heads = list(dict.fromkeys(h for by_head in models.values() for h in by_head))[:MAX_HEADS]
    if not heads:
        return None
    figure = empty_figure("Observed against predicted engagement", 3.9)
    for axes, head in zip(figure.subplots(1, len(heads), squeeze=False)[0], heads, strict=True):
        ends: list[float] = []
        for name in (n for n in styles if head in models.get(n, {})):
            points = [(p, y) for _, p, y in models[name][head].curve if p > 0 and y > 0]
            ends += [value for point in points for value in point]
            if points:
                at = zip(*points, strict=True)
                axes.plot(*at, markersize=3.5, linewidth=1, label=name, **styles[name])
        if ends:
            span = [min(ends), max(ends)]
            axes.plot(span, span, color=INK, linestyle=":", linewidth=1)
        axes.set(title=head, xscale="log", yscale="log", xlabel="predicted")
        for axis in (axes.xaxis, axes.yaxis):
            plain_ticks(axis, lambda x: f"{x:g}")
        axes.tick_params(which="both", length=0)
    figure.axes[0].set_ylabel("observed")
    legend(figure)
    return figure


def counterfactual(results: Results) -> Figure | None:
    """Propensity by place, and the estimated value of every order."""
    found = results.counterfactual
    if not isinstance(found, Counterfactual):
        return None
    names = ordered(found.models)[::-1]
    height = max(2.6, 0.9 + 0.24 * len(names))
    figure = empty_figure("Examination by place and value of every order", height)
    places, values = figure.subplots(1, 2, width_ratios=(2, 3))
    at, looked = found.propensities.first_place, found.propensities.value
    places.plot(at, looked, color=SERIES[0], marker="o", markersize=3.5, linewidth=1)
    places.set(title="Examination by place", xlabel="place", ylim=(0, 1.05))
    places.xaxis.get_major_locator().set_params(integer=True)
    places.tick_params(length=0)
    for y, name in enumerate(names):
        own, colour = found.models[name], SERIES[0] if name == LEAD else INK
        values.plot(own.ci["mrr"], [y, y], color=colour, linewidth=1.4)
        values.scatter([own.mean("mrr")], [y], color=colour, s=26)
    values.set_title("Estimated MRR, position bias taken out")
    rows_of(values, names)
    return figure


def curves(results: Results) -> Figure | None:
    """Loss and validation MRR per epoch."""
    training, styles = results.training, _styles(results)
    if not any(training.values()):
        return None
    figure = empty_figure("Loss and validation MRR per epoch", 3.2)
    loss, quality = figure.subplots(1, 2)
    for name, epochs in training.items():
        style = styles.get(name, {"color": SOFT, "marker": "o"})
        _line(loss, epochs, "train_loss", linestyle="--", **style)
        _line(loss, epochs, "validation_loss", **style)
        _line(quality, epochs, "validation_mrr", label=name, **style)
    loss.set(title="Loss (dashed: training, solid: validation)", xlabel="epoch")
    quality.set(title="MRR on validation", xlabel="epoch")
    for axes in (loss, quality):
        axes.xaxis.get_major_locator().set_params(integer=True)
    legend(figure)
    return figure


def _line(axes: Any, epochs: Sequence[Mapping[str, float]], key: str, **style: Any) -> None:
    """Plot ``key`` over epochs, leaving out epochs without a value."""
    at = [(epoch["epoch"], epoch[key]) for epoch in epochs if is_finite(epoch.get(key))]
    if at:
        every = max(len(at) // 30, 1)
        axes.plot(*zip(*at, strict=True), markersize=3, markevery=every, **style)


def weights(results: Results) -> Figure | None:
    """The heaviest weights, heaviest first."""
    found = [(name, weight) for name, weight in results.fusion_weights if is_finite(weight)]
    chosen = sorted(found, key=lambda pair: -abs(pair[1]))[:MAX_WEIGHTS][::-1]
    if not chosen:
        return None
    figure = empty_figure("Weights of the fusion", 0.8 + 0.22 * len(chosen))
    axes = figure.subplots()
    names, values = zip(*chosen, strict=True)
    fill = [SERIES[0] if value > 0 else SERIES[1] for value in values]
    axes.barh(range(len(chosen)), values, color=fill, height=0.62, alpha=0.85)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("weight")
    rows_of(axes, names)
    return figure
