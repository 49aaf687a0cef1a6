"""What a home already holds when a log is added to it.

An event that arrives after a snapshot which should have held it was published is *late*. Published
snapshots are immutable, so it counts from the last published cutoff on, its ``known_time``; of
every other event ``known_time`` is its event_time. As the time is kept with the event, rebuilding
all features from all events gives every published row again, bit by bit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from prerank.core.errors import ConfigError, StateError
from prerank.core.feature_sets import published_us
from prerank.core.home import Home
from prerank.core.manifest import REMEDY, LogManifest
from prerank.ingest.mapping import LogMapping


@dataclass(frozen=True)
class Existing:
    """The state of a home before an ingest; of an empty one, everything is empty.

    Attributes:
        manifest: the last ingest's, None for an empty home.
        files, rows: canonical event files and the rows of each.
        refs: item key -> id as text.
        published_us: the last published cutoff, microseconds since 1970.
    """

    manifest: LogManifest | None = None
    files: tuple[Path, ...] = ()
    rows: tuple[int, ...] = ()
    refs: dict[int, str] = field(default_factory=dict)
    published_us: int = 0

    @property
    def actions(self) -> tuple[str, ...]:
        """Actions of the events that are there."""
        return self.manifest.actions if self.manifest else ()

    def settled(self, mapping: LogMapping) -> LogMapping:
        """The mapping, with what an earlier ingest read off the data."""
        return mapping.model_copy(update={"ids": self.manifest.ids}) if self.manifest else mapping


def settings(mapping: LogMapping) -> dict[str, Any]:
    """What of a mapping must stay the same from ingest to ingest, as JSON."""
    return mapping.model_dump(mode="json", exclude_unset=True, exclude={"name"})


def existing_of(home: Home, mapping: LogMapping, dataset: str) -> Existing:
    """Look at a home to which a log is to be added.

    Raises:
        ConfigError: it holds another data set, or one that was read with another mapping, or a
            restated history.
        StateError: it is of another version, or has no manifest.
    """
    if not home.manifest.exists():
        if home.events.exists():
            raise StateError(
                f"{home.log} has events but no manifest: it was removed, or an ingest by an "
                "earlier release was interrupted. Give the whole log again with "
                "`prerank ingest --replace`."
            )
        return Existing()
    manifest = LogManifest.load(home)
    if manifest.restated:
        raise ConfigError(
            f"{home.place} is the restated history {manifest.restated!r}, to which nothing is "
            "added. Add to the home that it was made of, and restate that with another label."
        )
    if manifest.dataset != dataset:
        raise ConfigError(
            f"{home.root} holds the log {manifest.dataset!r}, this one is {dataset!r}. Where "
            f"they are one log, say `name: {manifest.dataset}` in the mapping; else {REMEDY}"
        )
    now, then = settings(mapping), manifest.mapping
    for key in sorted({*now, *then}):
        # As text, since the order of heads and weights has a meaning.
        if json.dumps(now.get(key)) != json.dumps(then.get(key)):
            raise ConfigError(
                f"{home.root} was ingested with another mapping (`{key}` differs): {REMEDY}"
            )
    files = sorted(home.events.glob("day=*/*.parquet"))
    items = pq.read_table(home.items, columns=["item_id", "item_ref"])
    return Existing(
        manifest,
        tuple(files),
        tuple(pq.read_metadata(f).num_rows for f in files),
        dict(zip(items["item_id"].to_pylist(), items["item_ref"].to_pylist(), strict=True)),
        published_us(home),
    )


def same_actions(existing: Existing, found: list[str]) -> None:
    """Refuse an action that the home's events do not have: it would change every packed row.

    Raises:
        ConfigError: there is one.
    """
    added = sorted(set(found) - set(existing.actions)) if existing.manifest else []
    if added:
        raise ConfigError(
            f"The action {added[0]!r} is new to this log (known: {', '.join(existing.actions)}), "
            f"and would change every published feature row. Leave it out under `actions:`, {REMEDY}"
        )
