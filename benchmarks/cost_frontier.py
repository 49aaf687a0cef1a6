"""The picture of `what_trees_find.py`: what forms of g gain, against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forms_of_g import DEFAULT
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

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
    """MRR beyond the default form, with 95% intervals, against FLOPs and time; a row per home."""
    costs = (("flops", "FLOPs of g per candidate"), ("ns", "ns per candidate, one thread"))
    with rc_context(STYLE):
        figure = Figure(figsize=(9.8, 0.6 + 2.6 * len(results)), layout="constrained")
        panes = figure.subplots(len(results), 2, squeeze=False, sharey="row")
        labels: dict[str, Any] = {}
        for found, row in zip(results, panes, strict=True):
            for axes, (key, label) in zip(row, costs, strict=True):
                labels |= _drawn(axes, found["rows"], key)
                axes.set(xscale="log", title=found["home"], xlabel=label)
                axes.xaxis.set_minor_formatter(NullFormatter())
            row[0].set_ylabel(f"MRR − {DEFAULT.name}")
        figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=4)
    return figure


def _drawn(axes: Any, rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """Points of ``rows`` in one pane; name -> what the legend shows."""
    drawn = [r for r in rows if r["name"] == TREES or not r["name"].startswith(TREES)]
    labels = {}
    for i, row in enumerate(drawn):
        _, gain, low, high = row["mrr"]
        ends = [[gain - low], [high - gain]]
        marker, colour = "D" if row["name"] == TREES else "o", f"C{i % 10}"
        labels[row["name"]] = axes.errorbar(
            [row[key]], [gain], ends, fmt=marker, ms=5, lw=0.8, color=colour
        )
    axes.axhline(0, color="#999", lw=0.8, ls=":")
    return labels
