"""Which actions are exposure and which are engagement: by name, unless the numbers contradict.

What was shown stands at the time of its request, several rows a request, and nearly everything
that was engaged was shown before. A log of touches alone may call them views or images all the
same: they are then engagements, as there is nothing else to learn from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from interactrank.features.schema import ENGAGE
from prerank.ingest.inspection.roles import Confidence
from prerank.ingest.inspection.tables import Rows

IMPRESSION = "impression"
SHOWN = re.compile(
    r"impress|^(shown?|seen|served|displayed?|exposures?|exposed|rendered|view_item_list)$",
    re.IGNORECASE,
)
VIEWED = re.compile(r"view", re.IGNORECASE)
ENGAGED = re.compile(
    r"click|buy|bought|purchas|order|cart|save|like|favou?rite|pin|share|download|book|play|watch"
    r"|rat(e|ing)|select|open|convert|conversion|checkout|tag|comment|repl",
    re.IGNORECASE,
)
AT_ONCE_US = 5_000_000
"""What happens so soon after its request was not done by its user: pages report what they show."""
SEVERAL, AT_ONCE, COVERS, HARDLY = 2.0, 0.9, 0.5, 0.2
"""Rows a request, share at the request's time, and share of what was engaged that was shown too,
from which an action looks like exposure; and the share below which it cannot be."""


@dataclass(frozen=True)
class Action:
    """An action of a log.

    Attributes:
        name: as the team has it.
        rows: with it; share: of all rows.
        requests: that have it. per_request: rows of such a request, on average.
        delay_s: median seconds after the request. at_once: share of rows within seconds of it.
        covers: share of the other actions' items that have this action in their request too.
        passive: it is exposure.
        confidence, why: how sure that is, and the evidence.
        canonical: its name here.
    """

    name: str
    rows: int
    share: float
    requests: int = 0
    per_request: float = 0.0
    delay_s: float = 0.0
    at_once: float = 0.0
    covers: float = 0.0
    passive: bool = False
    confidence: Confidence = "guess"
    why: str = "not among the rows that were looked at"
    canonical: str = ""


def actions_of(rows: Rows, counts: Mapping[str, int]) -> list[Action]:
    """The actions of a frame, most frequent first, judged and named.

    Args:
        rows: of ``frame_of``.
        counts: rows of each action in the whole log, where it was counted; else empty.
    """
    found = _measured(rows, counts)
    judged = [_judged(a, found) for a in found]
    if judged and all(a.passive for a in judged) and not any(_literal(a) for a in judged):
        # Without an engagement there is nothing to learn; the rarest is the likeliest one.
        last = replace(judged[-1], passive=False, confidence="guess", why="the rarest action")
        judged = [*judged[:-1], last]
    return _canonical(judged)


def has_impressions(actions: list[Action]) -> bool:
    """Whether the log says what was shown."""
    return any(a.canonical == IMPRESSION for a in actions)


def passive_of(actions: list[Action]) -> tuple[str, ...]:
    """Canonical names of exposure, ``impression`` first."""
    names = {a.canonical for a in actions if a.passive}
    return tuple(sorted(names, key=lambda name: (name != IMPRESSION, name)))


def renamed(actions: list[Action]) -> dict[str, str]:
    """Team's action -> its name here; empty where all keep theirs."""
    if all(a.name == a.canonical for a in actions):
        return {}
    return {a.name: a.canonical for a in actions}


