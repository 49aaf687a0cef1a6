"""Names, dtypes and shapes of every feature: the one contract of the platform.

Training, batch evaluation and serving all derive what they read and write from
``FeatureSchema``. Nothing else names a feature.

Vocabulary
    level    a family of engagement keys, from exact to general: ``q`` the query, ``s`` the query
             within a segment of searchers (a country, a device), ``c`` the query without spaces,
             ``t`` its tokens, ``g`` its character 4-grams, ``a`` all queries
    column   one count of a packed engagement row, ``"<action>:<window>"``
    exposure how often items were shown, how many engagements their places would lead to, and how
             many of the shown were engaged; of logs whose impressions have positions
    cross    one feature of a (user, query, item) triple; enters the fusion beside the dot product
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

HISTORY_LENGTH = 100
"""Engagements kept per user (paper section on real-time user sequences: 100)."""

ENGAGE = "engage"
"""Pseudo-action: any engagement action of the log, counted together."""

EXPECTED, CLICKED, SHOWN = "exposure/expected", "exposure/clicked", "exposure/shown"
"""Pseudo-actions of exposure: an item that a request showed, weighted by how likely its position is
looked at; the same with weight 1, if it was engaged; and with weight 1 in any case.
"""

WINDOWS: dict[str, int | None] = {"7d": 7, "30d": 30, "all": None}
"""Window name -> days; None counts from the beginning of the log."""

ROW_VERSION = 1
"""Version of the packed engagement row's binary layout."""

HISTORY_TTL_DAYS = 730
"""A history whose last event is older than this is read as empty, online and offline alike."""

SESSION_GAP_MINUTES = 30
"""A user who did nothing for longer has begun another session: the usual gap of web analytics, and
that of a log which says nothing else."""


@dataclass(frozen=True)
class Level:
    """How one family of engagement keys is counted, capped and read.

    ``max_keys`` bounds the keys one request reads at this level, ``cap`` the items one row holds.
    ``windows`` end with "all". A ``daily`` level changes with the last snapshot of a day only: its
    rows are long and drift slowly. A ``segmented`` level has one key per segment column, and only
    logs that declare segments have it. ``exposed`` are the windows, the first of those of level
    ``a``, in which exposure is counted, where the log has it.
    """

    prefix: str
    max_keys: int
    cap: int
    windows: tuple[str, ...]
    per_action: bool = False
    daily: bool = False
    segmented: bool = False
    exposed: tuple[str, ...] = ()

    @property
    def rated(self) -> bool:
        """Whether exposure is counted over all time, and then also without propensities."""
        return "all" in self.exposed


LEVELS: tuple[Level, ...] = (
    Level("q", 1, 2000, ("7d", "30d", "all"), per_action=True, exposed=("30d", "all")),
    Level("s", 3, 200, ("30d", "all"), segmented=True),
    Level("c", 1, 500, ("30d", "all")),
    Level("t", 8, 500, ("7d", "30d", "all"), exposed=("30d",)),
    Level("g", 24, 256, ("7d", "30d", "all"), exposed=("30d",)),
    Level("a", 1, 2000, ("7d", "30d", "all"), daily=True, exposed=("30d", "all")),
)
MAX_KEYS_PER_REQUEST = 48
MAX_BYTES_PER_REQUEST = 256 * 1024

USER_CROSS: tuple[str, ...] = (
    "user:touched",
    "user:rank_recency",
    "user:decay_1m",
    "user:decay_1h",
    "user:decay_1d",
    "user:decay_30d",
    "user:count",
    "user:same_query",
)
"""User x item cross features, from the history that is in memory at request time.

``user:same_query``: the user found the item by this very query before. Who looks for something
again wants it; who has labelled an item does not give it the same label again.
"""

ITEM_CROSS = ("item:log_age_days", "item:age_unknown", "item:log_popularity")
SPARSE_CROSS = ("sparse:g:engage:all", "sparse:user:rank_recency")
GRAPH_CROSS = ("graph:user", "graph:query")
"""How near an item is to what the user, and to what searchers of the query, engaged with."""
COSINE_CROSS = ("cosine:user", "cosine:query")
"""How alike an item's vector is to those of what they engaged with."""
NEIGHBOURS = 64
"""Neighbours of an item that are kept."""
VECTOR_WIDTH = 64
"""Width of an item's vector in the graph (``interactrank.graph.vectors``)."""
FRESH_CROSS = ("fresh:q:engage:30d",)
"""A feature for items younger than FRESH_DAYS as of the request, else 0 (paper: fresh variant)."""
RETRIEVER_CROSS = {"score": ("score",), "rank": ("log_rank", "inverse_rank")}
ANCHOR_CROSS = ("anchor:next", "anchor:previous", "anchor:log_after", "anchor:log_before")
"""Where a candidate stands in the retriever's list, seen from the anchor: the item that the user
touched last, in this session. They go on reading from there.
"""
CANDIDATE_PREFIX = "candidate_"
"""Stands before a candidate feature's name among columns that are not all the caller's own."""

