"""The mapping that follows from an inspection, and its YAML with the reasons."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from prerank.ingest.inspection.actions import passive_of, renamed
from prerank.ingest.inspection.look import EARLIER, Inspection
from prerank.ingest.inspection.roles import NEEDED, TIMES, column_of
from prerank.ingest.inspection.window import best_of, said
from prerank.ingest.mapping import LogMapping, TimeUnit

MAX_SEGMENTS = 6
"""A query tower takes them all, but a log's narrow columns are mostly not about the searcher."""
MAX_CANDIDATE_FEATURES = 12
"""A caller must send them all with each candidate."""
RETURNING = 0.5
"""Share of engagements of users who came back from which neighbours of items are worth it."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_WORDS = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n"])


@dataclass(frozen=True)
class Proposal:
    """A mapping, and why it is so.

    Attributes:
        settings: as YAML has them.
        reasons: dotted key -> comment of one line.
    """

    settings: dict[str, Any]
    reasons: dict[str, str]

    def mapping(self) -> LogMapping:
        """The mapping as the platform reads it."""
        return LogMapping.model_validate(self.settings)

    def to_yaml(self, heading: str) -> str:
        """The mapping as a commented YAML file, under a comment of one line."""
        lines = [f"# {heading}"]
        for key, value in self.settings.items():
            lines += ["", *self._reason(key, "")]
            if isinstance(value, dict):
                lines.append(f"{key}:")
                for name, inner in value.items():
                    lines += self._reason(f"{key}.{name}", "  ")
                    lines.append(f"  {_scalar(name)}: {_value(inner)}")
            else:
                lines.append(f"{key}: {_value(value)}")
        return "\n".join(lines) + "\n"

    def _reason(self, key: str, indent: str) -> list[str]:
        reason = self.reasons.get(key)
        return [f"{indent}# {' '.join(reason.split())}"] if reason else []


def proposal(found: Inspection) -> Proposal:
    """The mapping that ``prerank run --mapping`` takes as it is."""
    settings: dict[str, Any] = {"name": found.name}
    reasons: dict[str, str] = {}
    if not found.is_ubi and (unit := time_unit(found)):
        settings["time_unit"] = unit
        reasons["time_unit"] = "of times that are numbers"
    if not found.is_ubi:
        settings["events"] = _events(found, reasons)
        if column_of(found.roles, "action") is None:
            settings["action"] = "click"
            reasons["action"] = "No column says what was done: every row is taken for a click."
    settings["items"] = _items(found, reasons)
    _add_actions(found, settings, reasons)
    segments = segments_of(found)
    if segments and not found.is_ubi:
        settings["segments"] = segments
        reasons["segments"] = "About the searcher: each costs a count per item and value. " + (
            "; ".join(f"{o.column}: {o.why}" for o in found.others if o.column in segments)
        )
    own = candidate_features_of(found)
    if own and not found.is_ubi:
        settings["candidate_features"] = own
        reasons["candidate_features"] = (
            "Known of an item when it is ranked, and to be sent with each candidate. Take out what "
            "is not. " + "; ".join(f"{o.column}: {o.why}" for o in found.others if o.column in own)
        )
    if why := graph_of(found):
        settings["graph"] = True
        reasons["graph"] = f"Neighbours of items as features: {why}."
    best = best_of(found.windows)
    if best is not None:
        settings["label_window_hours"] = best.hours
        reasons["label_window_hours"] = "; ".join(said(found.windows, best))
    return Proposal({k: v for k, v in settings.items() if v != {}}, reasons)


def segments_of(found: Inspection) -> list[str]:
    """Columns about the searcher, the surest first."""
    order = ("certain", "likely", "guess")
    good = [o for o in found.others if o.use == "segment" and o.confidence != "guess"]
    return [o.column for o in sorted(good, key=lambda o: order.index(o.confidence))][:MAX_SEGMENTS]


def candidate_features_of(found: Inspection) -> list[str]:
    """Columns of numbers about an item in a request."""
    names = [o.column for o in found.others if o.use == "candidate"]
    return names[:MAX_CANDIDATE_FEATURES]


def graph_of(found: Inspection) -> str:
    """Why neighbours of items are worth their cost; empty where they are not, or nobody knows.

    They find what neither the query nor the user has met, so they need users of whom much is known,
    and candidates that nobody chose before (decision 32).
    """
    if found.has_impressions or found.returning < RETURNING:
        return ""
    return (
        f"{found.returning:.0%} of the engagements are of users with {EARLIER} or more before, and "
        "every item is a candidate"
    )


def time_unit(found: Inspection) -> TimeUnit | None:
    """The unit of times that are numbers; of several the request's."""
    columns = {c.name: c for c in found.columns}
    for role in TIMES:
        name = column_of(found.roles, role)
        if name is not None and columns[name].unit is not None:
            return columns[name].unit
    return _created_unit(found)


