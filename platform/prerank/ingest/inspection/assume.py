"""What `prerank run` takes for granted of a log for which it was given no mapping.

Only what is not ambiguous: columns that have another name, with one good candidate; views of a log
without impressions; a label window that does not leave out much of a short log. A log that has the
platform's names and none of this gets the mapping without any setting, as if nobody had looked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prerank.core.errors import ConfigError
from prerank.core.files import publish, remove
from prerank.core.home import Home
from prerank.ingest.inspection.columns import Column
from prerank.ingest.inspection.look import Inspection, inspect
from prerank.ingest.inspection.proposal import (
    Proposal,
    candidate_features_of,
    graph_of,
    segments_of,
    time_unit,
)
from prerank.ingest.inspection.roles import TIMES, Choices, column_of
from prerank.ingest.inspection.sample import MAX_BYTES
from prerank.ingest.inspection.window import DEFAULT, best_of
from prerank.ingest.mapping import LogMapping, load_mapping
from prerank.ingest.sources import raw_files

FILE = "assumed-mapping.yaml"
MUCH = 0.1
"""Share of the requests that the default window may leave out before a shorter one is assumed."""
_ASSUMED = ("user_id", "query", "item_id", "action", "request_id", "position")
_OF_ITEMS = ("item_id", "title", "category")


@dataclass(frozen=True)
class Assumed:
    """What is assumed.

    Attributes:
        proposal: only the settings that differ from a log of the platform's names.
        said: each assumption in a line, then what could be used and is not.
    """

    proposal: Proposal
    said: tuple[str, ...] = ()

    @property
    def mapping(self) -> LogMapping:
        """As the pipeline takes it."""
        return self.proposal.mapping()


@dataclass
class _Notes:
    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def assume(self, key: str, value: Any, why: str) -> None:
        section, _, name = key.rpartition(".")
        place = self.settings.setdefault(section, {}) if section else self.settings
        place[name] = value
        self.reasons[key] = why
        self.said.append(f"assumed `{key}: {value}`: {why}")


def mapping_of_home(
    home: Home, events: str | Path, items: str | Path, say: Callable[[str], None] = print
) -> LogMapping:
    """The mapping of a log for which none was given; ``say`` is told each assumption.

    It is written to the home as FILE. A home that holds a log already keeps the one that it was
    read by: what a grown log looks like must not change how its earlier part is read.

    Args:
        home: of the log.
        events, items: of ``inspect``.
        say: takes a line.

    Raises:
        ConfigError, DataError, NotReadyError: as ``inspect`` does.
    """
    file = home.root / FILE
    if home.manifest.exists():
        if not file.exists():
            return LogMapping()
        say(f"mapping: {file}, as assumed before")
        return load_mapping(file)
    remove(file)
    found = assumed(events, items)
    for line in found.said:
        say(line)
    if found.proposal.settings:
        heading = f"Assumed by `prerank run` for {events}, which was given no mapping."
        file.write_text(found.proposal.to_yaml(heading), encoding="utf-8")
        publish(file)
        say(f"written to {file}: for new days of this log, give it with --mapping")
    return found.mapping


def assumed(events: str | Path, items: str | Path, now_us: int | None = None) -> Assumed:
    """Look at a log, and say what is assumed of it.

    A log that would have to be copied first, and is large, is not looked at.

    Args:
        events, items, now_us: of ``inspect``.

    Raises:
        ConfigError, DataError, NotReadyError: as ``inspect`` does.
    """
    raws, _ = raw_files(events, "events")
    copied = [raw.size for raw in raws if not raw.is_ready]
    if copied and min(copied) > MAX_BYTES:
        said = "the log is large and was not looked at: `prerank inspect` writes a mapping for it"
        return Assumed(Proposal({}, {}), (said,))
    return assumptions(inspect(events, items, now_us))


def assumptions(found: Inspection) -> Assumed:
    """What is assumed of a log that was looked at."""
    notes = _Notes()
    if not found.is_ubi:
        _columns(found, notes)
    _views(found, notes)
    _window(found, notes)
    if notes.settings:
        # A later day's events lie elsewhere, and are the same log.
        notes.settings = {"name": found.name, **notes.settings}
    _unused(found, notes)
    try:
        LogMapping.model_validate(notes.settings)
    except ValueError as error:
        raise ConfigError(f"no mapping could be assumed for {found.name}: {error}") from None
    return Assumed(Proposal(notes.settings, notes.reasons), tuple(notes.said))


def _columns(found: Inspection, notes: _Notes) -> None:
    present = {c.name for c in found.columns}
    for role in (*_ASSUMED, *TIMES):
        _column(found.roles, role, present, "events", notes)
    named = {c.name for c in found.catalogue_columns}
    for role in _OF_ITEMS:
        _column(found.catalogue.choices, role, named, "items", notes)
    unit = time_unit(found)
    if unit and _has_numbers(found):
        notes.assume("time_unit", unit, "its times are numbers, which it brings to recent years")


def _column(choices: Choices, role: str, present: set[str], section: str, notes: _Notes) -> None:
    """Assume the column of a role, where none has the role's name and one is good."""
    choice = choices.get(role)
    if role in present or choice is None or choice.column is None or choice.confidence == "guess":
        return
    notes.assume(f"{section}.{role}", choice.column, choice.why)


