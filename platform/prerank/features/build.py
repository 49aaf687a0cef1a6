"""Feature tables from canonical events: packed engagement rows and user histories.

Two passes of Ray Data tasks. The first reads event files and writes, for each hash shard, which
key met which item when (``prerank.features.explode``); the second turns one shard into packed rows
at every snapshot where they change, and into user histories (``prerank.features.shard``). No task
holds more than a shard. Where it is known at which positions items were shown, a pass between the
two counts that (``prerank.features.exposure``), and where engagements are capped or users flagged,
another adds what that changes (``prerank.features.corrections``). Where the mapping asks for it,
snapshots of the item graph are made (``prerank.features.graph``).

A build goes on from the one before: it reads the events that became known since, and of the states
that the one before left those which these events, or the end of a window, change. Its rows are
files of their own, beside the files that are there. All of it is published by one rename.

What was published stays: the whole log gives every earlier row again
(``prerank.ingest.existing``), and the last cutoff never moves back. The tables of another schema
are left alone: a live model may need them (``prerank.core.feature_sets``).
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from interactrank.features.schema import LEVELS
from prerank.core.errors import DataError
from prerank.core.feature_sets import described, published_us
from prerank.core.files import linked, read_json_or_nothing, remove, replaced, write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import ray_map
from prerank.core.times import HOUR_US
from prerank.core.travel import Carried
from prerank.core.trust import Flags
from prerank.features.config import FeatureConfig
from prerank.features.corrections import CorrectionTask, correct_shard
from prerank.features.event_files import divided, rows_of, since
from prerank.features.explode import EventCounts, FilesTask, explode_files, past_acts
from prerank.features.exposure import DaysTask
from prerank.features.exposure_pass import ExposurePass
from prerank.features.flag_steps import FlagSteps
from prerank.features.graph import Built, make_graphs
from prerank.features.shard import ShardCounts, ShardTask, build_shard
from prerank.features.snapshots import Span

AS_USUAL = FeatureConfig()
HOURLY_BELOW_ROWS = 10_000_000
EVENTS_PER_SHARD = 2_000_000
KEYS_PER_EVENT = 12
"""About; where impressions count under all keys, twice as many."""
INLINE_ROWS = 200_000
"""Events that are worked on in this process: fewer than it is worth starting Ray for."""
LEARNED = ("exposure", "graph")
"""What the manifest of the tables says of what was learned from the log."""
STATE_VERSION = 2
"""Of what a build leaves to the next."""


@dataclass(frozen=True)
class _Build:
    """One build of a log's tables.

    Attributes:
        manifest: of the log.
        files: its event files.
        hours, lag_minutes, user_cap: of the configuration.
        flags: of its users.
        before: manifest of the tables that it goes on from; empty for none.
        kept: manifest of the tables whose estimates stand (``prerank.features.examination``), those
            that it goes on from or writes again; empty for none.
        last: the last cutoff, in cadences since 1970.
        shards: how many there are.
        out: where the tables go.
    """

    manifest: LogManifest
    files: tuple[Path, ...]
    hours: int
    lag_minutes: int
    user_cap: int | None
    flags: Flags
    before: dict[str, Any]
    kept: dict[str, Any]
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

        None where the log holds other events or flags of before the last cutoff than the tables
        count.
        """
        after = self.span.after
        if after is not None and self._steps(after).digest() != self.before["state"]["flags"]:
            return None
        files, known = since(self.files, self.span)
        many = sum(rows_of(files)) > INLINE_ROWS
        spread: Callable[..., list[Any]] = ray_map if many else _here
        steps = self._steps(self.last)
        tasks = self._tasks(files, steps)
        read: list[EventCounts] = spread(
            Carried(explode_files, FilesTask.reads, FilesTask.writes), tasks, "keys"
        )
        known += sum(counts.before for counts in read)
        if self.before and known != self.before["state"]["events"]:
            return None
        for table in ("engagement", "user_history"):
            (self.out / table).mkdir(exist_ok=True)
        done: list[ShardCounts] = []
        learned = {name: self.before[name] for name in LEARNED if name in self.before}
        if after != self.last:
            shards = [
                ShardTask(
                    self.manifest.schema, self.span, shard, self.shards, self.scratch, self.out
                )
                for shard in range(self.shards)
            ]
            learned = self._expose(files, steps, spread) | self._walk(spread)
            self._correct(files, steps, shards, spread)
            done = spread(
                Carried(build_shard, ShardTask.reads, ShardTask.writes), shards, "snapshots"
            )
        remove(self.scratch)
        events = known + sum(counts.counted for counts in read)
        return self._manifest(events, steps, done) | learned

    def _expose(
        self, files: Sequence[Path], steps: FlagSteps, spread: Callable[..., list[Any]]
    ) -> dict[str, Any]:
        """Count what was shown; ``files`` are those that hold something new."""
        schema = self.manifest.schema
        if not schema.exposure:
            return {}
        flagged, changed = steps.names, steps.changed(self.span.after)
        task = DaysTask(schema, self.span, self.shards, self.scratch, flagged, changed)
        counting = ExposurePass(
            self.manifest,
            self.files,
            self.before.get("exposure", {}),
            self.kept.get("exposure", {}),
            self.kept.get("last_cutoff_us", 0),
            task,
        )
        return {"exposure": counting.run(files, spread)}

    def _walk(self, spread: Callable[..., list[Any]]) -> dict[str, Any]:
        """Make the snapshots of the item graph that are due."""
        if not self.manifest.schema.graph:
            return {}
        built = Built(self.manifest.schema, self.files, self.flags, self.out)
        until_us = self.last * self.span.cadence_us
        since_us = self.before.get("last_cutoff_us", 0)
        return {"graph": make_graphs(built, self.before.get("graph"), since_us, until_us, spread)}

    def _steps(self, last: int) -> FlagSteps:
        """What the flags say that are known before a cutoff."""
        return FlagSteps.of(self.flags, self.hours * HOUR_US, last)

    def _tasks(self, files: Sequence[Path], steps: FlagSteps) -> list[FilesTask]:
        """Tasks of the first pass over some files."""
        task = FilesTask(
            0,
            (),
            self.manifest.schema,
            self.span,
            self.shards,
            self.scratch,
            self.user_cap is not None,
            steps.names,
            steps.changed(self.span.after),
        )
        return [replace(task, number=n, files=own) for n, own in enumerate(divided(files))]

    def _correct(
        self,
        files: Sequence[Path],
        steps: FlagSteps,
        shards: Sequence[ShardTask],
        spread: Callable[..., list[Any]],
    ) -> None:
        """Add what the cap and flags take off; ``files`` are those that hold something new."""
        if self.user_cap is None and not len(steps.names):
            return
        if len(steps.changed(self.span.after)):
            past = self._tasks([file for file in self.files if file not in {*files}], steps)
            spread(Carried(past_acts, FilesTask.reads, FilesTask.writes_past), past, "flags")
        tasks = [
            CorrectionTask(t, self.user_cap, steps.of_shard(t.shard, t.shards)) for t in shards
        ]
        work = Carried(correct_shard, CorrectionTask.reads, CorrectionTask.writes)
        spread(work, tasks, "corrections")

    def _manifest(
        self, events: int, steps: FlagSteps, done: Sequence[ShardCounts]
    ) -> dict[str, Any]:
        schema, earlier = self.manifest.schema, self.before.get("rows", {})
        rows = {f.name: sum(getattr(d, f.name) for d in done) for f in fields(ShardCounts)}
        return {
            **described(schema),
            "cadence_hours": self.hours,
            "lag_minutes": self.lag_minutes,
            "user_cap": self.user_cap,
            "last_cutoff_us": self.last * self.hours * HOUR_US,
            "fingerprint": self.manifest.fingerprint,
            "rows": {name: count + earlier.get(name, 0) for name, count in rows.items()},
            "caps": {lv.prefix: schema.cap(lv) for lv in LEVELS},
            # Stays as long as builds only add rows.
            "tables": self.before.get("tables") or secrets.token_hex(8),
            "state": {
                "version": STATE_VERSION,
                "shards": self.shards,
                "events": events,
                "flags": steps.digest(),
            },
        }


