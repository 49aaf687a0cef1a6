"""How long an engagement counts as the label of its request, and what each choice costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prerank.core.times import HOUR_US
from prerank.ingest.inspection.tables import Rows

HOURS = (1, 2, 3, 6, 12, 24, 48, 72, 168)
"""Whole hours: the platform counts in them."""
DEFAULT = 24
KEPT, LEFT_OUT = 0.95, 0.05
"""Share of the engagements to keep at least, and of the requests to leave out at most."""


@dataclass(frozen=True)
class Window:
    """A label window.

    Attributes:
        hours: after the request.
        kept: share of the engagements that are not later.
        left_out: share of the requests whose window is open when the log ends.
    """

    hours: int
    kept: float
    left_out: float

    @property
    def holds(self) -> bool:
        """Whether it keeps enough and leaves out little."""
        return self.kept >= KEPT and self.left_out <= LEFT_OUT


def windows(rows: Rows, passive: Sequence[str], impressions: Sequence[str]) -> list[Window]:
    """What each window of HOURS costs; empty where the log has no times.

    Args:
        rows: of ``frame_of``.
        passive: the team's actions that are exposure.
        impressions: those that make a request eligible; empty where each one is.
    """
    (last,) = rows.one("SELECT max(__happened) FROM log")
    if last is None:
        return []
    # One pass over the rows for all windows.
    spans = [hours * HOUR_US for hours in HOURS]
    kept = rows.one(
        f"""SELECT {", ".join(f"avg((__happened - __asked <= {s})::INT)" for s in spans)}
            FROM log WHERE NOT list_contains($1::VARCHAR[], __action) OR __action IS NULL""",
        [list(passive)],
    )
    left_out = rows.one(
        f"""SELECT {", ".join(f"avg((asked + {s} > {last})::INT)" for s in spans)} FROM (
                SELECT min(__asked) AS asked FROM log GROUP BY __request
                HAVING len($1::VARCHAR[]) = 0
                    OR bool_or(list_contains($1::VARCHAR[], __action)))""",
        [list(impressions)],
    )
    return [
        Window(hours, float(1.0 if k is None else k), float(out or 0.0))
        for hours, k, out in zip(HOURS, kept, left_out, strict=True)
    ]


def best_of(found: Sequence[Window]) -> Window | None:
    """The default where it will do, else the shortest that does; else what keeps most labels."""
    if not found:
        return None
    good = [w for w in found if w.holds]
    usual = [w for w in good if w.hours == DEFAULT]
    # Of equals the first, which is the shortest.
    most = max(found, key=lambda w: w.kept * (1.0 - w.left_out))
    return (usual or good or [most])[0]


def said(found: Sequence[Window], best: Window) -> list[str]:
    """What the choice costs, and what the default would."""
    lines = [f"{best.hours} h {_costs(best)}"]
    if not best.holds:
        lines.append("no window keeps 95% of the engagements and 95% of the requests")
    usual = next(w for w in found if w.hours == DEFAULT)
    if best.hours != DEFAULT:
        lines.append(f"{DEFAULT} h, the default, {_costs(usual, would=True)}")
    return lines


def _costs(window: Window, would: bool = False) -> str:
    keeps, leaves = ("would keep", "leave") if would else ("keeps", "leaves")
    return (
        f"{keeps} {window.kept:.1%} of the engagements and {leaves} out "
        f"{window.left_out:.1%} of the requests"
    )