def _created_unit(found: Inspection) -> TimeUnit | None:
    name = column_of(found.catalogue.choices, "created_at")
    return next((c.unit for c in found.catalogue_columns if c.name == name), None)


def _events(found: Inspection, reasons: dict[str, str]) -> dict[str, str | None]:
    settings: dict[str, str | None] = {}
    names = {c.name for c in found.columns}
    for role, choice in found.roles.items():
        if choice.column is None:
            if role in names:
                settings[role] = None
                reasons[f"events.{role}"] = choice.why
            continue
        settings[role] = choice.column
        reasons[f"events.{role}"] = f"{choice.confidence}: {choice.why}"
    if found.rank_by_place is not None:
        settings["retriever_rank"] = column_of(found.roles, "position")
        reasons["events.retriever_rank"] = (
            f"guess: the position is {found.rank_by_place}. It also draws clicks by itself: take "
            "the line out where the position is not known at the time of ranking."
        )
    return settings


def _items(found: Inspection, reasons: dict[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    names = {c.name for c in found.catalogue_columns}
    for role, choice in found.catalogue.choices.items():
        reason = f"{choice.confidence}: {choice.why}"
        if choice.column is None or (role == "created_at" and not _in_unit(found)):
            reason = choice.why if choice.column is None else "in another unit than the log's times"
            if role not in names:
                continue
            settings[role] = None
        else:
            settings[role] = choice.column
        reasons[f"items.{role}"] = reason
    if numeric := list(found.catalogue.numeric):
        settings["numeric"] = numeric
        reasons["items.numeric"] = "Numbers about the item. Take out what changes with its clicks."
    if found.catalogue.embedding:
        settings["embedding"] = found.catalogue.embedding
        reasons["items.embedding"] = "a vector per item"
    return settings


def _in_unit(found: Inspection) -> bool:
    unit = _created_unit(found)
    return unit is None or unit == time_unit(found)


def _add_actions(found: Inspection, settings: dict[str, Any], reasons: dict[str, str]) -> None:
    actions = list(found.actions)
    if not actions:
        return
    if names := renamed(actions):
        settings["actions"] = names
        reasons["actions"] = "Your action -> its name here. Any other action is an error."
        for action in actions:
            reasons[f"actions.{action.name}"] = f"{action.rows:,} rows"
    settings["passive"] = list(passive_of(actions))
    engaged = ", ".join(a.canonical for a in actions if not a.passive)
    reasons["passive"] = f"Exposure. Engagements are the others: {engaged or 'none'}."
    if not found.has_impressions:
        reasons["passive"] += " The log does not say what was shown: negatives will be sampled."


def lacking(found: Inspection) -> list[str]:
    """What a mapping must still name by hand."""
    if found.is_ubi:
        return []
    needed = [r for r in NEEDED if r != "action" and column_of(found.roles, r) is None]
    return needed + ["timestamp"] * (column_of(found.roles, *TIMES) is None)


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A text or number as YAML; in quotes where YAML would take a text for something else."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())
