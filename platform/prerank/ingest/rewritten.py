"""A log of which some event files were changed, as a log of its own.

What does not change is taken over file by file, with what is known of its days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prerank.core.files import linked
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.ingest.buckets import counts_of
from prerank.ingest.days import WRAP, DayCounts, day_of, known_days, merged, save
from prerank.ingest.publish import new_log
from prerank.ingest.report import fingerprint_of, iso_text
from prerank.ingest.rows import RowPlan, known_rows
from prerank.ingest.totals import totals_of


@contextmanager
def rewritten_log(
    home: Home,
    target: Home,
    change: Callable[[Path], pa.Table | None],
    restated: str = "",
) -> Iterator[Home]:
    """``target`` with the log of ``home`` changed, published when the block ends without an error.

    Args:
        home: whose log is read. No ingest may run meanwhile.
        target: where it goes, ``home`` itself or another one without a log; not pinned.
        change: the rows that a file of canonical events has instead of its own; None for its own.
        restated: label of a restated history (``LogManifest.restated``).

    Raises:
        StateError: somebody was forgotten meanwhile, from another node; what was there stays.
        OSError: the disk refuses; likewise.
    """
    manifest, known = LogManifest.load(home), known_days(home)
    forgotten = Forgotten.of(target)
    with new_log(target, starts_over=target != home, forgotten=forgotten) as new:
        new.events.mkdir(parents=True)
        changed = {*_brought(home.events, new.events, change)}
        days: dict[str, DayCounts] = {}
        for file in sorted(new.events.glob("day=*/*.parquet")):
            day = day_of(file)
            if day in known and day not in changed:
                days[day] = replace(known[day], new=0, late=0)
            else:
                days = merged((days, {day: _counted(file, manifest)}))
        for name in (home.items, home.catalogue):
            linked(name, new.items.parent / name.name)
        for file in home.quarantine.glob("*"):
            linked(file, new.quarantine / file.name)
        new.quarantine.mkdir(exist_ok=True)
        save(new, days)
        made = _manifest_of(manifest, days, new, target.root / ".ingest")
        if restated:
            made = replace(made, restated=restated, late=0)
        made.save(new)
        yield new


def _brought(events: Path, out: Path, change: Callable[[Path], pa.Table | None]) -> Iterator[str]:
    """Bring event files to another folder; yields the day of each that changed."""
    for file in sorted(events.glob("day=*/*.parquet")):
        target = out / file.parent.name / file.name
        rows = change(file)
        if rows is None:
            linked(file, target)
            continue
        if len(rows):
            target.parent.mkdir(exist_ok=True)
            pq.write_table(rows, target)
        yield day_of(file)


def _counted(file: Path, manifest: LogManifest) -> DayCounts:
    events = pq.read_table(file, partitioning=None)
    plan = RowPlan(
        columns={name: name for name in events.column_names},
        time_unit=None,
        actions=None,
        action=None,
        segments=manifest.segments,
        ids=manifest.item_ids,
    )
    rows = known_rows(events, plan)
    none_is_new = pa.repeat(pa.scalar(False), len(rows))
    return counts_of(rows.append_column("new", none_is_new))


def _manifest_of(
    before: LogManifest, days: dict[str, DayCounts], home: Home, scratch: Path
) -> LogManifest:
    """The manifest of a log whose rows changed; its actions and its schema stay."""
    totals, every = totals_of(home.events, scratch), days.values()
    events = sum(day.rows for day in every)
    names = pq.read_schema(next(home.events.glob("day=*/*.parquet"))).names
    content = sum(day.content for day in every) % WRAP
    return replace(
        before,
        events=events,
        **{name: totals[name] for name in ("requests", "requests_per_day", "users", "queries")},
        first_time=iso_text(min(day.first for day in every)),
        last_time=iso_text(max(day.last for day in every)),
        fingerprint=fingerprint_of(content, events, pq.read_table(home.items), names),
    )
