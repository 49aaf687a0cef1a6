"""Event columns that have no role: about the searcher, about a candidate, or of no use."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from prerank.core.manifest import FULL_RANKER, RETRIEVER
from prerank.core.sql import quoted
from prerank.ingest.inspection.columns import Column
from prerank.ingest.inspection.names import SEGMENT_NAMES, folded
from prerank.ingest.inspection.roles import Confidence
from prerank.ingest.inspection.tables import Rows
from prerank.ingest.mapping import CANONICAL

Use = Literal["segment", "candidate", "none"]

MAX_SEGMENT_VALUES = 200
MIN_KNOWN = 0.5
_PLAIN = re.compile(r"[A-Za-z0-9_.\-]+")
_ID = re.compile(r"(?:^|[_.\- ]|[a-z](?=I))[Ii][Dd]$")
CONSTANT = 0.99
_TAKEN = {*CANONICAL, *RETRIEVER, FULL_RANKER, "day", "timestamp"}
_NAMES = frozenset(map(folded, SEGMENT_NAMES.split()))


@dataclass(frozen=True)
class Leftover:
    """A column without a role.

    Attributes:
        column: its name.
        use: "segment" where its value is the searcher's, "candidate" where it is a number about an
            item in a request, else "none".
        confidence: how sure that is.
        why: what it looks like, in one line.
    """

    column: str
    use: Use
    confidence: Confidence
    why: str


def leftovers(
    rows: Rows, columns: Sequence[Column], taken: Collection[str], shown: Sequence[str] = ()
) -> list[Leftover]:
    """What each column that is not ``taken`` looks like.

    Args:
        rows: of ``frame_of``.
        columns: of the log.
        taken: columns with a role, and those of which was said what they are.
        shown: the team's actions that say what was shown; empty where none does.
    """
    return [_judged(rows, column, shown) for column in columns if column.name not in taken]


def _judged(rows: Rows, column: Column, shown: Sequence[str]) -> Leftover:
    name, values = column.name, column.distinct
    if column.kind == "empty":
        return Leftover(name, "none", "certain", "no value at all")
    if column.kind in ("vector", "other"):
        return Leftover(name, "none", "certain", f"not used: it holds a {column.kind} per row")
    if values == 1:
        return Leftover(name, "none", "certain", f"always {column.examples[0]!r}")
    if column.is_time:
        return Leftover(name, "none", "likely", "another time, not used")
    within = _constant(rows, name, "__request", "count(*) > 1")
    if column.kind in ("integer", "number") and (within is None or within < CONSTANT):
        return _of_candidate(rows, column, within, shown)
    if within is not None and within < CONSTANT:
        why = f"differs within {1 - within:.0%} of the requests: not about the searcher"
        return Leftover(name, "none", "likely", why)
    if name.lower() in _TAKEN or column.kind not in ("text", "boolean", "integer"):
        return Leftover(name, "none", "likely", f"{values:,} values, not used")
    if values > MAX_SEGMENT_VALUES or values > max(2, column.known // 5):
        why = f"{values:,} values are too many to count by: not used"
        return Leftover(name, "none", "likely", why)
    if column.share < MIN_KNOWN:
        return Leftover(name, "none", "likely", f"{1 - column.share:.0%} are empty: not used")
    return _segment(rows, column, within)


def _of_candidate(
    rows: Rows, column: Column, within: float | None, shown: Sequence[str]
) -> Leftover:
    """A number that differs within requests, or of which nobody can tell whether it does."""
    name = column.name
    if column.kind == "integer" and _ID.search(name):
        return Leftover(name, "none", "likely", "an id, not used")
    if within is None:
        return Leftover(name, "none", "likely", "a number, of requests of one row each: not used")
    if not shown:
        why = "a number per candidate, not used: the log does not say what was shown"
        return Leftover(name, "none", "likely", why)
    # A number that comes with the click (a dwell time, a revenue) is not known when items are
    # ranked: having one would tell the label.
    (known,) = rows.one(
        f"""SELECT avg(coalesce(isfinite(TRY_CAST({quoted(name)} AS DOUBLE)), false)::INT)
            FROM log WHERE list_contains($1::VARCHAR[], __action)""",
        [list(shown)],
    )
    if (known or 0.0) < MIN_KNOWN:
        why = f"a number, known of {known or 0.0:.0%} of what was shown: not used"
        return Leftover(name, "none", "likely", why)
    if name.lower() in _TAKEN or not _PLAIN.fullmatch(name):
        why = "a number per candidate: rename the column (letters, digits, '_', '.', '-') to use it"
        return Leftover(name, "none", "likely", why)
    why = f"differs within {1 - within:.0%} of the requests, known of {known:.0%} of what was shown"
    return Leftover(name, "candidate", "likely", why)


def _segment(rows: Rows, column: Column, within: float | None) -> Leftover:
    name, values = column.name, column.distinct
    named = folded(name) in _NAMES
    if within is None:
        # Every request has one row: what is the item's looks like the searcher's.
        of_item = _constant(rows, name, "__item", "count(DISTINCT __user) > 1")
        if not named and of_item is not None and of_item >= CONSTANT:
            return Leftover(name, "none", "likely", "one value per item: put it in the catalogue")
    if column.kind == "integer" and not named:
        return Leftover(name, "none", "guess", f"{values:,} numbers, one per request: not used")
    sure: Confidence = "certain" if named and within else "likely" if named or within else "guess"
    alike = "" if within is None else ", the same in all rows of a request"
    return Leftover(name, "segment", sure, f"{values:,} values{alike}")


def _constant(rows: Rows, column: str, group: str, having: str) -> float | None:
    """Share of groups in which a column has one value at most; None where there is no group."""
    (share,) = rows.one(
        f"""SELECT avg((n <= 1)::INT) FROM (
                SELECT count(DISTINCT {quoted(column)}) AS n FROM log
                WHERE {group} IS NOT NULL GROUP BY {group} HAVING {having})"""
    )
    return None if share is None else float(share)


def shown_order(rows: Rows, exposed: Sequence[str]) -> str | None:
    """Why the position may stand for the retriever's rank; None where it cannot.

    It is known of what was shown, so it is there before the click; and it differs within a request.

    Args:
        rows: of ``frame_of``.
        exposed: the team's actions that are exposure; empty where there are none.
    """
    if not exposed:
        return None
    known, differ = rows.one(
        """SELECT avg((__place IS NOT NULL)::INT), count(DISTINCT __place)
           FROM log WHERE list_contains($1::VARCHAR[], __action)""",
        [list(exposed)],
    )
    if (known or 0.0) < 0.9 or differ < 3:
        return None
    return (
        f"known of {known:.0%} of what was shown, so before any click: it is what the ranking "
        "before this one said"
    )
