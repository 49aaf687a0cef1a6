"""Flags of users from a team's file into the journal (``prerank.core.trust``).

A file is Parquet, CSV or JSON lines, as a log may be, with a row for each flag: ``user_id``,
``weight`` and ``known_at``. It is taken whole or not at all.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.sql import connection
from prerank.core.times import EARLIEST, LATEST, UTC_US, micros
from prerank.core.trust import add_flags
from prerank.ingest.landing import in_turn, opened
from prerank.ingest.mapping import LogMapping
from prerank.ingest.parsing import is_whole, to_numbers, to_text, to_time, to_whole
from prerank.ingest.ranges import read_columns
from prerank.ingest.sources import Source, raw_files

COLUMNS = ("user_id", "weight", "known_at")


@dataclass(frozen=True)
class Flagged:
    """What became of a file of flags.

    Attributes:
        flags, users: its rows, and whom they are about.
        late: flags that count from the last published snapshot on, as it should have known them.
        unknown: users who have no event in the log.
    """

    flags: int
    users: int
    late: int
    unknown: int


def flag_users(home: Home, path: str | Path) -> Flagged:
    """Add the flags of a file, or of a folder of them, to the journal of ``home``.

    Args:
        home: with a log.
        path: absolute, or a URI.

    Raises:
        ConfigError: the path is wrong.
        StateError: nothing was ingested.
        DataError: the file cannot be read, lacks a column, has no row, or a row is wrong; the
            message names the file, the row and the field.
    """
    unit = LogMapping.model_validate(LogManifest.load(home).mapping).time_unit
    with tempfile.TemporaryDirectory() as scratch:
        source = opened(*raw_files(path, "flags"), Path(scratch), in_turn)
        _check_form(source, str(path))
        named = zip(source.files, source.names, strict=True)
        rows = pa.concat_tables(_read(file, name, unit) for file, name in named)
    users = rows["user_id"].combine_chunks()
    # As ids of the log are read: 12.0 is 12 where all are integers.
    users = to_whole(users) if any(source.is_text) and is_whole(users) else users
    known = micros(rows["known_at"])
    late = add_flags(home, users.to_pylist(), rows["weight"].to_pylist(), known.tolist())
    distinct = users.unique()
    return Flagged(len(rows), len(distinct), late, len(distinct) - _in_log(home, distinct))


def _check_form(source: Source, path: str) -> None:
    if source.rejected:
        raise DataError(f"{path} holds lines that are no rows: {', '.join(source.rejected)}.")
    for name, schema in zip(source.names, source.schemas, strict=True):
        if lacking := [column for column in COLUMNS if column not in schema.names]:
            raise DataError(
                f"{name} has no column {lacking[0]!r}: flags are rows of {', '.join(COLUMNS)}."
            )
    if not sum(source.rows):
        raise DataError(f"{path} holds no flag.")


def _read(file: Path, name: str, unit: str | None) -> pa.Table:
    """Flags of a file: ``user_id`` str, ``weight`` float64, ``known_at`` timestamp[us, UTC]."""
    raw = read_columns(file, COLUMNS)
    user, weight, known = (raw[column].combine_chunks() for column in COLUMNS)
    low, high = pa.scalar(EARLIEST, UTC_US), pa.scalar(LATEST, UTC_US)
    user, weights, known = to_text(user), to_numbers(weight)[0], to_time(known, unit)
    judged = {
        "user_id": (pc.not_equal(user, ""), "is missing"),
        "weight": (pa.array((weights >= 0) & (weights <= 1)), "is no number from 0 to 1"),
        "known_at": (
            pc.and_(pc.greater_equal(known, low), pc.less(known, high)),
            "is no time from 1971 to 2199, or needs the mapping's time_unit",
        ),
    }
    for column, (good, problem) in judged.items():
        bad = np.flatnonzero(~good.fill_null(False).to_numpy(zero_copy_only=False))
        if len(bad):
            value = raw[column][int(bad[0])].as_py()
            raise DataError(
                f"{name}: {column} of row {bad[0] + 1} {problem} ({value!r}). No flag was taken."
            )
    return pa.table({"user_id": user, "weight": weights, "known_at": known})


def _in_log(home: Home, users: pa.Array) -> int:
    """How many of the distinct ``users`` have an event."""
    home.fetch(home.events)
    files = [str(file) for file in home.events.glob("day=*/*.parquet")]
    with connection() as db:
        db.register("flagged", pa.table({"user_id": users}))
        found = db.execute(
            "SELECT count(DISTINCT user_id) FROM read_parquet(?) SEMI JOIN flagged USING (user_id)",
            [files],
        ).fetchone()
    assert found is not None
    return int(found[0])
