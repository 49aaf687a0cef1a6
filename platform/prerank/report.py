"""The evaluation report: one HTML file, one terminal table and one JSON file from one dict.

The HTML stands alone: style and plots (inline SVG) are inside, nothing is fetched, and both follow
the reader's light or dark theme. Every name and value is escaped. A part that is missing from the
results is left out. Metrics are shares in [0, 1]; times are as their keys say.
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypedDict, TypeGuard

METRICS = ("hits@1", "hits@3", "hits@10", "mrr", "ndcg@10", "recall@cut", "auc")
"""Columns of every table, in this order."""

LEAD = "interactrank"
RIVAL = "two_tower"


class DatasetFacts(TypedDict, total=False):
    """What was evaluated on. ``requests``: split -> count; ``time_span``: first and last request.

    ``candidates`` says in words where the candidates come from; ``truth_coverage`` is the share of
    positives that are among them.
    """

    name: str
    requests: dict[str, int]
    users: int
    queries: int
    items: int
    time_span: tuple[str, str]
    positives: int
    candidates: str
    truth_coverage: float


class Results(TypedDict, total=False):
    """Everything a report may show; only ``dataset`` (its name) and ``models`` are needed.

    Attributes:
        dataset: facts about the log.
        split: the split the metrics come from, e.g. "test".
        models: name -> ``{metric: mean, …, "ci": {metric: [low, high]}, "cost":
            {"flops_per_candidate", "bytes_per_candidate", "us_per_candidate"}}``.
        oracles: as ``models``; knows what no ranker may know.
        paired: name -> metric -> ``{"difference", "ci": [low, high], "p"}`` against the two-tower.
        slices: slice -> ``{"requests": count, name: {metric: mean}, …}``.
        reachable_ceiling: metric -> the best value any order of these candidates could reach.
        training: name -> ``[{"epoch", "train_loss", "validation_loss", "validation_mrr"}, …]``.
        fusion_weights: (feature, weight) pairs.
        ingest: sentences on what was read, quarantined or assumed.
        features: sentences on snapshots, rows and caps.
        stages: stage -> seconds.
    """

    dataset: DatasetFacts
    split: str
    models: dict[str, dict[str, Any]]
    oracles: dict[str, dict[str, Any]]
    paired: dict[str, dict[str, dict[str, Any]]]
    slices: dict[str, dict[str, Any]]
    reachable_ceiling: dict[str, float]
    training: dict[str, list[dict[str, float]]]
    fusion_weights: list[tuple[str, float]]
    ingest: list[str]
    features: list[str]
    stages: dict[str, float]


# Colours that matplotlib writes and the page replaces, so that plots follow the theme.
_INK, _LINE, _SOFT = "#010101", "#020202", "#030303"
_THEME = {_INK: "currentColor", _LINE: "var(--line)", _SOFT: "var(--soft)"}
_SERIES = tuple(f"#0404{i:02x}" for i in range(8))
_THEME |= {colour: f"var(--s{i})" for i, colour in enumerate(_SERIES)}

_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c2430;--soft:#5b6675;--line:#d8dee6;
--best:#e8f1fd;--s0:#1f6fd6;--s1:#d9730d;--s2:#2b8a5b;--s3:#a23fb5;--s4:#c2354b;--s5:#0f8b9d;--s6:#8a6d1d;
--s7:#6b7280}
@media(prefers-color-scheme:dark){:root{--page:#14181f;--ink:#e4e9f0;--soft:#9aa6b5;--line:#333c49;
--best:#1d3350;--s0:#6aa8f7;--s1:#f0a04b;--s2:#5cc490;--s3:#d18ae0;--s4:#f0798b;--s5:#4fc3d4;
--s6:#d0b052;--s7:#a3acb8}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:66rem;background:var(--page);
color:var(--ink);font:16px/1.55 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:0}
h2{font-size:1.15rem;margin:2.6rem 0 .4rem}
p,ul,dl{max-width:46rem;margin:.4rem 0 .8rem}
.lead{font-size:1.15rem;margin:1rem 0}
.note,figcaption{color:var(--soft);font-size:.88rem}
figure{margin:.6rem 0;overflow-x:auto}
svg{max-width:100%;height:auto;display:block}
svg text{font-family:inherit!important}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.6rem 0}
th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:.3rem}
thead th{color:var(--soft);font-weight:600}
td small{display:block;color:var(--soft);font-size:.75rem;white-space:pre}
td.best{background:var(--best);font-weight:700}
td.best small{font-weight:400}
tr.aside td{color:var(--soft);font-style:italic}
dt{font-weight:600;margin-top:.6rem}
dd{margin:0}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.5rem}
.facts dt{margin:0}
summary{cursor:pointer;color:var(--soft)}
"""

