"""What an ingest wrote down of a log: the manifest that every later stage reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from interactrank.features.schema import SESSION_GAP_MINUTES, FeatureSchema
from prerank.core.errors import StateError
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.ids import IdKind, ItemIds
from prerank.core.times import HOUR_US

VERSION = 3
"""Version of the manifest and of the canonical events."""

REMEDY = "use another --workdir, or start this one over with `prerank ingest --replace`."
NEWER: dict[str, Any] = {
    "candidate_features": [],
    "restated": "",
    "exposure": False,
    "graph": False,
    "full_ranker": False,
    "session_gap_minutes": SESSION_GAP_MINUTES,
}
"""Fields that are written only where they say something."""
FULL_RANKER = "l2_score"
"""Optional event column: what a full ranker says of an item in a request. A target, no feature."""
RETRIEVER = {"retriever_score": "score", "retriever_rank": "rank"}
"""Optional event columns, and what they are called in the feature schema."""


@dataclass(frozen=True)
class LogManifest:
    """The canonical log of a home, as the last ingest left it.

    Attributes:
        version: of the canonical events; ``VERSION``.
        dataset: the log's name.
        ids: whether item ids are integers or strings; ``hash_seed`` is the seed of string ids.
        actions: actions of the events, sorted; an action's code is its index.
        passive: those that are exposure rather than engagement.
        heads: head -> its positive actions. ``head_order``: the ranking head first.
        weights: action -> label weight. ``weight_order``: which weight an item with several gets.
        segments, numeric, embedding: columns that the mapping names.
        retriever: what the stage before says of a candidate, of "score" and "rank".
        valid_from: item attribute -> ISO time before which requests see it as missing.
        label_window_hours: engagements later than this after the request are no labels.
        single_time: the log has one time, so request and event times are equal.
        has_impressions: candidates are what was shown; else the whole catalogue.
        mapping: settings that must stay the same from ingest to ingest, as JSON.
        rows: of this ingest: "in", "out", "quarantined" and "duplicates"; and "forgotten", where
            some were dropped, since their users were.
        events: canonical events of the home, ``late`` of them after their snapshot.
        requests, users, queries, items: distinct ones. ``items_absent``: in no catalogue.
        requests_per_day: ISO day -> requests of that day.
        first_time, last_time: ISO, of the events.
        fingerprint: sixteen hex digits over events and items.
        warnings, notices: what the ingest told its user.
        candidate_features: what else callers give of a candidate, by names of the mapping.
        restated: label of the restated history that this is; empty for a log as it became known.
        exposure: whether it is counted, which needs positions of impressions.
        graph: whether the features hold neighbours of items.
        full_ranker: whether the events have scores of a full ranker.
        session_gap_minutes: a user who did nothing for longer has begun another session.
    """

    version: int
    dataset: str
    ids: IdKind
    hash_seed: int
    actions: tuple[str, ...]
    passive: tuple[str, ...]
    heads: dict[str, tuple[str, ...]]
    head_order: tuple[str, ...]
    weights: dict[str, float]
    weight_order: tuple[str, ...]
    segments: tuple[str, ...]
    retriever: tuple[str, ...]
    numeric: tuple[str, ...]
    embedding: tuple[str, ...]
    valid_from: dict[str, str]
    label_window_hours: float
    single_time: bool
    has_impressions: bool
    mapping: dict[str, Any]
    rows: dict[str, int]
    events: int
    late: int
    requests: int
    requests_per_day: dict[str, int]
    users: int
    queries: int
    items: int
    items_absent: int
    first_time: str
    last_time: str
    fingerprint: str
    warnings: tuple[str, ...]
    notices: tuple[str, ...]
    candidate_features: tuple[str, ...] = ()
    restated: str = ""
    exposure: bool = False
    graph: bool = False
    full_ranker: bool = False
    session_gap_minutes: int = SESSION_GAP_MINUTES

    @classmethod
    def load(cls, home: Home) -> LogManifest:
        """The manifest of ``home``.

        Raises:
            StateError: nothing was ingested there, or by another version.
        """
        data = NEWER | home.read_json(home.manifest, "prerank ingest")
        if data.get("version") != VERSION or data.keys() != {f.name for f in fields(cls)}:
            raise StateError(f"{home.root} was ingested by another version: {REMEDY}")
        data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        # JSON objects are unordered: the lists keep the ranking head and the order of the match.
        data["heads"] = {head: tuple(data["heads"][head]) for head in data["head_order"]}
        data["weights"] = {action: data["weights"][action] for action in data["weight_order"]}
        return cls(**data)

    def save(self, home: Home) -> None:
        """Write the manifest, as the last file of a log."""
        # As before there were any: such a log is the same, byte for byte.
        data = {k: v for k, v in asdict(self).items() if k not in NEWER or (v and v != NEWER[k])}
        write_json(home.manifest, data)

    @cached_property
    def schema(self) -> FeatureSchema:
        """The feature schema of the log."""
        return FeatureSchema(
            actions=self.actions,
            passive=tuple(a for a in self.passive if a in self.actions),
            heads=self.head_order,
            item_numeric=self.numeric,
            segments=self.segments,
            item_embedding=self.embedding,
            retriever=self.retriever,
            candidate_features=self.candidate_features,
            exposure=self.exposure and "impression" in self.passive,
            graph=self.graph,
            session_gap_minutes=self.session_gap_minutes,
        )

    @property
    def item_ids(self) -> ItemIds:
        """How item ids become keys."""
        return ItemIds(self.ids, self.hash_seed)

    @property
    def label_window_us(self) -> int:
        """``label_window_hours`` in microseconds; a part of an hour counts."""
        return round(self.label_window_hours * HOUR_US)

    @property
    def last_us(self) -> int:
        """Time of the last event, microseconds since 1970."""
        return int(np.datetime64(self.last_time.rstrip("Z"), "us").astype(np.int64))
