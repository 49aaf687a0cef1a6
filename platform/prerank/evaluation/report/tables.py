"""The tables of the page as rows of cells; the template writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from prerank.evaluation.report.numbers import (
    FASTEST,
    best_of,
    by_loss,
    interval,
    is_finite,
    number,
    ordered,
    p_value,
    share,
    signed,
    spread,
)
from prerank.evaluation.results import (
    FULL,
    LEAD,
    METRICS,
    Ablation,
    Calibration,
    Comparisons,
    Counterfactual,
    Difference,
    Interval,
    Measured,
    Results,
)


@dataclass(frozen=True)
class Cell:
    """One value; ``small`` stands beneath it, ``css`` is its class."""

    text: str
    small: str = ""
    css: str = ""


@dataclass(frozen=True)
class Row:
    """The cells of a row, its name first; ``css`` is its class."""

    cells: Sequence[Cell]
    css: str = ""


@dataclass(frozen=True)
class Table:
    """Names of the columns, and the rows."""

    head: Sequence[str]
    rows: Sequence[Row]


def tables(results: Results) -> dict[str, Table | None]:
    """The tables by name; None where there is nothing to show."""
    return {
        "metrics": _metrics(results),
        "versus": _differences(results.versus, ordered(results.models)),
        "paired": _differences(results.paired, ordered(results.models)),
        "cut": _cut(results),
        "slices": _slices(results),
        "cost": _cost(results),
        "ablations": _ablations(results),
        "curve": _curve(results),
        "calibration": _calibration(results),
        "counterfactual": _counterfactual(results),
        "stages": _table(
            ["stage", "seconds"],
            (_row(name, f"{seconds:,.1f}") for name, seconds in results.stages.items()),
        ),
    }


def _table(head: Sequence[str], rows: Iterable[Row]) -> Table | None:
    rows = list(rows)
    return Table(head, rows) if rows else None


def _row(*cells: Cell | str, css: str = "") -> Row:
    return Row([Cell(cell) if isinstance(cell, str) else cell for cell in cells], css)


def _mean(
    value: float | None, ci: Interval | None, best: str = "-", seeds: Sequence[float] | None = None
) -> Cell:
    """A mean over its interval and its spread over seeds, shaded if it prints as the best."""
    text = share(value)
    css = "best" if text == best != "-" else ""
    small = interval(ci).replace("-", "–"), spread(seeds).replace("+-", "± ")
    return Cell(text, "\n".join(filter(None, small)), css)


def _metrics(results: Results) -> Table | None:
    """Every ranker, the oracles and the ceiling, with intervals."""
    best = {metric: best_of([*results.models.values()], metric) for metric in METRICS}

    def row(name: str, model: Measured, best: Mapping[str, str], css: str = "") -> Row:
        seeds = results.seeds.get(name, {})
        cells = (
            _mean(model.mean(m), model.ci.get(m), best.get(m, "-"), seeds.get(m)) for m in METRICS
        )
        return _row(name, *cells, css=css)

    rows = [row(name, results.models[name], best) for name in ordered(results.models)]
    rows += [row(n, results.oracles[n], {}, "aside") for n in ordered(results.oracles)]
    if ceiling := results.reachable_ceiling:
        rows.append(row("reachable ceiling", Measured(ceiling), {}, "aside"))
    return _table(["", *METRICS], rows)


def _differences(compared: Comparisons, names: Sequence[str]) -> Table | None:
    """Differences with interval and p; shaded where the whole interval is above 0."""
    chosen = [name for name in names if compared.get(name)]
    shown = [metric for metric in METRICS if any(metric in compared[name] for name in chosen)]
    rows = []
    for name in chosen:
        cells = []
        for metric in shown:
            found = compared[name].get(metric)
            if not found or not is_finite(found.p):
                cells.append(Cell("-"))
                continue
            low, high = found.ci
            small = f"{signed(low)} to {signed(high)}\np {p_value(found.p)}"
            cells.append(Cell(signed(found.difference), small, "best" if low > 0 else ""))
        rows.append(_row(name, *cells))
    return _table(["", *shown], rows)


def _cut(results: Results) -> Table | None:
    """What every ranker's cut keeps."""
    if not results.cut:
        return None
    models, reference = results.cut.models, results.cut.reference
    names = [name for name in ordered(results.models) if name in models]
    heads = {
        "recall@cut": "engaged items in the best tenth",
        "recall@100": "in the best 100",
        "recall@1000": "in the best 1,000",
    }
    if reference:
        heads["agreement"] = f"best {reference.top} of {reference.name} in the best tenth"
    shown = [m for m in heads if any(is_finite(models[name].mean(m)) for name in names)]
    best = {metric: best_of([models[name] for name in names], metric) for metric in shown}
    rows = (
        _row(name, *(_mean(models[name].mean(m), models[name].ci.get(m), best[m]) for m in shown))
        for name in names
    )
    return _table(["", *(heads[m] for m in shown)], rows) if shown else None