_GLOSSARY = {
    "hits@k": "Share of requests with at least one engaged item among the k best-ranked "
    "candidates.",
    "mrr": "Mean reciprocal rank: 1 / rank of the first engaged item, averaged over requests. "
    "1 means always first, 0.5 means typically second.",
    "ndcg@10": "How near the ten best places are to the ideal order; engaged items count less the "
    "lower they stand.",
    "recall@cut": "Share of engaged items that survive when only the best tenth of the candidates "
    "is kept. This is what pre-ranking is for.",
    "auc": "Chance that an engaged candidate is ranked above one of the same request that was not "
    "engaged with; 0.5 is guessing.",
    "reachable ceiling": "The value that a perfect order of the same candidates would have. It is "
    "below 1 where engaged items are not among the candidates.",
    "interval": "95% bootstrap interval over requests: where the mean would fall in 95 of 100 "
    "such samples of requests.",
    "p": "How often a difference at least this large would arise if both rankers were equally "
    "good (paired sign-flip test over requests).",
}


def _known(value: Any) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def _share(value: Any) -> str:
    """Three decimals without the leading zero; a dash where there is no value."""
    if not _known(value):
        return "-"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "") + _share(value)


def _number(value: Any) -> str:
    if not _known(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _interval(ci: Sequence[float] | None) -> str:
    return f"{_share(ci[0])}-{_share(ci[1])}" if ci and _known(ci[0]) else ""


def _ordered(models: Mapping[str, dict[str, Any]]) -> list[str]:
    """Model names, best MRR first; those without one last."""

    def key(name: str) -> float:
        mrr: Any = models[name].get("mrr")
        return -mrr if _known(mrr) else math.inf

    return sorted(models, key=key)


def _best(models: Mapping[str, dict[str, Any]], metric: str) -> str:
    """The best value of ``metric`` as printed: models that print alike share the honour."""
    return _share(max((m[metric] for m in models.values() if _known(m.get(metric))), default=None))


def metrics_table(results: Results) -> str:
    """Models × metrics as aligned plain ASCII text; the 95% interval stands under each mean.

    Best models first, ``*`` marks the best value of a column; oracles and the reachable ceiling
    follow, unmarked.
    """
    models, oracles = results["models"], results.get("oracles", {})
    rows = [["", *METRICS]]
    for name in [*_ordered(models), *_ordered(oracles)]:
        model = models.get(name) or oracles[name]
        means = [_share(model.get(metric)) for metric in METRICS]
        best = [
            name in models and v == _best(models, m) != "-"
            for v, m in zip(means, METRICS, strict=True)
        ]
        rows.append([name, *(v + "*" * b for v, b in zip(means, best, strict=True))])
        rows.append(["", *(_interval(model.get("ci", {}).get(metric)) for metric in METRICS)])
    if ceiling := results.get("reachable_ceiling"):
        rows.append(["reachable ceiling", *(_share(ceiling.get(metric)) for metric in METRICS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        row[0].ljust(widths[0])
        + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
        if any(row)
    )
    return "\n".join(line.rstrip() for line in lines)


def _plain(value: Any) -> Any:
    """``value`` as strict JSON has it: no numpy scalars, no tuples, NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_metrics(path: Path, results: Results) -> None:
    """Write the machine-readable result as JSON, one key per line; NaN becomes null.

    ``{"dataset": name, "split": …, "models": {name: {metric: mean, …, "ci": {metric: [low,
    high]}}}, "reachable_ceiling": {metric: value}, "paired": {…}}``; no other keys, and a metric
    that a model lacks is absent.
    """
    models = {
        name: {key: model[key] for key in (*METRICS, "ci") if key in model}
        for name, model in results["models"].items()
    }
    document = {
        "dataset": results["dataset"]["name"],
        "split": results.get("split", "test"),
        "models": models,
        "reachable_ceiling": results.get("reachable_ceiling", {}),
        "paired": results.get("paired", {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _against_rival(row: Mapping[str, Any]) -> str:
    """The paired comparison in words; an interval around zero is called that."""
    points, (low, high) = 100 * row["difference"], row["ci"]
    span = f"interval {100 * low:+.1f} to {100 * high:+.1f} points"
    if low <= 0 <= high:
        return f"That cannot be told apart from {RIVAL} ({points:+.1f} points, {span})."
    word = "more" if points > 0 else "fewer"
    return f"That is {abs(points):.1f} points {word} than {RIVAL} ({span}, p {_p(row['p'])})."


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"= {_share(value)}"


def headline(results: Results) -> str:
    """The result in a few plain sentences, about ``interactrank`` or else the best model."""
    models = results["models"]
    best = _ordered(models)[0]
    lead = LEAD if LEAD in models else best
    model = models[lead]
    said = []
    if _known(hits := model.get("hits@3")):
        first = (
            f"{lead} places an engaged item among its three best in {_percent(hits)} of requests"
        )
        if (ci := model.get("ci", {}).get("hits@3")) and _known(ci[0]):
            first += f" (95% interval {_percent(ci[0])} to {_percent(ci[1])})"
        said.append(first + ".")
        if (row := results.get("paired", {}).get(lead, {}).get("hits@3")) and _known(row["p"]):
            said.append(_against_rival(row))
        if _known(ceiling := results.get("reachable_ceiling", {}).get("hits@3")):
            said.append(f"A perfect order of the same candidates would reach {_percent(ceiling)}.")
    if _known(kept := model.get("recall@cut")):
        said.append(
            f"Cut to the best tenth, the candidates keep {_percent(kept)} of engaged items."
        )
    if best != lead:
        pair = f"{_share(models[best].get('mrr'))} against {_share(model.get('mrr'))}"
        said.append(f"{best} ranks better by MRR: {pair}.")
    return " ".join(said) or f"{lead} has no measured value."


# --- tables ---------------------------------------------------------------------------------------

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


def _metrics_html(results: Results) -> str:
    models = results["models"]

    def cells(name: str, model: Mapping[str, Any], may_win: bool) -> list[_Cell | str]:
        row: list[_Cell | str] = [name]
        for metric in METRICS:
            value = _share(model.get(metric))
            wins = may_win and value == _best(models, metric) != "-"
            ci = _interval(model.get("ci", {}).get(metric)).replace("-", "–")
            row.append((f"{value}\n{ci}", "best" if wins else ""))
        return row

    rows = [("", cells(name, models[name], True)) for name in _ordered(models)]
    oracles = results.get("oracles", {})
    rows += [("aside", cells(name, oracles[name], False)) for name in _ordered(oracles)]
    if ceiling := results.get("reachable_ceiling"):
        rows.append(("aside", cells("reachable ceiling", ceiling, False)))
    note = "Small print: 95% bootstrap interval over requests. Shaded: best of the column."
    if oracles:
        note += " Oracles, in italics, know what no ranker can know and show what is left to win."
    return _table(["", *METRICS], rows) + f'<p class="note">{note}</p>'


def _paired_html(results: Results) -> str:
    rows = []
    for name in _ordered(results["models"]):
        if row := results.get("paired", {}).get(name):
            cells: list[_Cell | str] = [name]
            for metric in METRICS:
                found = row.get(metric)
                if not found or not _known(found["p"]):
                    cells.append("-")
                    continue
                low, high = found["ci"]
                sure = "best" if low > 0 else ""
                span = f"{_signed(low)} to {_signed(high)}\np {_p(found['p'])}"
                cells.append((f"{_signed(found['difference'])}\n{span}", sure))
            rows.append(("", cells))
    note = f"Shaded: better than {RIVAL} with the whole interval above zero."
    return _table(["", *METRICS], rows) + f'<p class="note">{note}</p>' if rows else ""


def _cost_html(results: Results) -> str:
    keys = ("flops_per_candidate", "bytes_per_candidate", "us_per_candidate")
    rows = []
    for name in _ordered(results["models"]):
        model = results["models"][name]
        if cost := model.get("cost"):
            numbers = [_number(cost.get(key)) for key in keys]
            rows.append(("", [name, _share(model.get("mrr")), *numbers]))
    head = ["", "mrr", "FLOPs / candidate", "bytes / candidate", "µs / candidate"]
    return _table(head, rows) if rows else ""


def _slices_html(results: Results) -> str:
    names = _ordered(results["models"])
    metrics = ("hits@3", "mrr", "recall@cut")
    rows: list[tuple[str, list[_Cell | str]]] = []
    for slice_name, part in results.get("slices", {}).items():
        for name in names:
            if model := part.get(name):
                first = f"{slice_name} ({part.get('requests', 0):,} requests)"
                rows.append(("", [first, name, *(_share(model.get(m)) for m in metrics)]))
    if not rows:
        return ""
    inner = _table(["slice", "model", *metrics], rows)
    return f"<details><summary>The same as numbers</summary>{inner}</details>"


def _facts_html(results: Results) -> str:
    facts = results["dataset"]
    said: list[tuple[str, str]] = [("log", facts["name"])]
    if counts := facts.get("requests"):
        said.append(("requests", " · ".join(f"{split} {n:,}" for split, n in counts.items())))
    numbers: dict[str, Any] = {k: facts.get(k) for k in ("users", "queries", "items", "positives")}
    said += [(key, f"{value:,}") for key, value in numbers.items() if value is not None]
    if span := facts.get("time_span"):
        said.append(("time span", f"{span[0]} to {span[1]}"))
    if "candidates" in facts:
        said.append(("candidates", facts["candidates"]))
    if _known(facts.get("truth_coverage")):
        said.append(("positives among the candidates", _percent(facts["truth_coverage"])))
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in said)
    return f'<dl class="facts">{rows}</dl>'


def _list_html(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _stages_html(results: Results) -> str:
    rows = [("", [name, f"{seconds:,.1f}"]) for name, seconds in results.get("stages", {}).items()]
    return _table(["stage", "seconds"], rows) if rows else ""


# --- plots ----------------------------------------------------------------------------------------


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
        figure = Figure(figsize=(9.8, height), layout="constrained")
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
    return {name: _SERIES[i % len(_SERIES)] for i, name in enumerate(_ordered(results["models"]))}


def _bars_plot(results: Results) -> str:
    models, names = results["models"], _ordered(results["models"])[::-1]

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
                if not _known(value):
                    continue
                axes.plot([low, high], [y, y], color=_INK, linewidth=1.4, solid_capstyle="butt")
                axes.text(1.03, y, _share(value), va="center", color=_INK)
            if _known(ceiling := results.get("reachable_ceiling", {}).get(metric)):
                axes.axvline(ceiling, color=_INK, linestyle=":", linewidth=1)
            axes.set(title=metric.upper(), xlim=(0, 1.14), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
            axes.tick_params(length=0)
            axes.grid(axis="x")

    caption = "HITS@3 and MRR per model"
    note = "Line on a bar: 95% interval."
    note += " Dotted: reachable ceiling." if results.get("reachable_ceiling") else ""
    plot = _svg("bars", caption, 0.7 + 0.32 * len(names), draw)
    return plot + f'<p class="note">{note}</p>'


def _slices_plot(results: Results) -> str:
    slices, colours = results.get("slices", {}), _colours(results)
    if not slices:
        return ""
    places = list(slices)[::-1]

    def draw(figure: Any) -> None:
        for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("hits@3", "mrr"), strict=True):
            for i, (name, colour) in enumerate(colours.items()):
                shift = 0.3 * (1 - 2 * (i + 0.5) / len(colours))
                at = [
                    (slices[s].get(name, {}).get(metric), y + shift) for y, s in enumerate(places)
                ]
                shape = "D" if name == LEAD else "o"
                if at := [(x, y) for x, y in at if _known(x)]:
                    axes.scatter(
                        *zip(*at, strict=True), color=colour, marker=shape, s=26, label=name
                    )
            labels = [f"{s}\n{slices[s].get('requests', 0):,} requests" for s in places]
            axes.set_yticks(range(len(places)), labels)
            axes.set(title=metric.upper(), ylim=(-0.5, len(places) - 0.5))
            axes.tick_params(length=0)
            axes.grid(axis="x")
        _legend(figure)

    return _svg("slices", "HITS@3 and MRR per slice and model", 1.2 + 0.55 * len(places), draw)


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
    at = [(row["epoch"], row[key]) for row in rows if _known(row.get(key))]
    if at:
        axes.plot(*zip(*at, strict=True), marker="o" if len(at) < 30 else "", markersize=3, **style)


def _curves_plot(results: Results) -> str:
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


def _weights_plot(results: Results, most: int = 25) -> str:
    weights = [(name, w) for name, w in results.get("fusion_weights", []) if _known(w)]
    chosen = sorted(weights, key=lambda pair: -abs(pair[1]))[:most][::-1]
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


def _cost_plot(results: Results) -> str:
    models, colours = results["models"], _colours(results)
    at = {
        n: (models[n].get("cost", {}).get("us_per_candidate"), models[n].get("mrr"))
        for n in colours
    }
    at = {name: (x, y) for name, (x, y) in at.items() if _known(x) and _known(y) and x > 0}
    if len(at) < 2:
        return ""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, (x, y) in at.items():
            axes.scatter([x], [y], color=colours[name], s=42, marker="D" if name == LEAD else "o")
            axes.annotate(name, (x, y), xytext=(7, 4), textcoords="offset points", color=_INK)
        axes.set(xscale="log", xlabel="µs per candidate (logarithmic)", ylabel="MRR")
        # The default labels are formulas, which the page could not show.
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.xaxis.set_minor_formatter(lambda x, _: "")
        axes.margins(x=0.15, y=0.15)
        axes.tick_params(which="both", length=0)
        axes.grid()

    return _svg("cost", "MRR against time per candidate", 3.4, draw)


# --- the page -------------------------------------------------------------------------------------

_PROTOCOL = (
    "Requests are split by time: the first are for training, later ones for validation, the last "
    "for the test. Settings were chosen on validation only.",
    "Every feature of a request was computed from events before that request; its own events never "
    "count. Counts come from published snapshots, as they would in production.",
    "A request is scored when it has at least one engaged item. An engaged item that is not among "
    "the candidates counts as missed in every metric.",
    "Candidates with equal scores share their places, so no model gains or loses by the order in "
    "which candidates happen to be stored.",
)


def write_report(path: Path, results: Results) -> None:
    """Write the report as one HTML file that stands alone; folders are made as needed."""
    name, split = results["dataset"]["name"], results.get("split", "test")
    glossary = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _GLOSSARY.items())
    sections = [
        ("Metrics", _metrics_html(results) + _bars_plot(results)),
        (f"Difference from {RIVAL}, request by request", _paired_html(results)),
        ("Where it helps: slices", _slices_plot(results) + _slices_html(results)),
        ("Quality against cost", _cost_plot(results) + _cost_html(results)),
        ("Learning curves", _curves_plot(results)),
        ("What the fusion weighs", _weights_plot(results)),
        ("Data", _facts_html(results)),
        ("How it was measured", _list_html(_PROTOCOL)),
        ("Ingest", _list_html(results.get("ingest", []))),
        ("Features", _list_html(results.get("features", []))),
        ("Time per stage", _stages_html(results)),
        ("Glossary", f"<dl>{glossary}</dl>"),
    ]
    body = "\n".join(f"<h2>{escape(title)}</h2>\n{html}" for title, html in sections if html)
    title = escape(f"Pre-ranking on {name}: {split} results")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f'<p class="lead">{escape(headline(results))}</p>\n{body}\n</body></html>\n'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