def _has_numbers(found: Inspection) -> bool:
    """Whether a time that ingest would read is a column of numbers."""
    columns: dict[str, Column] = {c.name: c for c in found.columns}
    read = [column_of(found.roles, role) for role in TIMES]
    of_items = {c.name: c for c in found.catalogue_columns}
    created = of_items.get("created_at")
    among = [columns[name] for name in read if name] + ([created] if created else [])
    return any(c.kind in ("integer", "number") for c in among)


def _views(found: Inspection, notes: _Notes) -> None:
    """Where nothing says what was shown, a view is the opening of a page."""
    if found.has_impressions:
        return
    views = [a for a in found.actions if a.name == "view" and not a.passive]
    if views:
        why = f"the log has no impressions, so that a view is an engagement ({views[0].why})"
        notes.assume("passive", ["impression"], why)


def _window(found: Inspection, notes: _Notes) -> None:
    """A day's window leaves out much of a log of a few days."""
    best = best_of(found.windows)
    usual = next((w for w in found.windows if w.hours == DEFAULT), None)
    if best is None or usual is None or best.hours >= DEFAULT or usual.left_out <= MUCH:
        return
    why = (
        f"{DEFAULT} h would leave out {usual.left_out:.0%} of the requests; {best.hours} h keeps "
        f"{best.kept:.1%} of the engagements and leaves out {best.left_out:.0%}"
    )
    notes.assume("label_window_hours", best.hours, why)


def _unused(found: Inspection, notes: _Notes) -> None:
    """Columns that could be used, which is for a person to say."""
    advice = "see `prerank inspect`"
    if segments := segments_of(found):
        notes.said.append(f"not used: {', '.join(segments)} could be `segments` ({advice})")
    if own := candidate_features_of(found):
        notes.said.append(f"not used: {', '.join(own)} could be `candidate_features` ({advice})")
    if why := graph_of(found):
        notes.said.append(f"not used: neighbours of items, `graph: true` ({why}; {advice})")
    catalogue = found.catalogue
    if catalogue.numeric:
        names = ", ".join(catalogue.numeric)
        notes.said.append(f"not used: {names} could be `items.numeric` ({advice})")
    if catalogue.embedding:
        notes.said.append(f"not used: {catalogue.embedding} could be `items.embedding` ({advice})")
    if found.rank_by_place is not None:
        notes.said.append(f"not used: position could be `retriever_rank` ({advice})")
    for fault in found.faults:
        notes.said.append(f"look at this: {fault}")