def _slices(results: Results) -> Table | None:
    """Means of every ranker in every slice."""
    names, slices = ordered(results.models), results.slices
    measured = {m for own in slices.values() for n in names for m in own.models.get(n, {})}
    shown = [metric for metric in METRICS if metric in measured]
    rows = (
        _row(
            f"{part} ({own.requests:,} requests)",
            name,
            *(share(own.models[name].get(metric)) for metric in shown),
        )
        for part, own in slices.items()
        for name in names
        if name in own.models
    )
    return _table(["slice", "model", *shown], rows)


def _cost(results: Results) -> Table | None:
    """Work and time per candidate."""
    rows = (
        _row(
            name,
            share(results.models[name].mean("mrr")),
            number(cost.flops_per_candidate),
            number(cost.bytes_per_candidate),
            number(cost.us_per_candidate, FASTEST),
        )
        for name in ordered(results.models)
        if (cost := results.models[name].cost)
    )
    return _table(["", "mrr", "FLOPs / candidate", "bytes / candidate", "µs / candidate"], rows)


def _ablations(results: Results) -> Table | None:
    """Mean and spread over seeds of every variant, and its difference from the whole model."""
    variants, names = results.ablations, by_loss(results.ablations)
    shown = [m for m in METRICS if any(variants[name].seeds(m) for name in names)]
    rows = (
        _row(Cell(name, variants[name].parts), *(_seeds(variants, name, m) for m in shown))
        for name in names
    )
    return _table(["", *shown], rows) if shown else None


def _curve(results: Results) -> Table | None:
    """MRR of every ranker by how many requests it learned from, and LEAD's gain on the others."""
    if not results.curve:
        return None
    names = [*results.curve[0].models]
    others = [name for name in names if name != LEAD]
    rows = (
        _row(
            Cell(f"{point.requests:,}", f"{point.share}%"),
            *(_spread(point.models[name]["mrr"]) for name in names),
            *(_gain(point.versus[name]["mrr"]) for name in others),
        )
        for point in results.curve
    )
    return _table(["requests", *names, *(f"{LEAD} − {name}" for name in others)], rows)


def _spread(values: Sequence[float]) -> Cell:
    """Mean over seeds, the spread beneath it."""
    return Cell(share(fmean(values)), spread(values).replace("+-", "± "))


def _gain(found: Difference) -> Cell:
    """A difference over its interval; shaded where it is surely above 0."""
    low, high = found.ci
    return Cell(
        signed(found.difference),
        f"{signed(low)} to {signed(high)}",
        "sure" if low > 0 else "",
    )


def _seeds(variants: Mapping[str, Ablation], name: str, metric: str) -> Cell:
    """Mean ± standard deviation; shaded where it is surely below the whole model's."""
    mine = variants[name].seeds(metric)
    if not mine:
        return Cell("-")
    text = share(fmean(mine)) + (f" ± {share(stdev(mine))}" if len(mine) > 1 else "")
    whole = variants[FULL].seeds(metric) if FULL in variants else []
    if name == FULL or not whole:
        return Cell(text)
    difference = fmean(mine) - fmean(whole)
    sure = False
    if min(len(mine), len(whole)) > 1:
        error = (stdev(mine) ** 2 / len(mine) + stdev(whole) ** 2 / len(whole)) ** 0.5
        sure = difference < -2 * error
    return Cell(text, signed(difference), "sure" if sure else "")


def _calibration(results: Results) -> Table | None:
    """Expected calibration error by ranker and head."""
    if not isinstance(results.calibration, Calibration):
        return None
    models = results.calibration.models
    head = ["", "head", "calibration error", "mean predicted", "mean observed", "impressions"]
    rows = (
        _row(
            name,
            head,
            *(f"{value:.4f}" for value in (found.ece, found.predicted, found.observed)),
            f"{found.impressions:,}",
        )
        for name in ordered(results.models)
        for head, found in models.get(name, {}).items()
    )
    return _table(head, rows)


def _counterfactual(results: Results) -> Table | None:
    """Estimated value of every order."""
    if not isinstance(results.counterfactual, Counterfactual):
        return None
    models, gains = results.counterfactual.models, ("mrr", "dcg")
    rows = (
        _row(name, *(_mean(models[name].mean(g), models[name].ci[g]) for g in gains))
        for name in ordered(models)
    )
    return _table(["", *gains], rows)
