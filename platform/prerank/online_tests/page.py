"""The report of an experiment: one HTML page that stands alone, and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prerank.core.files import publish, write_json
from prerank.core.pages import templates
from prerank.online_tests import plot, words
from prerank.online_tests.results import DEGRADED, FULFILMENT, LATENCY, Results
from prerank.online_tests.statistics import Interval

WIDTH = 320
"""Of the axis of a plot, in its own units."""
COLOURS = 6


def write(results: Results, folder: Path) -> tuple[Path, Path]:
    """Write online-NAME.json and online-NAME.html; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"online-{results.experiment}.json"
    page = data.with_suffix(".html")
    write_json(data, _finite({**asdict(results), "verdicts": words.verdicts(results)}))
    page.write_text(html(results), encoding="utf-8")
    publish(page)
    return data, page


def html(results: Results) -> str:
    """The page; every name is escaped."""
    environment = templates(Path(__file__).parent)
    return environment.get_template("report.html.j2").render(
        results=results,
        verdicts=words.verdicts(results),
        rates=_rates(results),
        words=words,
        axis=Axis(results),
        guardrails=(DEGRADED, LATENCY),
        width=WIDTH,
        fulfilment=FULFILMENT,
        plots=_plots(results),
        plot=plot,
        colours={name: f"--s{n % COLOURS}" for n, name in enumerate(results.variants)},
    )


def _plots(results: Results) -> list[tuple[str, plot.Plot]]:
    """Captions and plots of how the experiment went."""
    found = (
        ("Fulfilment of all requests so far", plot.rates(results.course)),
        (f"Difference to {results.control}", plot.differences(results.course)),
    )
    return [(caption, drawn) for caption, drawn in found if drawn]


class Axis:
    """Places of lifts on a common axis that holds 0 and all ends that are known."""

    def __init__(self, results: Results) -> None:
        ends = [
            end
            for two in results.compared.values()
            for name, one in two.lifts.items()
            if name not in (DEGRADED, LATENCY)
            for end in (one.low, one.high)
            if math.isfinite(end)
        ]
        # An interval of thousands of percent would leave nothing to see of the others.
        self.most = min(max((abs(end) for end in ends), default=0.1), 1.0) * 1.05

    def at(self, value: float) -> float:
        """Of a lift, 0 to ``WIDTH``."""
        return WIDTH / 2 * (1 + max(-1.0, min(1.0, value / self.most)))

    def draws(self, one: Interval) -> bool:
        """Whether there is something to draw."""
        return math.isfinite(one.value)


def _rates(results: Results) -> list[str]:
    """Names of all rates, as the variants have them."""
    return list(dict.fromkeys(name for one in results.variants.values() for name in one.rates))


def _finite(data: Any) -> Any:
    """The same without numbers that JSON does not know."""
    if isinstance(data, Mapping):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