def _measured(rows: Rows, counts: Mapping[str, int]) -> list[Action]:
    groups = rows.ask(
        """SELECT __action, sum(n), count(*), avg(n) FROM (
               SELECT __action, __request, count(*) AS n FROM log
               WHERE __action <> '' GROUP BY ALL) GROUP BY __action"""
    )
    delays = {
        name: (median, at_once)
        for name, median, at_once in rows.ask(
            """SELECT __action, median(__happened - __asked) / 1e6,
                   avg((__happened - __asked <= $1)::INT) FROM log GROUP BY __action""",
            [AT_ONCE_US],
        )
    }
    seen = {name: int(n) for name, n, *_ in groups}
    rare = {name: n for name, n in counts.items() if name and name not in seen}
    total = sum({**seen, **counts}.values())
    found = [Action(name, n, n / total) for name, n in rare.items()]
    for name, n, requests, each in groups:
        known = counts.get(name, int(n))
        median, at_once = (float(v or 0.0) for v in delays[name])
        action = Action(name, known, known / total, int(requests), float(each), median, at_once)
        found.append(replace(action, covers=_covers(rows, name) if each >= 1.0 else 0.0))
    return sorted(found, key=lambda a: (-a.rows, a.name))


def _covers(rows: Rows, action: str) -> float:
    (share,) = rows.one(
        """SELECT avg(shown::INT) FROM (
               SELECT bool_or(__action = $1) AS shown, bool_or(__action <> $1) AS other
               FROM log GROUP BY __request, __item) WHERE other""",
        [action],
    )
    return float(share or 0.0)


def _judged(action: Action, among: list[Action]) -> Action:
    """The action with what it is and why."""
    if not action.requests:
        return replace(action, passive=_literal(action))
    alone = len(among) == 1
    most = action.rows == among[0].rows
    several = action.per_request >= SEVERAL
    looks_shown = several and action.at_once >= AT_ONCE and most and action.covers >= COVERS
    each = f"{action.per_request:.1f} a request, {_after(action)}"
    numbers = f"{each}, {action.covers:.0%} of what was engaged has one"
    if _literal(action):
        return replace(action, passive=True, confidence="certain", why=f"named so; {numbers}")
    if alone:
        return replace(action, confidence="certain", why="the only action")
    if SHOWN.search(action.name):
        if action.covers < HARDLY:
            why = f"its name says shown, but the numbers contradict: {numbers}"
            return replace(action, confidence="likely", why=why)
        sure: Confidence = "certain" if looks_shown else "likely"
        return replace(action, passive=True, confidence=sure, why=f"by its name; {numbers}")
    if VIEWED.search(action.name):
        if looks_shown:
            why = f"what is on the page; {numbers}"
            return replace(action, passive=True, confidence="likely", why=why)
        sure = "likely" if several and action.covers >= COVERS else "certain"
        return replace(action, confidence=sure, why=f"a page that was opened; {each}")
    if ENGAGED.search(action.name):
        return replace(action, confidence="certain", why=f"by its name; {each}")
    if looks_shown:
        return replace(action, passive=True, confidence="guess", why=f"not by name: {numbers}")
    return replace(action, confidence="likely", why=each)


def _literal(action: Action) -> bool:
    return action.name.lower() in (IMPRESSION, "impressions")


def _after(action: Action) -> str:
    if action.delay_s == 0:
        return "at the request's time"
    return f"{seconds(action.delay_s)} after it"


def seconds(number: float) -> str:
    """Seconds for people: "4 s", "3.5 min", "2.0 h", "1.5 days"."""
    size = abs(number)
    for limit, unit, each in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if size < limit:
            return f"{number / each:.0f} {unit}" if unit == "s" else f"{number / each:.1f} {unit}"
    return f"{number / 86_400:.1f} days"


def _canonical(actions: list[Action]) -> list[Action]:
    """Names that the platform can use; the most frequent exposure is ``impression``."""
    shown = [a.name for a in actions if a.passive]
    literal = [n for n in shown if n == IMPRESSION] or [n for n in shown if n.lower() == IMPRESSION]
    first = next(iter(literal or shown), None)
    taken: dict[str, Any] = {}
    found = []
    for action in actions:
        plain = re.sub(r"[^A-Za-z0-9_.\-]+", "_", action.name.strip()).strip("_") or "action"
        if plain == ENGAGE:
            plain = f"{ENGAGE}ment"
        name = IMPRESSION if action.name == first else plain
        while name in taken or (name == IMPRESSION and action.name != first):
            name += "_"
        taken[name] = True
        found.append(replace(action, canonical=name))
    return found
