"""Users taken out of a home's log, its quarantine and its served log.

The log is published anew without their rows (``prerank.ingest.publish``): the days that have none
are taken over file by file, the others are written again. Nothing else of a row changes, its
``known_time`` least of all, so that features built from the new log are those of a log in which
the users never were.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prerank.core.errors import StateError
from prerank.core.files import linked, remove, written
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.core.leftovers import SCRATCH
from prerank.core.manifest import LogManifest
from prerank.core.served import events_folder, requests_folder
from prerank.core.sql import connection
from prerank.core.taken_out import blank, count_of, write_without
from prerank.ingest.days import WRAP, DayCounts, day_of, known_days, merged, save
from prerank.ingest.publish import new_log, remove_all_but_the_log
from prerank.ingest.report import fingerprint_of, iso_text
from prerank.ingest.rows import RowPlan, known_rows
from prerank.ingest.stages import counts_of
from prerank.ingest.totals import totals_of


@dataclass(frozen=True)
class Rows:
    """What a log holds of some users.

    Attributes:
        events: their canonical events, with the columns that features are made of.
        files: the event files that hold them.
    """

    events: pa.Table
    files: frozenset[Path]


def rows_of(home: Home, users: Collection[str]) -> Rows:
    """The rows of ``users`` in the log of ``home``; reads the column of users of all of it.

    Raises:
        StateError: the log holds nobody else.
    """
    files = sorted(home.events.glob("day=*/*.parquet"))
    if not files:
        return Rows(pa.table({}), frozenset())
    with connection(threads=2) as db:
        found = db.execute(
            """SELECT * FROM read_parquet($files, filename = true, hive_partitioning = false)
            WHERE list_contains($users, user_id)""",
            {"files": [str(file) for file in files], "users": list(users)},
        ).to_arrow_table()
    if len(found) == sum(pq.read_metadata(file).num_rows for file in files):
        raise StateError(
            f"{home.log} holds nobody else: remove the folder {home.root}, and with Redis its keys."
        )
    names = set(found["filename"].to_pylist())
    return Rows(found.drop_columns(["filename"]), frozenset(f for f in files if str(f) in names))


@contextmanager
def log_without(home: Home, users: Collection[str], rows: Rows) -> Iterator[Home]:
    """``home`` with its log without ``users``, published when the block ends without an error.

    Until then ``home`` has the log of before, and after it no other one: what reads the log of
    before then finds its files gone. No ingest may run meanwhile.

    Args:
        home: not pinned.
        users: whose rows are left out.
        rows: theirs (``rows_of``).

    Raises:
        OSError: the disk refuses; the log of before stays.
    """
    manifest, known = LogManifest.load(home), known_days(home)
    with new_log(home, starts_over=False, forgotten=Forgotten.of(home)) as new:
        days: dict[str, DayCounts] = {}
        touched = {day_of(file) for file in rows.files}
        for file in sorted(home.events.glob("day=*/*.parquet")):
            target, day = new.events / file.parent.name / file.name, day_of(file)
            if file in rows.files:
                _write_without(file, target, users)
            else:
                linked(file, target)
            if day in touched or day not in known:
                days = merged((days, _counted(target, day, manifest)))
            else:
                days[day] = replace(known[day], new=0, late=0)
        for name in (home.items, home.catalogue):
            linked(name, new.items.parent / name.name)
        for file in home.quarantine.glob("*"):
            linked(file, new.quarantine / file.name)
        new.quarantine.mkdir(exist_ok=True)
        save(new, days)
        _without_rows(manifest, days, new, home.root / ".ingest").save(new)
        yield new
    remove_all_but_the_log(home)


def _write_without(file: Path, target: Path, users: Collection[str]) -> None:
    table = pq.read_table(file, partitioning=None)
    left = table.filter(pc.invert(pc.is_in(table["user_id"], pa.array(list(users)))))
    if len(left):
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(left, target)


def _counted(file: Path, day: str, manifest: LogManifest) -> dict[str, DayCounts]:
    if not file.exists():
        return {}
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
    return {day: counts_of(rows.append_column("new", none_is_new))}


def _without_rows(
    before: LogManifest, days: dict[str, DayCounts], home: Home, scratch: Path
) -> LogManifest:
    """The manifest of a log of which rows were taken away; its actions and its schema stay."""
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


def remove_scratch(home: Home) -> None:
    """Remove what ingests that were killed left; only where none is running."""
    for name in SCRATCH:
        remove(home.root / name)
    remove_all_but_the_log(home, later=True)


def bad_rows_without(home: Home, forgotten: Forgotten) -> int:
    """Take users out of the rows that were refused; how many went.

    Such a row is theirs by the column of users, or, where it has none, by any word of it.
    """
    home.fetch(home.quarantine, home.refused)
    column = "user_id"
    if home.manifest.exists():
        column = (LogManifest.load(home).mapping.get("events") or {}).get("user_id") or column
    files = [*home.quarantine.glob("*.parquet"), *home.refused.glob("*.parquet")]
    # In a home without a pointer the two are one folder.
    return sum(
        remove_bad_rows(file, forgotten, column)
        for file in sorted(set(files))
        if not file.name.startswith("items")
    )


def remove_bad_rows(file: Path, forgotten: Forgotten, column: str = "user_id") -> int:
    """Take users out of a file as QUARANTINE_SCHEMA; how many rows went.

    Args:
        file: which is replaced, or removed where nothing is left.
        forgotten: the users.
        column: of the team's rows, that names the user.
    """
    if not forgotten:
        return 0
    rows = pq.read_table(file)
    keep = [not _is_of(text, column, forgotten) for text in rows["row"].to_pylist()]
    return _keep(file, rows, keep)


def _is_of(text: str | None, column: str, forgotten: Forgotten) -> bool:
    try:
        row = json.loads(text or "")
        user = row[column]
    except (ValueError, KeyError, TypeError):
        return forgotten.mentioned_in(text or "")
    # As ingest reads it: 7.0 is 7 where every user is a number.
    spelled = str(user)
    return spelled in forgotten or spelled.removesuffix(".0") in forgotten


def _keep(file: Path, rows: pa.Table, keep: list[bool]) -> int:
    """Write the rows of a file to be kept in its place; how many are not."""
    gone = keep.count(False)
    if gone == len(rows) > 0:
        remove(file)
    elif gone:
        with written(file) as out:
            pq.write_table(rows.filter(pa.array(keep, pa.bool_())), out, compression="zstd")
    return gone


def served_without(home: Home, forgotten: Forgotten) -> tuple[int, int]:
    """Take users out of the served log, while deployments write it; answers and events that went.

    A file of answers is replaced. One of events is being appended to: a line of theirs becomes
    one of blanks of its length, in its place, and no line of another user moves. In an object store
    a file is whole, and other nodes know it by its name: the rest of it gets another one.
    """
    home.look(requests_folder(home), events_folder(home), deep=True)
    answers = events = 0
    for file in sorted(requests_folder(home).glob("day=*/[!.]*.parquet")):
        for partial in file.parent.glob(f".{file.name}.*.tmp"):
            remove(partial)
        answers += _taken_out(home, file, forgotten)
    for file in sorted(events_folder(home).glob("day=*/[!.]*.jsonl")):
        events += _taken_out(home, file, forgotten) if home.store else blank(file, forgotten)
    return answers, events


def _taken_out(home: Home, file: Path, forgotten: Forgotten) -> int:
    """Write a file of the served log anew, or remove it where nothing is left; what went."""
    gone = count_of(file, forgotten)
    if gone:
        target = _next_name(file) if home.store else file
        if not write_without(file, target, forgotten) or target != file:
            remove(file)
    return gone


def _next_name(file: Path) -> Path:
    stem, _, number = file.stem.partition("~")
    return file.with_name(f"{stem}~{int(number or 0) + 1}{file.suffix}")
