"""The picture of `what_trees_find.py`: what forms of g gain, against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forms_of_g import DEFAULT
from matplotlib import rc_context
from matplotlib.figure import Figure

TREES = "trees"
"""Name of the baseline's trees; those that may use less begin with it, and are not drawn."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "frontier",
}


def frontier(results: Sequence[dict[str, Any]]) -> Figure:
    """MRR beyond the default form against FLOPs per candidate, a pane per home."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9.8, 3.1 * ((len(results) + 1) // 2)), layout="constrained")
        panes = figure.subplots((len(results) + 1) // 2, 2, squeeze=False).ravel()
        for axes in panes[len(results) :]:
            axes.set_axis_off()
        for axes, found in zip(panes, results, strict=False):
            for row in found["rows"]:
                if row["name"] != TREES and row["name"].startswith(TREES):
                    continue
                _, gain, low, high = row["mrr"]
                colour = "#c2410c" if row["name"] == TREES else "#1d4ed8"
                ends = [[gain - low], [high - gain]]
                axes.errorbar([row["flops"]], [gain], ends, fmt="o", ms=4, lw=0.8, color=colour)
                axes.annotate(
                    row["name"],
                    (row["flops"], gain),
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=7,
                )
            axes.axhline(0, color="#999", lw=0.8, ls=":")
            axes.set(xscale="log", title=found["home"], xlabel="FLOPs of g per candidate")
            axes.set_ylabel(f"MRR − {DEFAULT.name}")
            axes.margins(x=0.2)
        return figure
