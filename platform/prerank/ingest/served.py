"""The served log as an event log: what was answered is exposure, what was reported happened to it.

    answers   an impression for each item, at its place     where the home's log has impressions
    events    of the request and the user that they name    at the request's time and query
              else a request of their own                   at their own time, with their own query

A request whose caller reports impressions itself, since it knows what was shown in the end, has
those and no others. An event counts once, however often it was reported, and has here the id that
it has online, so that a user's history holds it once.

Whole days are read, once each: the folder of a day that has ended does not change any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from prerank.core.errors import DamagedError
from prerank.core.files import read_json, remove, write_json
from prerank.core.home import Home
from prerank.core.manifest import FULL_RANKER, RETRIEVER, LogManifest
from prerank.core.served import REQUESTS, events_folder, requests_folder
from prerank.core.sql import connection
from prerank.ingest import served_sql
from prerank.ingest.additions import catalogue_of_home
from prerank.ingest.mapping import LogMapping
from prerank.ingest.mapping_columns import EventColumns
from prerank.ingest.report import IngestReport
from prerank.ingest.run import ingest

EARLIER = timedelta(days=1)
"""Answers of so long before the first day are looked at, for what was reported of them on it."""
MEMORY = "1GB"


@dataclass(frozen=True)
class Served:
    """What was read of a served log.

    Attributes:
        first, last: days that were read.
        answers: written on them. ``events``: reported on them.
        credited: events whose answer was found.
        unread: lines of events that are no JSON, such as one that a full disk cut off.
        ingested: what became of the rows; None where there were none.
    """

    first: date
    last: date
    answers: int
    events: int
    credited: int
    unread: int
    ingested: IngestReport | None


def ingest_served(home: Home, through: date) -> Served | None:
    """Add what deployments of ``home`` wrote down, to the end of a day, to its log.

    Args:
        home: with a log. Ray must have been initialised.
        through: the last day to read. One that has not ended is read as far as it goes, and never
            again: nothing may be served meanwhile.

    Returns:
        What was read; None if nothing was written since the last time.

    Raises:
        StateError: nothing was ingested before.
        DamagedError: a file cannot be read; the message names it.
    """
    home.look()
    home.look(requests_folder(home), events_folder(home), deep=True)
    manifest, marker = LogManifest.load(home), home.served / "ingested.json"
    done = date.fromisoformat(read_json(marker)["through"]) if marker.exists() else date.min
    days = [day for day in _days(home) if done < day <= through]
    if not days:
        return None
    scratch = home.root / ".served"
    remove(scratch)
    scratch.mkdir()
    try:
        found = _add(home, manifest, days, scratch)
    finally:
        remove(scratch)
    # Last: a run that is cut off is done again, and what it ingested counts once.
    write_json(marker, {"through": days[-1].isoformat()})
    return found


def _days(home: Home) -> list[date]:
    parents = requests_folder(home), events_folder(home)
    names = {folder.name.removeprefix("day=") for p in parents for folder in p.glob("day=*")}
    return sorted(map(date.fromisoformat, names))


def _add(home: Home, manifest: LogManifest, days: list[date], scratch: Path) -> Served:
    first, last = days[0], days[-1]
    earlier = [day for day in _days(home) if first - EARLIER <= day < first]
    log, retriever = scratch / "events.parquet", _retriever(home)
    mapping = LogMapping.model_validate(manifest.mapping | {"name": manifest.dataset})
    rows = served_sql.rows(
        manifest.has_impressions, manifest.segments, retriever, mapping.candidate_features
    )
    if manifest.full_ranker:
        # A deployment ranks before the full ranker does.
        rows = f"SELECT *, NULL::FLOAT AS {FULL_RANKER} FROM ({rows})"
    with connection(threads=2, memory=MEMORY, spill=scratch / "spill") as db:
        try:
            _load(db, home, [*earlier, *days], days)
            db.execute(f"COPY ({rows}) TO {served_sql.text(str(log))} (FORMAT parquet)")
            counts = [
                db.execute(f"SELECT count(*) FROM {what}").fetchall()[0][0]
                for what in (
                    "answers WHERE day >= getvariable('first')",
                    "reports",
                    "credited",
                    "lines WHERE event_id IS NULL",
                )
            ]
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise DamagedError(
                f"{home.served} cannot be read: {error}. Move the file that is named away, and "
                "run the command again."
            ) from None
    report = None
    if pq.read_metadata(log).num_rows:
        # The rows have the canonical columns already.
        changed = {"events": EventColumns(), "time_unit": None, "actions": None, "action": None}
        reading = mapping.model_copy(update=changed)
        report = ingest(log, catalogue_of_home(home), home, mapping, reading=reading)
    answers, events, credited, unread = counts
    return Served(first, last, answers, events, credited, unread, report)


def _load(
    db: duckdb.DuckDBPyConnection, home: Home, answered: list[date], reported: list[date]
) -> None:
    """Make the tables of ``served_sql.TABLES``, of the days of each."""
    db.register("no_answers", REQUESTS.append(pa.field("day", pa.date32())).empty_table())
    answers = _files(requests_folder(home), answered)
    lines = _files(events_folder(home), reported)
    db.execute("SET VARIABLE answers = $files", {"files": answers})
    db.execute("SET VARIABLE lines = $files", {"files": lines})
    db.execute("SET VARIABLE first = $day", {"day": reported[0]})
    db.execute(
        served_sql.TABLES.format(
            answers=served_sql.ANSWERS if answers else "no_answers",
            lines=served_sql.LINES if lines else served_sql.NO_LINES,
        )
    )


def _files(parent: Path, days: list[date]) -> list[str]:
    found = (file for day in days for file in (parent / f"day={day}").glob("[!.]*"))
    return sorted(map(str, found))


def _retriever(home: Home) -> list[str]:
    """What the events of ``home`` have of its retriever."""
    home.fetch(home.events)
    events = next(home.events.glob("day=*/*.parquet"))
    return [column for column in RETRIEVER if column in pq.read_schema(events).names]
