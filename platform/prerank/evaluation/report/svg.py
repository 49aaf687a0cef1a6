"""Inline SVG that follows the page's light or dark theme, and what plots share."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from prerank.evaluation.results import LEAD, Results, ordered

# Colours that matplotlib writes and the page replaces, so that plots follow the theme.
INK, LINE, SOFT = "#010101", "#020202", "#030303"
_THEME = {INK: "currentColor", LINE: "var(--line)", SOFT: "var(--soft)"}
SERIES = tuple(f"#0404{i:02x}" for i in range(12))
_THEME |= {colour: f"var(--s{i})" for i, colour in enumerate(SERIES)}


def svg(name: str, caption: str, height: float, draw: Callable[[Any], None]) -> str:
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
        "grid.color": LINE,
        "axes.edgecolor": LINE,
        "axes.titleweight": "bold",
    }
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor")
    settings |= dict.fromkeys((*inks, "ytick.labelcolor"), INK)
    settings |= dict.fromkeys(("xtick.color", "ytick.color"), LINE)
    out = io.StringIO()
    with rc_context(settings), warnings.catch_warnings():
        # Text stays text and the reader's browser has the font; ours only measures it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure: Any = Figure(figsize=(9.8, height), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
        draw(figure)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return f"<figure>{_inline(name, out.getvalue(), caption)}</figure>"


def _inline(name: str, source: str, caption: str) -> str:
    """Strip what only a file of its own needs; make ids unique and colours the theme's."""
    source = source[source.index("<svg") :]
    source = re.sub(
        r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", source, flags=re.DOTALL
    )
    source = re.sub(r' xmlns(:\w+)?="[^"]*"', "", source)
    source = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", source)
    source = re.sub(r"#0[1-4]0[1-4][0-9a-f]{2}", lambda m: _THEME.get(m[0], m[0]), source)
    return source.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)


def colours(results: Results) -> dict[str, str]:
    """One colour per model, the same in every plot; the first is the lead's alone."""
    names = ordered(results["models"])
    others = [name for name in names if name != LEAD]
    colour = {name: SERIES[1 + i % (len(SERIES) - 1)] for i, name in enumerate(others)}
    return {name: colour.get(name, SERIES[0]) for name in names}


def legend(figure: Any) -> None:
    """One legend under the plots, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=5)


def plain_ticks(axis: Any, write: Callable[[float], str]) -> None:
    """Tick labels of a logarithmic axis: the default ones are formulas, which no page shows."""
    axis.set_major_formatter(lambda x, _: write(x))
    axis.set_minor_formatter(lambda x, _: "")


def label_points(axes: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name beside its point, clear of other points and names; a line if it is far."""
    axes.figure.draw_without_rendering()
    dots = {name: axes.transData.transform(at) for name, at in points.items()}
    unit = axes.figure.dpi / 72
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots.values()]
    left, right = axes.bbox.x0, axes.bbox.x1 + 8 * unit
    for name, (x, y) in sorted(dots.items(), key=lambda item: -item[1][1]):
        width, height = 5.6 * len(name) * unit, 10 * unit
        for dx, dy, side in _places(unit):
            low = x + dx - (width if side == "right" else width / 2 if side == "center" else 0)
            box = (low, y + dy - height / 2, low + width, y + dy + height / 2)
            inside = left <= box[0] and box[2] <= right
            if inside and not any(_meet(box, other) for other in taken):
                break
        taken.append(box)
        far = max(abs(dx), abs(dy)) > 12 * unit
        axes.annotate(
            name,
            points[name],
            xytext=(dx / unit, dy / unit),
            ha=side,
            va="center",
            textcoords="offset points",
            color=INK,
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6} if far else None,
        ).set_in_layout(False)


def _places(unit: float) -> list[tuple[float, float, str]]:
    """Offsets in pixels from a point, and which side of the text is there; best first."""
    near = [(8.0, 0.0, "left"), (-8.0, 0.0, "right"), (0.0, 11.0, "center"), (0.0, -11.0, "center")]
    for step in (11.0, 22.0, 33.0, 44.0, 55.0, 66.0):
        near += [(8.0 + step / 2, s * step, "left") for s in (1, -1)]
        near += [(-8.0 - step / 2, s * step, "right") for s in (1, -1)]
    return [(dx * unit, dy * unit, side) for dx, dy, side in near]


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