def build_features(
    home: Home, config: FeatureConfig = AS_USUAL, restate: bool = False
) -> dict[str, Any]:
    """Bring the feature tables to the ingested log; returns (and writes) the features manifest.

    With ``restate``, rows that were published are written again from a log that lost some of its
    events (``prerank.ingest.forget``). The tables keep their name, cadence, lag, cap and what
    positions weigh, and the manifest's ``restated`` tells when it was done.

    Tables of another cadence, lag or cap, or of a log that was replaced, are built anew, and so are
    those of a log that has more than twice the events that their shards were made for.

    Raises:
        StateError: nothing was ingested, or by another version; or the flags are damaged.
        DataError: the log holds no engagement at all.
    """
    home = home.pin()
    home.fetch(home.log, home.flags)
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
            config = FeatureConfig(
                before["cadence_hours"], before["lag_minutes"], before.get("user_cap")
            )
        hours = config.cadence_hours or before.get("cadence_hours")
        hours = hours or (1 if manifest.events < HOURLY_BELOW_ROWS else 24)
        cadence = hours * HOUR_US
        last = max(manifest.last_us // cadence + 1, -(-published_us(home) // cadence))
        keys = KEYS_PER_EVENT * (2 if schema.exposure else 1)
        shards = max(2, -(-manifest.events * keys // EVENTS_PER_SHARD))
        options = hours, config.lag_minutes, config.user_cap
        kept = before if restate else {}
        build = _Build(manifest, files, *options, Flags.load(home), {}, kept, last, shards, out)
        features = None
        if _goes_on(build, before) and not restate:
            _link(folder, out)
            shards = before["state"]["shards"]
            earlier = replace(build, before=before, kept=before, shards=shards)
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
        and before["user_cap"] == build.user_cap
        and build.shards <= 2 * state["shards"]
    )


def _link(old: Path, new: Path) -> None:
    """Put the files of a folder into another one too, without copying them where that can be.

    No file of the tables is ever changed, so the two may share them.
    """
    for suffix in ("parquet", "arrow"):
        for path in old.rglob(f"*.{suffix}"):
            linked(path, new / path.relative_to(old))


def _here(function: Callable[[Any], Any], tasks: Sequence[Any], name: str) -> list[Any]:
    """``ray_map`` in this process: kernels and Arrow leave a core to each of some threads."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), name) as pool:
        return list(pool.map(function, tasks))
