"""The plots of a report: inline SVG that follows the page's light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from prerank.evaluation.report.svg import (
    INK,
    SERIES,
    SOFT,
    colours,
    label_points,
    legend,
    plain_ticks,
    svg,
)
from prerank.evaluation.results import FASTEST, LEAD, Results, known, ordered, share

MAX_WEIGHTS = 25
"""Bars in the plot of the weights."""


def bars(results: Results) -> str:
    """Hits@3 and mrr of every model."""
    models, names = results["models"], ordered(results["models"])[::-1]

    def draw(figure: Any) -> None:
        for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("hits@3", "mrr"), strict=True):
            values = [models[n].get(metric, math.nan) for n in names]
            spans = [
                models[n].get("ci", {}).get(metric) or (v, v)
                for n, v in zip(names, values, strict=True)
            ]
            fill = [SERIES[0] if name == LEAD else SOFT for name in names]
            axes.barh(names, values, color=fill, height=0.62, alpha=0.85)
            for y, (value, (low, high)) in enumerate(zip(values, spans, strict=True)):
                if not known(value):
                    continue
                axes.plot([low, high], [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
                axes.text(1.03, y, share(value), va="center", color=INK)
            if known(ceiling := results.get("reachable_ceiling", {}).get(metric)):
                axes.axvline(ceiling, color=INK, linestyle=":", linewidth=1)
            axes.set(title=metric, xlim=(0, 1.14), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
            axes.tick_params(length=0)
            axes.grid(axis="x")

    caption = "hits@3 and mrr per model"
    note = "Line on a bar: 95% interval."
    note += " Dotted: reachable ceiling." if results.get("reachable_ceiling") else ""
    plot = svg("bars", caption, 0.7 + 0.32 * len(names), draw)
    return plot + f'<p class="note">{note}</p>'


def slices(results: Results) -> str:
    """Hits@3 and mrr of every model in every slice."""
    parts, palette = results.get("slices", {}), colours(results)
    if not parts:
        return ""
    places = list(parts)[::-1]

    def draw(figure: Any) -> None:
        for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("hits@3", "mrr"), strict=True):
            for i, (name, colour) in enumerate(palette.items()):
                shift = 0.3 * (1 - 2 * (i + 0.5) / len(palette))
                at = [(parts[s].get(name, {}).get(metric), y + shift) for y, s in enumerate(places)]
                shape = "D" if name == LEAD else "o"
                if at := [(x, y) for x, y in at if known(x)]:
                    axes.scatter(
                        *zip(*at, strict=True), color=colour, marker=shape, s=26, label=name
                    )
            labels = [f"{s}\n{parts[s].get('requests', 0):,} requests" for s in places]
            axes.set_yticks(range(len(places)), labels)
            axes.set(title=metric, xlim=(-0.03, 1.03), ylim=(-0.5, len(places) - 0.5))
            axes.tick_params(length=0)
            axes.grid(axis="x")
        legend(figure)

    return svg("slices", "hits@3 and mrr per slice and model", 1.2 + 0.55 * len(places), draw)


def _line(axes: Any, rows: Sequence[Mapping[str, float]], key: str, **style: Any) -> None:
    """Plot ``key`` over epochs, leaving out epochs without a value."""
    at = [(row["epoch"], row[key]) for row in rows if known(row.get(key))]
    if at:
        axes.plot(*zip(*at, strict=True), marker="o" if len(at) < 30 else "", markersize=3, **style)


def curves(results: Results) -> str:
    """Loss and validation MRR per epoch."""
    training, palette = results.get("training", {}), colours(results)
    if not any(training.values()):
        return ""

    def draw(figure: Any) -> None:
        loss, quality = figure.subplots(1, 2)
        for name, rows in training.items():
            colour = palette.get(name, SOFT)
            _line(loss, rows, "train_loss", linestyle="--", color=colour)
            _line(loss, rows, "validation_loss", color=colour)
            _line(quality, rows, "validation_mrr", color=colour, label=name)
        loss.set(title="Loss (dashed: training, solid: validation)", xlabel="epoch")
        quality.set(title="MRR on validation", xlabel="epoch")
        for axes in (loss, quality):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid()
        legend(figure)

    return svg("curves", "Loss and validation MRR per epoch", 3.2, draw)


def weights(pairs: Sequence[tuple[str, float]]) -> str:
    """The heaviest weights, heaviest first."""
    found = [(name, w) for name, w in pairs if known(w)]
    chosen = sorted(found, key=lambda pair: -abs(pair[1]))[:MAX_WEIGHTS][::-1]
    if not chosen:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        values = [w for _, w in chosen]
        fill = [SERIES[0] if w > 0 else SERIES[1] for w in values]
        axes.barh(range(len(chosen)), values, color=fill, height=0.62, alpha=0.85)
        axes.set_yticks(range(len(chosen)), [name for name, _ in chosen])
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="weight", ylim=(-0.6, len(chosen) - 0.4))
        axes.tick_params(length=0)
        axes.grid(axis="x")

    return svg("weights", "Weights of the fusion", 0.8 + 0.22 * len(chosen), draw)


def _at_least(least: float, x: float) -> str:
    """Tick label; what is below ``least`` stands there, and is marked so."""
    if math.isclose(x, least):
        return f"≤ {least:g}"
    return f"{x:,.10g}" if x > least else ""


def cost(results: Results) -> str:
    """MRR against operations and against time per candidate."""
    models, palette = results["models"], colours(results)
    panels = (
        ("flops_per_candidate", 1.0, "FLOPs per candidate (logarithmic)"),
        ("us_per_candidate", FASTEST, "µs per candidate (logarithmic)"),
    )
    found: list[tuple[dict[str, tuple[float, float]], float, str]] = []
    for key, least, label in panels:
        pairs = {n: (models[n].get("cost", {}).get(key), models[n].get("mrr")) for n in palette}
        at = {n: (max(x, least), y) for n, (x, y) in pairs.items() if known(x) and known(y)}
        found.append((at, least, label))
    if max(len(at) for at, _, _ in found) < 2:
        return ""

    def draw(figure: Any) -> None:
        panes = figure.subplots(1, 2, sharey=True)
        for axes, (at, least, label) in zip(panes, found, strict=True):
            for name, (x, y) in at.items():
                mark = "D" if name == LEAD else "o"
                axes.scatter([x], [y], color=palette[name], s=42, marker=mark)
            axes.set(xscale="log", xlabel=label)
            plain_ticks(axes.xaxis, partial(_at_least, least))
            axes.margins(x=0.25, y=0.15)
            axes.tick_params(which="both", length=0, labelleft=True)
            axes.grid()
        panes[0].set_ylabel("MRR")
        for axes, (at, _, _) in zip(panes, found, strict=True):
            label_points(axes, at)

    return svg("cost", "MRR against operations and time per candidate", 4.6, draw)


MAX_HEADS = 3
"""Heads in the plot of the calibration."""


def calibration(results: Results) -> str:
    """Observed against predicted engagement of every ranker with probabilities, a pane a head."""
    models, palette = results.get("calibration", {}).get("models", {}), colours(results)
    heads = list(dict.fromkeys(h for by_head in models.values() for h in by_head))[:MAX_HEADS]
    if not heads:
        return ""

    def draw(figure: Any) -> None:
        for axes, head in zip(figure.subplots(1, len(heads), squeeze=False)[0], heads, strict=True):
            ends: list[float] = []
            for name in ordered(results["models"]):
                points = models.get(name, {}).get(head, {}).get("curve", [])
                at = [(p, y) for _, p, y in points if p > 0 and y > 0]
                if not at:
                    continue
                style = {"marker": "D" if name == LEAD else "o", "markersize": 3.5, "linewidth": 1}
                axes.plot(*zip(*at, strict=True), color=palette[name], label=name, **style)
                ends += [v for point in at for v in point]
            if ends:
                span = [min(ends), max(ends)]
                axes.plot(span, span, color=INK, linestyle=":", linewidth=1)
            axes.set(title=head, xscale="log", yscale="log", xlabel="predicted")
            for axis in (axes.xaxis, axes.yaxis):
                plain_ticks(axis, lambda x: f"{x:g}")
            axes.tick_params(which="both", length=0)
            axes.grid()
        figure.axes[0].set_ylabel("observed")
        legend(figure)

    plot = svg("calibration", "Observed against predicted engagement", 3.9, draw)
    return plot + (
        '<p class="note">A point is about a fifteenth of the impressions, axes are logarithmic. '
        "Dotted: observed = predicted. Below it a ranker promises too much.</p>"
    )


def counterfactual(results: Results) -> str:
    """Propensity by place, and the estimated value of every order."""
    found = results.get("counterfactual", {})
    models = found.get("models", {})
    if not models:
        return ""
    names = sorted(models, key=lambda n: models[n]["mrr"])

    def draw(figure: Any) -> None:
        places, values = figure.subplots(1, 2, width_ratios=(2, 3))
        first, value = found["propensities"]["first_place"], found["propensities"]["value"]
        places.plot(first, value, color=SERIES[0], marker="o", markersize=3.5, linewidth=1)
        places.set(title="Examination by place", xlabel="place", ylim=(0, 1.05))
        places.xaxis.get_major_locator().set_params(integer=True)
        for y, name in enumerate(names):
            low, high = models[name]["ci"]["mrr"]
            colour = SERIES[0] if name == LEAD else INK
            values.plot([low, high], [y, y], color=colour, linewidth=1.4)
            values.scatter([models[name]["mrr"]], [y], color=colour, s=26)
        values.set_yticks(range(len(names)), names)
        values.set(title="Estimated MRR, position bias taken out")
        for axes in (places, values):
            axes.tick_params(length=0)
            axes.grid(axis="x" if axes is values else "both")

    return svg(
        "counterfactual",
        "Examination by place and value of every order",
        max(2.6, 0.9 + 0.24 * len(names)),
        draw,
    )
