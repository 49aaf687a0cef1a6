"""Which column of a log is what: by name, by what it holds, and by what its rows have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow.compute as pc

from prerank.core.sql import quoted
from prerank.ingest.inspection.columns import Column
from prerank.ingest.inspection.names import (
    ALIKE,
    CANONICAL,
    PART,
    SESSION,
    STRONG,
    strength,
)
from prerank.ingest.inspection.tables import Rows, grouping, times

Confidence = Literal["certain", "likely", "guess"]
ROLES = (
    "request_time",
    "event_time",
    "timestamp",
    "request_id",
    "user_id",
    "query",
    "item_id",
    "action",
    "position",
    "event_id",
    "retriever_score",
    "retriever_rank",
)
NEEDED = ("user_id", "query", "item_id", "action")
TIMES = ("request_time", "event_time", "timestamp")
MAX_ACTIONS = 100
MAX_PLACE = 100_000
IN_ORDER = 0.99
"""Share of rows in which one time is not before another, so that it is the later one of the two."""
_ACTION_WORDS = (
    "impression impressions view click clicks purchase buy cart add_to_cart save like "
    "order favorite wishlist download share conversion checkout select open play"
)
KNOWN_ACTIONS = frozenset(_ACTION_WORDS.split())


@dataclass(frozen=True)
class Choice:
    """The column of a role.

    Attributes:
        column: of the team; None where a column of the role's own name is not what it says.
        confidence: how sure that is.
        why: the evidence in one line.
    """

    column: str | None
    confidence: Confidence
    why: str


Choices = dict[str, Choice]


def column_of(found: Choices, *roles: str) -> str | None:
    """The column of the first of some roles that has one."""
    for role in roles:
        choice = found.get(role)
        if choice is not None and choice.column is not None:
            return choice.column
    return None


def chosen(rows: Rows, columns: Sequence[Column]) -> Choices:
    """The roles of a log's columns; a role for which there is no column is left out."""
    found = by_name(ROLES, columns, fits)
    _by_values(found, columns)
    _settle_times(found, rows, columns)
    _settle_request_id(found, rows, columns)
    return {role: found[role] for role in ROLES if role in found}


def by_name(
    roles: Sequence[str], columns: Sequence[Column], fit: Callable[[str, Column], bool]
) -> Choices:
    """The best column by name of each role, among those that hold what ``fit`` says it must."""
    scored = [
        (-strength(column.name, role), order, at)
        for order, role in enumerate(roles)
        for at, column in enumerate(columns)
        if strength(column.name, role) and (_own(column, role) or fit(role, column))
    ]
    found: Choices = {}
    taken: set[int] = set()
    for negative, order, at in sorted(scored):
        role, column = roles[order], columns[at]
        if role in found or at in taken:
            continue
        rivals = [
            columns[other].name
            for score, o, other in scored
            if o == order and score == negative and other not in (at, *taken)
        ]
        found[role] = _named(column, -negative, rivals)
        taken.add(at)
    return found


def _own(column: Column, role: str) -> bool:
    """Whether a column bears the platform's name, and so is read whatever it holds."""
    return column.name == role and column.kind != "empty"


def _named(column: Column, says: float, rivals: Sequence[str]) -> Choice:
    if rivals and says < CANONICAL:
        return Choice(column.name, "guess", f"{', '.join(rivals)} may be meant as well")
    if says >= ALIKE:
        return Choice(column.name, "certain", "named so")
    if says >= STRONG:
        return Choice(column.name, "certain", f"a usual name of it; {_holds(column)}")
    if says > PART:
        return Choice(column.name, "likely", f"by its name; {_holds(column)}")
    return Choice(column.name, "likely", f"by the end of its name; {_holds(column)}")


def _holds(column: Column) -> str:
    shown = ", ".join(map(repr, column.examples[:2]))
    return f"{column.distinct:,} values, such as {shown}" if shown else "no value"


def fits(role: str, column: Column) -> bool:
    """Whether what a column holds can have a role."""
    if column.kind in ("empty", "vector", "other"):
        return False
    if role in TIMES:
        return column.is_time
    if role == "action":
        return column.kind == "text" and column.distinct <= MAX_ACTIONS
    if role in ("position", "retriever_rank"):
        return column.kind == "integer" and column.low >= 0 and column.high <= MAX_PLACE
    if role == "retriever_score":
        return column.kind in ("integer", "number")
    if role == "event_id":
        return column.is_id and column.distinct >= 0.99 * column.rows
    if role == "query":
        return column.kind == "text"
    return column.is_id


def _by_values(found: Choices, columns: Sequence[Column]) -> None:
    """Roles that every log needs and that no name told."""
    taken = {choice.column for choice in found.values()}
    texts = [c for c in columns if c.kind == "text" and c.name not in taken]
    if "action" not in found:
        for column in texts:
            few = column.distinct <= MAX_ACTIONS
            words = {e.lower().replace(" ", "_") for e in column.examples}
            if few and words & KNOWN_ACTIONS:
                found["action"] = Choice(column.name, "likely", f"by its values; {_holds(column)}")
                texts.remove(column)
                break
    if "query" not in found:
        several = [c for c in texts if c.words > 1.2 and c.distinct > 1]
        if several:
            best = max(several, key=lambda c: c.distinct)
            why = f"the text with the most different phrases; {_holds(best)}"
            found["query"] = Choice(best.name, "guess", why)


