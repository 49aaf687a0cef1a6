"""The event-log contract: how a team's columns become the canonical event log and catalogue.

A ``LogMapping`` comes from a small YAML file (``examples/``). Where a log already bears the
canonical names no file is needed: every field then falls back to the column of its own name, and a
plain ``timestamp`` counts as the only time.

Canonical event (one row per request x item x action)::

    request_id str | request_time, event_time timestamp[us, UTC] | user_id str | query str
    item_id int64  | action str | position int32, nullable | event_id int64
    known_time timestamp[us, UTC] | segments: str
    where mapped: retriever_score float32, retriever_rank int32, l2_score float32, nullable
    candidate features: candidate_<name> float32, nullable
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from interactrank.features.schema import CANDIDATE_PREFIX, ENGAGE, SESSION_GAP_MINUTES
from prerank.core.manifest import FULL_RANKER, RETRIEVER
from prerank.core.settings import read_yaml, typed
from prerank.ingest.mapping_columns import (
    EventColumns,
    ItemColumns,
    Resolved,
    Strict,
    column_of,
    distinct,
    require,
)

TimeUnit = Literal["s", "ms", "us", "ns"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]+$")]
"""Actions, heads and candidate features name columns, metrics and fields of a request, so they keep
to letters, digits and ``_ . -``."""

CANONICAL = (
    "request_id",
    "request_time",
    "event_time",
    "user_id",
    "query",
    "item_id",
    "action",
    "position",
    "event_id",
    "known_time",
)
"""Event columns in the order in which they are written; segments, RETRIEVER, FULL_RANKER and the
candidate features follow.
``known_time`` is the platform's own: from when on an event may be counted
(``prerank.ingest.existing``)."""


DEFAULT_WEIGHTS = {"long_click": 20.0, "save": 7.0, "click": 1.0, "impression": 5.0}
"""Row weights of the paper's reference code, by first match. Defaults, not law."""

ENGAGEMENT = "engagement"


class ValidFrom(Strict):
    """When an attribute became known; earlier requests see it as missing."""

    title: AwareDatetime | None = None
    category: AwareDatetime | None = None
    embedding: AwareDatetime | None = None


