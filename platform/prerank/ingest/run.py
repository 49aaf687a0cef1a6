"""Ingest: any team's log and catalogue to the canonical tables, with a count of every row.

    check  ->  stage 1 (rows)  ->  stage 2 (buckets)  ->  items, counts, manifest  ->  publish

A home that holds events already keeps them: the log is added to them, by event id.

All outputs are written into a folder of their own, which becomes the home's log when everything has
succeeded (``prerank.ingest.publish``). Ingests of one home wait for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prerank.core.errors import ConfigError, DataError, PrerankError
from prerank.core.files import fetch, locked, remove, replaced
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.core.ids import ItemIds
from prerank.core.ray_tasks import cluster_cpus, ray_map
from prerank.core.travel import Carried
from prerank.ingest.buckets import BUCKET_ROWS, BucketTask, events_file, publish_bucket
from prerank.ingest.catalogue import catalogue_of
from prerank.ingest.checks import Checked, check
from prerank.ingest.days import (
    WRAP,
    DayCounts,
    Days,
    kept_days,
    known_days,
    merged,
    save,
    take_over,
    without,
)
from prerank.ingest.existing import Existing, existing_of
from prerank.ingest.forget import remove_bad_rows
from prerank.ingest.items import RawCatalogue, keyed
from prerank.ingest.landing import in_turn, opened, rejected_lines
from prerank.ingest.mapping import LogMapping
from prerank.ingest.publish import new_log
from prerank.ingest.ranges import RowRange
from prerank.ingest.report import IngestReport, manifest_of
from prerank.ingest.sources import Source, raw_files, stem
from prerank.ingest.stages import RowTask, bad_rows, split_known, split_rows
from prerank.ingest.totals import totals_of
from prerank.ingest.ubi import is_ubi, joined, ubi_columns, ubi_mapping

SMALL_PIECE, LARGE_PIECE = 50_000, 1_000_000
SMALL_BUCKET = 250_000


def ingest(
    events: str | Path,
    items: str | Path | RawCatalogue,
    home: Home,
    mapping: LogMapping,
    replace: bool = False,
    reading: LogMapping | None = None,
) -> IngestReport:
    """Validate, normalise and de-duplicate a log; write the canonical tables under ``home``.

    Events that ``home`` already holds stay, and those of ``events`` join them; published feature
    rows do not change (``prerank.ingest.existing``). The catalogue is replaced.

    Args:
        events: a file, a folder or a glob, by its absolute path or its URI in an object store
            (``prerank.ingest.sources`` has the formats).
        items: the catalogue, likewise; or as it was read (``prerank.ingest.additions``).
        home: where to write.
        mapping: the team's columns.
        replace: start the home over; its events go, and its feature tables count as another log's.
        reading: what is said of the columns of ``events``, where these are not as ``mapping`` has
            them; None for as it has them.

    Ray must have been initialised. Memory does not grow with the log, save for its distinct ids.

    Raises:
        ConfigError: the mapping or a path is wrong, or the home holds another log. Nothing was
            done.
        StateError: the home is of another version, or its log is damaged.
        DataError: unreadable, empty or contradictory data. The log of before is left alone; where
            every row is bad, ``home.refused`` has them.
        NotReadyError: an object store does not answer.
    """
    if not home.root.is_absolute():
        raise ConfigError(f"PRERANK_HOME={home.root} is a relative path. Give an absolute one.")
    home.create()
    name = mapping.name or stem(events)
    with locked(home.root / "ingest"):
        home.look()
        home.fetch(home.log)
        existing = Existing() if replace else existing_of(home, mapping, name)
        scratch = home.root / ".ingest"
        remove(scratch)
        try:
            log, read_as = _opened(events, scratch, existing.settled(reading or mapping))
            catalogue: Source | RawCatalogue
            if isinstance(items, RawCatalogue):
                catalogue = items
            else:
                found = raw_files(items, "items")
                catalogue = opened(*found, scratch / "items", in_turn, mapping.items.nested)
            forgotten = Forgotten.of(home)
            if log.rejected and not sum(log.rows):
                _keep_lines(scratch, scratch / "quarantine", forgotten)
                _refuse(log.total, log.rejected, scratch / "quarantine", home)
            checked = check(log, catalogue, read_as, existing)
            with new_log(home, existing.manifest is None, forgotten) as new:
                return _write(home, new, scratch, checked, existing, mapping, name, forgotten)
        finally:
            remove(scratch)


def _opened(events: str | Path, scratch: Path, mapping: LogMapping) -> tuple[Source, LogMapping]:
    """The log as Parquet, and the mapping by which it is read."""
    raws, remarks = raw_files(events, "events")
    if not is_ubi(raws):
        own = (*mapping.segments, *mapping.candidate_features)
        nested = (*mapping.events.nested, *(name for name in own if "." in name))
        return opened(raws, remarks, scratch / "events", ray_map, nested), mapping
    mapping = ubi_mapping(mapping)
    halves = opened(raws, remarks, scratch / "events", ray_map, ubi_columns(mapping.segments))
    return joined(halves, mapping, scratch / "ubi"), mapping


def _keep_lines(scratch: Path, quarantine: Path, forgotten: Forgotten) -> None:
    """Bring the lines that are no rows to where bad rows are kept."""
    quarantine.mkdir(parents=True, exist_ok=True)
    for what in ("events", "items"):
        for file in rejected_lines(scratch / what):
            kept = quarantine / f"{what}-{file.name}"
            file.rename(kept)
            if what == "events":
                remove_bad_rows(kept, forgotten)


def _write(
    old: Home,
    new: Home,
    scratch: Path,
    checked: Checked,
    existing: Existing,
    mapping: LogMapping,
    name: str,
    forgotten: Forgotten,
) -> IngestReport:
    """Write the canonical log into the folder of ``new``; ``old`` is as it was before."""
    for folder in (scratch / "buckets", new.events, new.quarantine, new.items.parent):
        folder.mkdir(parents=True)
    _keep_lines(scratch, new.quarantine, forgotten)
    if len(checked.catalogue.quarantined):
        pq.write_table(checked.catalogue.quarantined, new.quarantine / "items.parquet")
    # Of the days of before most are taken over, where it is known what they hold.
    known = known_days(old) if existing.files else {}
    spread = 0 if known else sum(existing.rows)
    buckets = _buckets(sum(checked.source.rows) + spread, cluster_cpus())
    first = _stage_one(checked, scratch / "buckets", new.quarantine, buckets, forgotten)
    fetch(scratch / "buckets", new.quarantine)
    if first["quarantined"] + first["forgotten"] == first["in"]:
        _refuse(first["in"], first["reasons"], new.quarantine, new, first["forgotten"])
    kept = kept_days(known, existing, scratch / "buckets")
    changed = without(existing, kept)
    _spread_existing(changed, checked, scratch / "buckets", buckets)
    fetch(scratch / "buckets")
    days, duplicates = _stage_two(checked, scratch / "buckets", new.events, existing.published_us)
    fetch(new.events)
    take_over(existing, kept, new.events)
    days = merged((kept, days))
    save(new, days)
    second = _summed(days) | {"unreadable": first["unreadable"]}
    totals = totals_of(new.events, scratch)
    items = _items(checked, totals["item_keys"], existing)
    pq.write_table(items, new.items)
    catalogue_of(items, mapping).save(new.catalogue)
    rows = {
        "in": first["in"],
        "out": second["new"],
        "quarantined": first["quarantined"],
        "duplicates": duplicates,
    }
    if first["forgotten"]:
        rows["forgotten"] = first["forgotten"]
    _check_identity(rows, checked.source, second["old"], existing)
    manifest = manifest_of(checked, mapping, name, rows, second, totals, items)
    manifest.save(new)
    return IngestReport(manifest, first["reasons"], new.quarantine)


def _refuse(
    rows: int, reasons: dict[str, int], quarantine: Path, home: Home, forgotten: int = 0
) -> None:
    with replaced(home.refused) as folder:
        folder.rmdir()
        quarantine.rename(folder)
    if not reasons:
        raise DataError(f"All {rows:,} rows of the log are of users who were forgotten.")
    also = f", and {forgotten:,} x the user was forgotten" if forgotten else ""
    raise DataError(
        f"All {rows:,} rows of the log are bad: {_most(reasons)}{also}. "
        f"They are in {home.refused}, with a reason each."
    )


def _most(reasons: dict[str, int]) -> str:
    return ", ".join(f"{n:,} x {why}" for why, n in list(reasons.items())[:3])


def _tasks(files: Sequence[Path], sizes: Sequence[int], cpus: int) -> list[RowTask]:
    """A few tasks per core: many small files make one task, a large one several."""
    total = sum(sizes)
    size = min(max(-(-total // (2 * cpus)), SMALL_PIECE), LARGE_PIECE)
    tasks: list[list[RowRange]] = [[]]
    room = size
    for file, rows in zip(files, sizes, strict=True):
        start = 0
        while start < rows:
            take = min(room, rows - start)
            tasks[-1].append(RowRange(file, start, start + take))
            start, room = start + take, room - take
            if not room:
                tasks.append([])
                room = size
    return [RowTask(at, tuple(ranges)) for at, ranges in enumerate(t for t in tasks if t)]


def _buckets(rows: int, cpus: int) -> int:
    """Enough buckets that each fits a task, and for a mid-sized log that each core has one."""
    return max(-(-rows // BUCKET_ROWS), min(cpus, -(-rows // SMALL_BUCKET)))


def _stage_one(
    checked: Checked, scratch: Path, quarantine: Path, buckets: int, forgotten: Forgotten
) -> dict[str, Any]:
    source = checked.source
    run = partial(
        split_rows,
        plan=checked.plan,
        buckets=buckets,
        scratch=scratch,
        quarantine=quarantine,
        forgotten=forgotten,
    )

    def written(task: RowTask) -> list[Path]:
        good = [*scratch.glob(f"*/new-{task.number}.arrow")]
        return [*good, quarantine / bad_rows(task.number)]

    tasks = _tasks(source.files, source.rows, cluster_cpus())
    found = ray_map(Carried(run, RowTask.files, written), tasks, "rows")
    reasons: Counter[str] = Counter(source.rejected)
    unreadable: Counter[str] = Counter()
    for each in found:
        reasons.update(each.reasons)
        unreadable.update(each.unreadable)
    return {
        "in": sum(each.rows for each in found) + sum(source.rejected.values()),
        "quarantined": reasons.total(),
        "forgotten": sum(each.forgotten for each in found),
        "reasons": dict(sorted(reasons.items(), key=lambda r: (-r[1], r[0]))),
        "unreadable": dict(sorted(unreadable.items())),
    }


def _spread_existing(existing: Existing, checked: Checked, scratch: Path, buckets: int) -> None:
    run = partial(split_known, plan=checked.plan, buckets=buckets, scratch=scratch)

    def written(task: RowTask) -> list[Path]:
        return [*scratch.glob(f"*/old-{task.number}.arrow")]

    tasks = _tasks(existing.files, existing.rows, cluster_cpus())
    ray_map(Carried(run, RowTask.files, written), tasks, "events of before")


def _stage_two(
    checked: Checked, scratch: Path, events: Path, published_us: int
) -> tuple[dict[str, DayCounts], int]:
    """The days that were written, and how many rows repeat an event."""
    tasks = [BucketTask(int(f.name), f) for f in sorted(scratch.iterdir())]
    run = partial(
        publish_bucket,
        plan=checked.plan,
        events=events,
        published_us=published_us,
    )

    def written(task: BucketTask) -> list[Path]:
        return [*events.glob(f"*/{events_file(task.number)}")]

    def read(task: BucketTask) -> list[Path]:
        return [task.folder]

    found = ray_map(Carried(run, read, written), tasks, "buckets")
    return merged(each.days for each in found), sum(each.duplicates for each in found)


def _summed(days: Days) -> dict[str, Any]:
    every = days.values()
    return {
        "new": sum(d.new for d in every),
        "old": sum(d.rows - d.new for d in every),
        "late": sum(d.late for d in every),
        "content": sum(d.content for d in every) % WRAP,
        "first": min(d.first for d in every),
        "last": max(d.last for d in every),
        "actions": sorted({action for d in every for action in d.actions}),
    }


def _items(checked: Checked, log_keys: list[int], existing: Existing) -> pa.Table:
    ids: ItemIds = checked.plan.ids
    if ids.kind == "integer":
        return keyed(checked.catalogue, ids, {key: str(key) for key in log_keys})
    refs = dict(zip(ids.keys(checked.log_refs).tolist(), checked.log_refs, strict=True))
    refs |= existing.refs
    return keyed(checked.catalogue, ids, {key: refs[key] for key in log_keys})


def _check_identity(rows: dict[str, int], source: Source, old: int, existing: Existing) -> None:
    if rows["in"] != source.total:
        raise DataError(
            f"{rows['in']:,} rows were read of {source.total:,}: the log changed meanwhile. "
            "Ingest again when it is at rest."
        )
    lost = sum(existing.rows) - old
    if lost or rows["in"] != sum(n for what, n in rows.items() if what != "in"):
        raise PrerankError(f"Ingest lost count of rows, please report it: {rows}, {lost} lost")
