"""Feature tables from canonical events: packed engagement rows and user histories.

Two passes of Ray Data tasks. The first reads event files and writes, for each hash shard, which
key met which item when (``prerank.features.explode``); the second turns one shard into packed rows
at every snapshot where they change, and into user histories (``prerank.features.shard``). No task
holds more than a shard.

A build goes on from the one before: it reads the events that became known since, and of the states
that the one before left those which these events, or the end of a window, change. Its rows are
files of their own, beside the files that are there. All of it is published by one rename.

What was published stays: the whole log gives every earlier row again
(``prerank.ingest.existing``), and the last cutoff never moves back. The tables of another schema
are left alone: a live model may need them (``prerank.core.feature_sets``).
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from interactrank.features.schema import LEVELS
from prerank.core.errors import ConfigError, DataError
from prerank.core.feature_sets import described, published_us
from prerank.core.files import linked, read_json_or_nothing, remove, replaced, write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import ray_map
from prerank.core.times import HOUR_US
from prerank.core.travel import Carried
from prerank.features.explode import EventCounts, FilesTask, explode_files
from prerank.features.shard import ShardCounts, ShardTask, build_shard
from prerank.features.snapshots import Span

HOURLY_BELOW_ROWS = 10_000_000
EVENTS_PER_SHARD = 2_000_000
TASK_ROWS = 500_000
"""Events of a task of the first pass, unless a file has more."""
INLINE_ROWS = 200_000
"""Events that are worked on in this process: fewer than it is worth starting Ray for."""
STATE_VERSION = 1
"""Of what a build leaves to the next."""


@dataclass(frozen=True)
class FeatureConfig:
    """How snapshots are taken.

    Attributes:
        cadence_hours: hours from one snapshot to the next: a divisor of 24, or whole days. Null
            means 1 for a log of fewer than ten million events, else 24, when its features are
            built first; later builds keep it.
        lag_minutes: minutes from a snapshot's cutoff to its publication.
    """

    cadence_hours: int | None = None
    lag_minutes: int = 0

    def __post_init__(self) -> None:
        if self.cadence_hours is not None and (
            self.cadence_hours < 1 or (24 % self.cadence_hours and self.cadence_hours % 24)
        ):
            raise ConfigError(
                f"config features.cadence_hours: {self.cadence_hours} must divide a day, or be "
                "whole days."
            )
        if self.lag_minutes < 0:
            raise ConfigError(
                f"config features.lag_minutes: {self.lag_minutes} would publish a snapshot before "
                "its cutoff, and so leak the future. Give 0 or more."
            )


@dataclass(frozen=True)
class _Build:
    """One build of a log's tables.

    Attributes:
        manifest: of the log.
        files: its event files.
        hours, lag_minutes: cadence and lag.
        before: manifest of the tables that it goes on from; empty for none.
        last: the last cutoff, in cadences since 1970.
        shards: how many there are.
        out: where the tables go.
    """

    manifest: LogManifest
    files: tuple[Path, ...]
    hours: int
    lag_minutes: int
    before: dict[str, Any]
    last: int
    shards: int
    out: Path

    @property
    def span(self) -> Span:
        """The snapshots to publish."""
        cadence = self.hours * HOUR_US
        after = self.before["last_cutoff_us"] // cadence if self.before else None
        return Span(after, self.last, cadence, self.lag_minutes * 60_000_000)

    @property
    def scratch(self) -> Path:
        """What the first pass hands to the second."""
        return self.out / "scratch"

    def run(self) -> dict[str, Any] | None:
        """Write the tables; returns their manifest.

        None where the log holds other events of before the last cutoff than the tables count.
        """
        files, known = _since(self.files, self.span)
        rows = [pq.read_metadata(file).num_rows for file in files]
        spread: Callable[..., list[Any]] = ray_map if sum(rows) > INLINE_ROWS else _here
        tasks = [
            FilesTask(i, own, self.manifest.schema, self.span, self.shards, self.scratch)
            for i, own in enumerate(_divided(files, rows))
        ]
        read: list[EventCounts] = spread(
            Carried(explode_files, FilesTask.reads, FilesTask.writes), tasks, "keys"
        )
        known += sum(counts.before for counts in read)
        if self.before and known != self.before["state"]["events"]:
            return None
        for table in ("engagement", "user_history"):
            (self.out / table).mkdir(exist_ok=True)
        done: list[ShardCounts] = []
        if self.span.after != self.last:
            shards = [
                ShardTask(
                    self.manifest.schema, self.span, shard, self.shards, self.scratch, self.out
                )
                for shard in range(self.shards)
            ]
            done = spread(
                Carried(build_shard, ShardTask.reads, ShardTask.writes), shards, "snapshots"
            )
        remove(self.scratch)
        return self._manifest(known + sum(counts.counted for counts in read), done)

    def _manifest(self, events: int, done: Sequence[ShardCounts]) -> dict[str, Any]:
        schema, earlier = self.manifest.schema, self.before.get("rows", {})
        rows = {f.name: sum(getattr(d, f.name) for d in done) for f in fields(ShardCounts)}
        return {
            **described(schema),
            "cadence_hours": self.hours,
            "lag_minutes": self.lag_minutes,
            "last_cutoff_us": self.last * self.hours * HOUR_US,
            "fingerprint": self.manifest.fingerprint,
            "rows": {name: count + earlier.get(name, 0) for name, count in rows.items()},
            "caps": {lv.prefix: lv.cap for lv in LEVELS},
            # Stays as long as builds only add rows.
            "tables": self.before.get("tables") or secrets.token_hex(8),
            "state": {"version": STATE_VERSION, "shards": self.shards, "events": events},
        }


def build_features(
    home: Home, config: FeatureConfig = FeatureConfig(), restate: bool = False
) -> dict[str, Any]:
    """Bring the feature tables to the ingested log; returns (and writes) the features manifest.

    With ``restate``, rows that were published are written again from a log that lost some of its
    events (``prerank.ingest.forget``). The tables keep their name, cadence and lag, and the
    manifest's ``restated`` tells when it was done.

    Tables of another cadence or lag, or of a log that was replaced, are built anew, and so are
    those of a log that has more than twice the events that their shards were made for.

    Raises:
        StateError: nothing was ingested, or by another version.
        DataError: the log holds no engagement at all.
    """
    home = home.pin()
    home.fetch(home.log)
    manifest = LogManifest.load(home)
    schema = manifest.schema
    if not schema.engagements:
        raise DataError(
            f"the log's actions {list(schema.actions)} are all passive: there is nothing to count. "
            "Declare at least one engagement action, or shorten `passive` in the mapping."
        )
    files = tuple(sorted(home.events.glob("day=*/*.parquet")))
    folder = home.features_of(schema.hash())
    home.fetch(folder)
    with replaced(folder) as out:
        # In here, where nobody else publishes, and what a killed build took away is back.
        before = read_json_or_nothing(folder / "manifest.json")
        before = before if home.has_made(before) and "state" in before else {}
        restate = restate and bool(before)
        if restate:
            config = FeatureConfig(before["cadence_hours"], before["lag_minutes"])
        hours = config.cadence_hours or before.get("cadence_hours")
        hours = hours or (1 if manifest.events < HOURLY_BELOW_ROWS else 24)
        cadence = hours * HOUR_US
        last = max(manifest.last_us // cadence + 1, -(-published_us(home) // cadence))
        shards = max(2, -(-manifest.events * 12 // EVENTS_PER_SHARD))
        build = _Build(manifest, files, hours, config.lag_minutes, {}, last, shards, out)
        features = None
        if _goes_on(build, before) and not restate:
            _link(folder, out)
            earlier = replace(build, before=before, shards=before["state"]["shards"])
            features = earlier.run()
        if features is None:
            for left in out.iterdir():
                remove(left)
            features = build.run()
        assert features is not None
        features["log_id"] = home.log_id
        features["restated"] = before.get("restated", [])
        if restate:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            features |= {"tables": before["tables"], "restated": [*features["restated"], now]}
        write_json(out / "manifest.json", features)
    # Of homes of earlier releases, whose tables had no folder per schema.
    (home.features / "manifest.json").unlink(missing_ok=True)
    for name in ("engagement", "user_history"):
        shutil.rmtree(home.features / name, ignore_errors=True)
    return features


def _goes_on(build: _Build, before: dict[str, Any]) -> bool:
    """Whether ``build`` only adds rows to the tables of the manifest ``before``."""
    state = before.get("state", {})
    return bool(
        state.get("version") == STATE_VERSION
        and before["cadence_hours"] == build.hours
        and before["lag_minutes"] == build.lag_minutes
        and build.shards <= 2 * state["shards"]
    )


def _link(old: Path, new: Path) -> None:
    """Put the files of a folder into another one too, without copying them where that can be.

    No file of the tables is ever changed, so the two may share them.
    """
    for path in old.rglob("*.parquet"):
        linked(path, new / path.relative_to(old))


def _since(files: Sequence[Path], span: Span) -> tuple[list[Path], int]:
    """Files with events that became known after ``span`` began, and the events of the others."""
    if span.after is None:
        return [*files], 0
    new, known = [], 0
    for file in files:
        metadata = pq.read_metadata(file)
        at = metadata.schema.names.index("known_time")
        groups = [metadata.row_group(g).column(at) for g in range(metadata.num_row_groups)]
        bounds = [group.statistics for group in groups]
        told = all(b is not None and b.has_min_max for b in bounds)
        if told and all(b.max_raw < span.after * span.cadence_us for b in bounds):
            known += metadata.num_rows
        else:
            new.append(file)
    return new, known


def _divided(files: Sequence[Path], rows: Sequence[int]) -> list[tuple[str, ...]]:
    """Files by task: a few tasks at least, and no more rows in one than there need be."""
    count = min(len(files), max(4, -(-sum(rows) // TASK_ROWS)))
    if not count:
        return []
    # By where the middle of a file's rows lies among all.
    middle = np.cumsum(rows) - np.array(rows) / 2
    task = np.minimum(middle * count // max(sum(rows), 1), count - 1)
    groups = [[str(f) for f, t in zip(files, task, strict=True) if t == n] for n in range(count)]
    return [tuple(group) for group in groups if group]


def _here(function: Callable[[Any], Any], tasks: Sequence[Any], name: str) -> list[Any]:
    """``ray_map`` in this process."""
    return [function(task) for task in tasks]