class LogMapping(Strict):
    """A team's log in the platform's terms. Every field has a default.

    Attributes:
        name: data set name in reports; the stem of the events path when left out.
        time_unit: unit of integer times; needed when a time column is numeric.
        actions: team's action -> canonical action. When given, any other action is an error.
        action: the action of every row, for a log that has no action column.
        segments: columns kept as text, by which counts are also made (country, device ...).
        candidate_features: columns of numbers that are known of an item when it is ranked for a
            request (price, distance ...), and that callers will send.
        exposure: count what requests showed, weighed by position, and set engagement against it.
        graph: find items that the same users, queries and words led to, as features.
        session_gap_minutes: a user who did nothing for longer has begun another session.
        passive: actions that are exposure rather than engagement.
        heads: head -> actions that are a positive. The first is the ranking head.
        weights: row weight by action, first match; an action that is not listed weighs 1.
        ids: "auto" reads it off the data; "integer" or "string" settles it.
        hash_seed: seed of the item hash of string ids; change it when a collision is reported.
    """

    name: str | None = None
    events: EventColumns = EventColumns()
    items: ItemColumns = ItemColumns()
    time_unit: TimeUnit | None = None
    actions: dict[str, Name] | None = Field(default=None, min_length=1)
    action: Name | None = None
    segments: tuple[str, ...] = ()
    candidate_features: tuple[Name, ...] = ()
    exposure: bool = False
    graph: bool = False
    session_gap_minutes: int = Field(default=SESSION_GAP_MINUTES, ge=1, le=1440)
    passive: tuple[Name, ...] = ("impression", "view")
    heads: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1)]] | None = Field(
        default=None, min_length=1
    )
    weights: dict[Name, Annotated[float, Field(ge=0)]] = Field(default_factory=DEFAULT_WEIGHTS.copy)
    label_window_hours: float = Field(default=24.0, gt=0)
    valid_from: ValidFrom = ValidFrom()
    ids: Literal["auto", "integer", "string"] = "auto"
    hash_seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _consistent(self) -> LogMapping:
        # SQL does not tell the case of a column's name apart.
        own = [name.lower() for name in self.candidate_features]
        folded = [*(name.lower() for name in self.segments), *own]
        written = {CANDIDATE_PREFIX + name for name in own}
        distinct(folded, {*CANONICAL, *RETRIEVER, FULL_RANKER, *written, "day", "timestamp"})
        if self.action and (self.actions or self.events.action):
            raise ValueError("give either a constant `action` or an action column, not both")
        for head, actions in (self.heads or {}).items():
            exposed = sorted(set(actions) & set(self.passive))
            if exposed:
                raise ValueError(f"head {head!r} lists {exposed[0]!r}, which is passive")
        if ENGAGE in {self.action, *(self.actions or {}).values()}:
            raise ValueError(f"{ENGAGE!r} is reserved for the sum of all engagements")
        return self

    def event_columns(self, present: Sequence[str], where: str) -> Resolved:
        """Columns to read from a log that has the columns ``present``.

        Raises:
            ConfigError: a needed or a mapped column is missing.
        """
        needed = ["user_id", "query", "item_id", *([] if self.action else ["action"])]
        found = {n: column_of(self.events, n, present, where, needed=True) for n in needed}
        for name in ("request_id", "position", "event_id", *RETRIEVER, FULL_RANKER):
            found[name] = column_of(self.events, name, present, where)
        asked = column_of(self.events, "request_time", present, where)
        happened = column_of(self.events, "event_time", present, where)
        if self.events.timestamp or not (asked or happened):
            only = column_of(self.events, "timestamp", present, where, needed=True)
            asked = happened = only
        single = not (asked and happened) or asked == happened
        found["request_time"], found["event_time"] = asked or happened, happened or asked
        for name in self.segments:
            require(name, name, present, where, "segments")
            found[name] = name
        for name in self.candidate_features:
            require(name, name, present, where, "candidate_features")
            found[CANDIDATE_PREFIX + name] = name
        return Resolved({k: v for k, v in found.items() if v}, single)

    def item_columns(self, present: Sequence[str], where: str) -> dict[str, str]:
        """Catalogue columns to read; a ``title`` may be absent, the id may not.

        Raises:
            ConfigError: item_id or a mapped column is missing.
        """
        found = {"item_id": column_of(self.items, "item_id", present, where, needed=True)}
        for name in ("title", "category", "created_at"):
            found[name] = column_of(self.items, name, present, where)
        for name in self.items.numeric:
            require(name, name, present, where, "items.numeric")
            found[name] = name
        for name in self.items.embedding:
            require(name, name, present, where, "items.embedding")
            found[name] = name
        return {k: v for k, v in found.items() if v}

    def heads_of(self, occurring: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Heads, ranking head first, cut down to the actions that occur; empty heads go."""
        engagements = tuple(sorted(set(occurring) - set(self.passive)))
        wanted = self.heads or {
            ENGAGEMENT: engagements,
            "save": ("save",),
            "long_click": ("long_click",),
        }
        cut = {h: tuple(a for a in acts if a in occurring) for h, acts in wanted.items()}
        return {head: actions for head, actions in cut.items() if actions}

    def weights_of(self, occurring: Collection[str]) -> dict[str, float]:
        """Row weight of each action that occurs, in the order of the match."""
        rest = sorted(set(occurring) - set(self.weights))
        # An action that is not listed outranks mere exposure, whose weight is a row's last resort.
        engaged = [a for a in (*self.weights, *rest) if a not in self.passive]
        exposed = [a for a in (*self.weights, *rest) if a in self.passive]
        return {a: self.weights.get(a, 1.0) for a in (*engaged, *exposed) if a in occurring}

    def valid_from_of(self) -> dict[str, str]:
        """Attribute -> ISO time in UTC, for the attributes that declare one."""
        declared: dict[str, datetime | None] = dict(self.valid_from)
        return {
            name: at.astimezone(UTC).isoformat().replace("+00:00", "Z")
            for name, at in declared.items()
            if at is not None
        }


def load_mapping(path: Path | None) -> LogMapping:
    """Read a mapping; ``None`` is the mapping of a log that bears the canonical names.

    Raises:
        ConfigError: the file is missing, is not YAML, or a key or value is wrong (it is named).
    """
    if path is None:
        return LogMapping()
    return typed(LogMapping, read_yaml(path, "The mapping"), what=f"The mapping {path} is wrong")