def _settle_times(found: Choices, rows: Rows, columns: Sequence[Column]) -> None:
    """One time, or one of the request and one of the event."""
    if not any(role in found for role in TIMES):
        _find_time(found, columns)
        return
    only = found.pop("timestamp", None)
    told = [role for role in ("request_time", "event_time") if role in found]
    if only is None or len(told) == 2:
        return
    if not told:
        found["timestamp"] = only
        return
    (role,) = told
    also = found[role]
    pair = (only, also) if role == "event_time" else (also, only)
    if _in_order(rows, columns, *pair):
        sure: Confidence = "guess" if only.confidence == "guess" else "likely"
        if role == "event_time":
            why = f"the earlier one; {also.column} is not before it"
            found["request_time"] = Choice(only.column, sure, why)
        else:
            why = f"the later one; {also.column} is not after it"
            found["event_time"] = Choice(only.column, sure, why)


def _find_time(found: Choices, columns: Sequence[Column]) -> None:
    """A time that no name told."""
    taken = {choice.column for choice in found.values()}
    left = [c for c in columns if c.kind == "time" and c.name not in taken]
    if len(left) == 1:
        why = "the only column that holds times"
        found["timestamp"] = Choice(left[0].name, "likely", why)
    elif left:
        best = max(left, key=lambda c: c.distinct)
        names = ", ".join(c.name for c in left if c is not best)
        found["timestamp"] = Choice(best.name, "guess", f"of several; {names} may be meant as well")


def _in_order(rows: Rows, columns: Sequence[Column], first: Choice, last: Choice) -> bool:
    """Whether ``last`` is hardly ever before ``first``, and sometimes after it."""
    by_name = {c.name: c for c in columns}
    if first.column is None or last.column is None:
        return False
    a, b = (times(rows.table, by_name[name]) for name in (first.column, last.column))
    ordered = pc.mean(pc.less_equal(a, b).cast("float64")).as_py() or 0.0
    return bool(ordered >= IN_ORDER and pc.any(pc.less(a, b)).as_py())


def _settle_request_id(found: Choices, rows: Rows, columns: Sequence[Column]) -> None:
    """Refuse an id whose rows are of several searches; else look for one that no name told."""
    time = column_of(found, "request_time", "timestamp", "event_time")
    of_time = "request_time" if "request_time" in found else "time"
    told = {r: column_of(found, r) for r in ("user_id", "query")} | {of_time: time}
    same = {what: name for what, name in told.items() if name is not None}
    choice = found.get("request_id")
    if choice is None or choice.column is None:
        _find_request_id(found, rows, columns, same)
        return
    if not same:
        return
    mixed = grouping(rows, choice.column, list(same.values()))
    shares = [(mixed.mixed[name], what) for what, name in same.items()]
    # What has several users or queries has several times as well.
    share, what = max([s for s in shares if s[0] and s[1] in ("user_id", "query")] or shares)
    if share == 0.0:
        why = f"one {', one '.join(same)} each; {mixed.rows:.1f} rows, {mixed.groups:,} ids"
        found["request_id"] = replace(choice, why=why)
    else:
        why = f"{share:.1%} of {choice.column} have several values of {what}: no request"
        found["request_id"] = Choice(None, "certain", why)


def _find_request_id(
    found: Choices, rows: Rows, columns: Sequence[Column], same: Mapping[str, str]
) -> None:
    """The id whose rows have one user, query and time; ``same`` are their columns."""
    taken = {c.column for c in found.values()}
    if len(same) < 3:
        return
    for column in columns:
        if column.name in taken or not column.is_id or SESSION.search(column.name):
            continue
        if column.share < 0.99 or not 1 < column.distinct < 0.8 * column.rows:
            continue
        mixed = grouping(rows, column.name, list(same.values()))
        # A coarser one, of a user or a session, has several queries or times.
        if mixed.rows >= 1.5 and not any(mixed.mixed.values()):
            why = f"not by name: one {', one '.join(same)} each; {mixed.rows:.1f} rows"
            found["request_id"] = Choice(column.name, "guess", why)
            return


def sessions(rows: Rows, columns: Sequence[Column], found: Choices) -> list[tuple[str, str]]:
    """Columns of sessions by name, and how many searches one has."""
    query = found.get("query")
    if query is None or query.column is None:
        return []
    taken = {c.column for c in found.values()}
    said = []
    for column in columns:
        if column.name in taken or not SESSION.search(column.name) or not column.is_id:
            continue
        name, asked = quoted(column.name), quoted(query.column)
        (each,) = rows.one(
            f"SELECT avg(n) FROM (SELECT count(DISTINCT {asked}) AS n FROM log GROUP BY {name})"
        )
        said.append((column.name, f"a session: {each or 0:.1f} queries each, so no request"))
    return said
