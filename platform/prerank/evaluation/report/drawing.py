"""How the plots of a report are drawn: colours, style, and the inline SVG that the page holds."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Colours that matplotlib writes and the page replaces, so that plots follow the reader's theme.
INK, LINE, SOFT = "#010101", "#020202", "#030303"
SERIES = tuple(f"#0404{i:02x}" for i in range(12))
THEME = {INK: "currentColor", LINE: "var(--line)", SOFT: "var(--soft)"}
THEME |= {colour: f"var(--s{i})" for i, colour in enumerate(SERIES)}
MARKERS = "osv^PX<>"

STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "legend.frameon": False,
}
LINES: tuple[RcKeyType, ...] = ("axes.edgecolor", "grid.color", "xtick.color", "ytick.color")
TEXTS: tuple[RcKeyType, ...] = (
    "text.color",
    "axes.labelcolor",
    "axes.titlecolor",
    "xtick.labelcolor",
    "ytick.labelcolor",
)
STYLE |= dict.fromkeys(LINES, LINE) | dict.fromkeys(TEXTS, INK)


def inline(name: str, figure: Figure) -> str:
    """An ``<svg>`` element whose colours are the page's and whose ids begin with ``name``."""
    out = io.StringIO()
    with rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # Text stays text and the reader's browser has the font; ours only measures it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    source = "<svg" + out.getvalue().split("<svg", 1)[1]
    source = re.sub(r"(?s)<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", source)
    source = re.sub(r' xmlns(:\w+)?="[^"]*"', "", source)
    source = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", source)
    source = re.sub(r"#0[1-4]0[1-4][0-9a-f]{2}", lambda m: THEME.get(m[0], m[0]), source)
    caption = escape(str(figure.get_label()))
    return source.replace("<svg", f'<svg role="img" aria-label="{caption}"', 1)


def empty_figure(caption: str, height: float) -> Any:
    """An empty figure, as wide as the page; ``height`` in inches."""
    layout = ConstrainedLayoutEngine(wspace=0.06)
    return Figure(figsize=(9.8, height), layout=layout, label=caption)


def legend(figure: Any) -> None:
    """One legend under the plots, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=5)


def rows_of(axes: Any, names: Sequence[str]) -> None:
    """A row per name, the first at the bottom, with grid lines for the values alone."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(length=0)
    axes.grid(visible=False, axis="y")


def plain_ticks(axis: Any, write: Any) -> None:
    """Tick labels of a logarithmic axis: the default ones are formulas, which no page shows."""
    axis.set_major_formatter(lambda x, _: write(x))
    axis.set_minor_formatter(lambda x, _: "")
