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
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prerank.core.errors import StateError
from prerank.core.files import remove, written
from prerank.core.forgotten import Forgotten
from prerank.core.home import Home
from prerank.core.leftovers import SCRATCH
from prerank.core.manifest import LogManifest
from prerank.core.served import events_folder, requests_folder
from prerank.core.sql import connection
from prerank.core.taken_out import blank, count_of, write_without
from prerank.ingest.publish import remove_all_but_the_log
from prerank.ingest.rewritten import rewritten_log


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

    def kept(file: Path) -> pa.Table | None:
        if file not in rows.files:
            return None
        table = pq.read_table(file, partitioning=None)
        return table.filter(pc.invert(pc.is_in(table["user_id"], pa.array(list(users)))))

    with rewritten_log(home, home, kept) as new:
        yield new
    remove_all_but_the_log(home)


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
