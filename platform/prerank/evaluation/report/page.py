"""The report's page: tables and plots of the results, set into ``page.html.j2``.

The page stands alone: style and plots (inline SVG) are inside, nothing is fetched, and both follow
the reader's light or dark theme. The words are the template's; every name and value is escaped. A
part that is missing from the results is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from prerank.evaluation.report import plots
from prerank.evaluation.report.drawing import inline
from prerank.evaluation.report.numbers import ordered
from prerank.evaluation.report.tables import tables
from prerank.evaluation.report.text import facts, headline, seeds_note
from prerank.evaluation.results import BASELINE, FULL, LEAD, Results


def write_report(path: Path, results: Results) -> None:
    """Write the report as one HTML file that stands alone; folders are made as needed."""
    drawn = {name: inline(name, one) for name, one in plots.figures(results).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results, drawn), encoding="utf-8")


def page(results: Results, drawn: Mapping[str, str]) -> str:
    """The HTML page; ``drawn``: name of a plot -> its SVG element."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        results=results,
        headline=headline(results),
        seeds_note=seeds_note(results).replace("+-", "±"),
        facts=facts(results),
        tables=tables(results),
        # Drawn here, by code that escapes what it is given.
        plots={name: Markup(svg) for name, svg in drawn.items()},  # nosec B704
        rankers=[*ordered(results.models), *results.oracles],
        families={name.split(":", 1)[0] for name, _ in results.fusion_weights if ":" in name},
        max_weights=plots.MAX_WEIGHTS,
        lead=LEAD,
        baseline=BASELINE,
        full=FULL,
    )