REQUEST_NUMERIC: tuple[str, ...] = (
    "query:log_total",
    "query:log_distinct",
    "query:recent_share",
    "query:sparsity",
    "query:log_tokens",
    "user:log_history",
    "user:log_minutes_since_last",
    "user:repeat_share",
)
"""Query and user statistics, computed once per request. ``user:repeat_share`` is the share of the
user's latest engagements that came back to an item of theirs: whether "touched before" speaks for
or against an item depends on the user.
"""


@dataclass(frozen=True)
class FeatureSchema:
    """The features that a log with these actions and heads has.

    Attributes:
        actions: every action of the log, passive ones included, in a fixed order; an action's code
            is its index.
        passive: actions that are exposure rather than engagement (impression, view).
        heads: prediction heads, the first is the ranking head unless request weights say otherwise.
        item_numeric: numeric columns of the item catalogue.
        item_embedding: its columns that hold a pre-computed embedding: one of vectors, or several
            of numbers.
        retriever: what the stage before says of each candidate, of "score" and "rank".
        segments: context columns of a request (country, device …). All are read by the query
            tower; level ``s`` counts by the first ``max_keys`` of them.
        candidate_features: further numbers that a caller gives of each candidate (price, distance
            …), by names of its own.
        exposure: whether it is known at which positions items were shown, and exposure is counted.
        graph: whether the features hold neighbours of items (``interactrank.features.neighbours``)
            and their vectors (``interactrank.features.item_vectors``).
        session_gap_minutes: a user who did nothing for longer has begun another session.
    """

    actions: tuple[str, ...]
    passive: tuple[str, ...]
    heads: tuple[str, ...]
    item_numeric: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    item_embedding: tuple[str, ...] = ()
    retriever: tuple[str, ...] = ()
    candidate_features: tuple[str, ...] = ()
    exposure: bool = False
    graph: bool = False
    session_gap_minutes: int = SESSION_GAP_MINUTES

    @property
    def session_gap_us(self) -> int:
        """The same in microseconds."""
        return self.session_gap_minutes * 60_000_000

    @property
    def engagements(self) -> tuple[str, ...]:
        """Actions that count as engagement."""
        return tuple(a for a in self.actions if a not in self.passive)

    @property
    def history_codes(self) -> dict[str, int]:
        """The code by which a user history holds each engagement action."""
        return {a: self.actions.index(a) for a in self.engagements}

    @property
    def engagement_view(self) -> str:
        """Name of the feature view of this schema's packed rows."""
        return f"engagement_{self.hash()}"

    @property
    def history_view(self) -> str:
        """Name of the feature view of user histories that mean what this schema's mean.

        Schemas whose engagement actions have the same codes share it: they differ in how a history
        is read, not in what it holds.
        """
        return f"user_history_{_digest({'codes': self.history_codes, 'length': HISTORY_LENGTH})}"

    @property
    def neighbours_view(self) -> str:
        """Name of the feature view of items' neighbours and vectors, of a schema with a graph."""
        return f"item_neighbours_{self.hash()}"

    def counted(self, level: Level) -> tuple[str, ...]:
        """Actions with columns of their own at ``level``; ``engage`` always comes first.

        None for a segmented level of a log without segments: it has no rows and no features.
        """
        if level.segmented and not self.segments:
            return ()
        # With one action, "engage" already is that action: a second copy would cost bytes only.
        single = len(self.actions) == 1
        return (ENGAGE, *self.actions) if level.per_action and not single else (ENGAGE,)

    def shares(self, level: Level) -> tuple[str, ...]:
        """The first columns of a packed row at ``level``, of which x has shares: action-major, then
        window.
        """
        return tuple(f"{a}:{w}" for a in self.counted(level) for w in level.windows)

    def exposures(self, level: Level) -> tuple[str, ...]:
        """The other columns of a packed row at ``level``; none of a log without exposure."""
        if not self.exposure:
            return ()
        pairs = tuple(f"{a}:{w}" for a in (EXPECTED, CLICKED) for w in level.exposed)
        return (*pairs, f"{SHOWN}:all") if level.rated else pairs

    def columns(self, level: Level) -> tuple[str, ...]:
        """Column names of a packed row at ``level``."""
        return (*self.shares(level), *self.exposures(level))

    def cap(self, level: Level) -> int:
        """Items that a row of ``level`` holds: with exposure, as many as fit the bytes of before.

        An item takes 8 bytes and 2 for each column.
        """
        shares = len(self.shares(level))
        return level.cap * (8 + 2 * shares) // (8 + 2 * len(self.columns(level)))

    @property
    def touch_actions(self) -> tuple[str, ...]:
        """Actions that ``user:touched`` is split by: none where there is but one to touch with."""
        return self.engagements if len(self.engagements) > 1 else ()

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the R numbers that a caller may give of each candidate, in their order."""
        return (*self.retriever, *(CANDIDATE_PREFIX + name for name in self.candidate_features))

    @property
    def given_cross(self) -> tuple[str, ...]:
        """Names of the last columns of x: what is given of a candidate, and what is not.

        Of a candidate feature there are two, side by side: its value, and whether it is absent.
        """
        retriever = [f"retriever:{name}" for r in self.retriever for name in RETRIEVER_CROSS[r]]
        absent = ["retriever:absent"] if retriever else []
        own = [(f"candidate:{n}", f"candidate:{n}:absent") for n in self.candidate_features]
        return (*retriever, *absent, *self.anchor_cross, *(name for pair in own for name in pair))

    @property
    def anchor_cross(self) -> tuple[str, ...]:
        """Names of the columns of x that compare a candidate's rank with the anchor's."""
        return ANCHOR_CROSS if "rank" in self.retriever else ()

    @property
    def exposure_cross(self) -> tuple[str, ...]:
        """Names of the columns of x that set engagement against exposure; by level."""
        if not self.exposure:
            return ()
        return tuple(
            f"{lv.prefix}:{name}"
            for lv in LEVELS
            for name in (*(f"coec:{w}" for w in lv.exposed), *(("ctr:all",) * lv.rated))
        )

    @property
    def graph_cross(self) -> tuple[str, ...]:
        """Names of the columns of x that say how near an item is; the last two are cosines."""
        return (*GRAPH_CROSS, *COSINE_CROSS) if self.graph else ()

    @property
    def cross(self) -> tuple[str, ...]:
        """Names of x's columns [X]: levels, user x item, item, sparsity, freshness, graph,
        exposure, given.
        """
        levels = [f"{lv.prefix}:{c}" for lv in LEVELS for c in self.shares(lv)]
        touched = [f"user:touched:{a}" for a in self.touch_actions]
        return (
            *levels,
            *USER_CROSS,
            *touched,
            *ITEM_CROSS,
            *SPARSE_CROSS,
            *FRESH_CROSS,
            *self.graph_cross,
            *self.exposure_cross,
            *self.given_cross,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``from_dict`` inverts it."""
        found = asdict(self)
        if not self.candidate_features:
            # As before there were any: a schema without them keeps its hash, and its models.
            del found["candidate_features"]
        for name in ("exposure", "graph"):
            if not found[name]:
                del found[name]
        if self.session_gap_minutes == SESSION_GAP_MINUTES:
            del found["session_gap_minutes"]
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FeatureSchema:
        """Rebuild from ``to_dict``'s form."""
        plain: dict[str, Any] = {
            name: bool(data.get(name, False)) for name in ("exposure", "graph")
        }
        plain["session_gap_minutes"] = int(data.get("session_gap_minutes", SESSION_GAP_MINUTES))
        names: dict[str, Any] = {k: tuple(v) for k, v in data.items() if k not in plain}
        return cls(**names | plain)

    def hash(self) -> str:
        """Sixteen hex digits over everything a model depends on; part of each model version."""
        parts = {
            "schema": self.to_dict(),
            "columns": {lv.prefix: (self.columns(lv), self.cap(lv), lv.max_keys) for lv in LEVELS},
            "cross": self.cross,
            "request": REQUEST_NUMERIC,
            "session": self.session_gap_minutes,
            "row": ROW_VERSION,
            "history": HISTORY_LENGTH,
        }
        if self.graph:
            # A snapshot without vectors is none of these.
            parts["vectors"] = VECTOR_WIDTH
        return _digest(parts)


def _digest(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
