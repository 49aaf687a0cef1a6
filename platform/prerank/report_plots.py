"""The plots of a report: inline SVG that follows the page's light or dark theme."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from prerank.report_values import FASTEST, LEAD, Results, known, ordered, share

# Colours that matplotlib writes and the page replaces, so that plots follow the theme.
_INK, _LINE, _SOFT = "#010101", "#020202", "#030303"
_THEME = {_INK: "currentColor", _LINE: "var(--line)", _SOFT: "var(--soft)"}
_SERIES = tuple(f"#0404{i:02x}" for i in range(8))
_THEME |= {colour: f"var(--s{i})" for i, colour in enumerate(_SERIES)}


MOST_WEIGHTS = 25
"""Bars in the plot of the weights."""


def _svg(name: str, caption: str, height: float, draw: Callable[[Any], None]) -> str:
    """Figure with the SVG that ``draw`` makes of an empty matplotlib figure; height in inches."""
    # Imported here: the terminal table must not wait for matplotlib.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "grid.color": _LINE,
        "axes.edgecolor": _LINE,
        "axes.titleweight": "bold",
    }
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor")
    settings |= dict.fromkeys((*inks, "ytick.labelcolor"), _INK)
    settings |= dict.fromkeys(("xtick.color", "ytick.color"), _LINE)
    out = io.StringIO()
    with rc_context(settings), warnings.catch_warnings():
        # Text stays text and the reader's browser has the font; ours only measures it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure: Any = Figure(figsize=(9.8, height), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
        draw(figure)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return f"<figure>{_inline(name, out.getvalue(), caption)}</figure>"


def _inline(name: str, svg: str, caption: str) -> str:
    """Strip what only a file of its own needs; make ids unique and colours the theme's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"#0[1-4]0[1-4][0-9a-f]{2}", lambda m: _THEME.get(m[0], m[0]), svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)


def _colours(results: Results) -> dict[str, str]:
    """One colour per model, the same in every plot."""
    return {name: _SERIES[i % len(_SERIES)] for i, name in enumerate(ordered(results["models"]))}


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
            colours = [_SERIES[0] if name == LEAD else _SOFT for name in names]
            axes.barh(names, values, color=colours, height=0.62, alpha=0.85)
            for y, (value, (low, high)) in enumerate(zip(values, spans, strict=True)):
                if not known(value):
                    continue
                axes.plot([low, high], [y, y], color=_INK, linewidth=1.4, solid_capstyle="butt")
                axes.text(1.03, y, share(value), va="center", color=_INK)
            if known(ceiling := results.get("reachable_ceiling", {}).get(metric)):
                axes.axvline(ceiling, color=_INK, linestyle=":", linewidth=1)
            axes.set(title=metric, xlim=(0, 1.14), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
            axes.tick_params(length=0)
            axes.grid(axis="x")

    caption = "hits@3 and mrr per model"
    note = "Line on a bar: 95% interval."
    note += " Dotted: reachable ceiling." if results.get("reachable_ceiling") else ""
    plot = _svg("bars", caption, 0.7 + 0.32 * len(names), draw)
    return plot + f'<p class="note">{note}</p>'


def slices(results: Results) -> str:
    """Hits@3 and mrr of every model in every slice."""
    parts, colours = results.get("slices", {}), _colours(results)
    if not parts:
        return ""
    places = list(parts)[::-1]

    def draw(figure: Any) -> None:
        for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("hits@3", "mrr"), strict=True):
            for i, (name, colour) in enumerate(colours.items()):
                shift = 0.3 * (1 - 2 * (i + 0.5) / len(colours))
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
        _legend(figure)

    return _svg("slices", "hits@3 and mrr per slice and model", 1.2 + 0.55 * len(places), draw)


def _legend(figure: Any) -> None:
    """One legend under the plots, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=5)


def _line(axes: Any, rows: Sequence[Mapping[str, float]], key: str, **style: Any) -> None:
    """Plot ``key`` over epochs, leaving out epochs without a value."""
    at = [(row["epoch"], row[key]) for row in rows if known(row.get(key))]
    if at:
        axes.plot(*zip(*at, strict=True), marker="o" if len(at) < 30 else "", markersize=3, **style)


def curves(results: Results) -> str:
    """Loss and validation MRR per epoch."""
    training, colours = results.get("training", {}), _colours(results)
    if not any(training.values()):
        return ""

    def draw(figure: Any) -> None:
        loss, quality = figure.subplots(1, 2)
        for name, rows in training.items():
            colour = colours.get(name, _SOFT)
            _line(loss, rows, "train_loss", linestyle="--", color=colour)
            _line(loss, rows, "validation_loss", color=colour)
            _line(quality, rows, "validation_mrr", color=colour, label=name)
        loss.set(title="Loss (dashed: training, solid: validation)", xlabel="epoch")
        quality.set(title="MRR on validation", xlabel="epoch")
        for axes in (loss, quality):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid()
        _legend(figure)

    return _svg("curves", "Loss and validation MRR per epoch", 3.2, draw)


def weights(pairs: Sequence[tuple[str, float]]) -> str:
    """The heaviest weights, heaviest first."""
    found = [(name, w) for name, w in pairs if known(w)]
    chosen = sorted(found, key=lambda pair: -abs(pair[1]))[:MOST_WEIGHTS][::-1]
    if not chosen:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        values = [w for _, w in chosen]
        colours = [_SERIES[0] if w > 0 else _SERIES[1] for w in values]
        axes.barh(range(len(chosen)), values, color=colours, height=0.62, alpha=0.85)
        axes.set_yticks(range(len(chosen)), [name for name, _ in chosen])
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set(xlabel="weight", ylim=(-0.6, len(chosen) - 0.4))
        axes.tick_params(length=0)
        axes.grid(axis="x")

    return _svg("weights", "Weights of the fusion", 0.8 + 0.22 * len(chosen), draw)


def _microseconds(x: float) -> str:
    """Tick label; what is faster than can be measured stands at ``FASTEST``."""
    if math.isclose(x, FASTEST):
        return f"≤ {FASTEST:g}"
    return f"{x:g}" if x > FASTEST else ""


def cost(results: Results) -> str:
    """MRR against time per candidate."""
    models, colours = results["models"], _colours(results)
    at = {
        n: (models[n].get("cost", {}).get("us_per_candidate"), models[n].get("mrr"))
        for n in colours
    }
    at = {n: (max(x, FASTEST), y) for n, (x, y) in at.items() if known(x) and known(y) and x >= 0}
    if len(at) < 2:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, (x, y) in at.items():
            axes.scatter([x], [y], color=colours[name], s=42, marker="D" if name == LEAD else "o")
            axes.annotate(name, (x, y), xytext=(7, 4), textcoords="offset points", color=_INK)
        axes.set(xscale="log", xlabel="µs per candidate (logarithmic)", ylabel="MRR")
        # The default labels are formulas, which the page could not show.
        axes.xaxis.set_major_formatter(lambda x, _: _microseconds(x))
        axes.xaxis.set_minor_formatter(lambda x, _: "")
        axes.margins(x=0.15, y=0.15)
        axes.tick_params(which="both", length=0)
        axes.grid()

    return _svg("cost", "MRR against time per candidate", 3.4, draw)
