"""What is wrong with a log: its clock, its ids, its rows. Each fault is one line."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from prerank.core.errors import ConfigError
from prerank.core.times import DAY_US, EARLIEST, EPOCH, LATEST
from prerank.ingest.inspection.columns import Column
from prerank.ingest.inspection.names import strength
from prerank.ingest.inspection.roles import NEEDED, TIMES, Choices, column_of
from prerank.ingest.inspection.tables import Rows
from prerank.ingest.parsing import check_times, is_textual

FEW = 20
"""Rows by which a shift of the clock is told."""
_ZONE = r"(Z|UTC|GMT|:\S*[+-]\d\d:?(\d\d)?)\s*$"
_INTEGER = "^-?(0|[1-9][0-9]*)$"


def missing(found: Choices, columns: Sequence[Column], table: pa.Table) -> list[str]:
    """Roles that a log must have and for which no column was found."""
    said = []
    names = ", ".join(c.name for c in columns)
    for role in NEEDED:
        if column_of(found, role) is None:
            also = ", or one constant `action`" if role == "action" else ""
            said.append(f"no column looks like the {role}: name one under `events`{also} ({names})")
    if column_of(found, *TIMES) is None:
        said.append(f"no column holds times that can be read: {_unread(columns, table) or names}")
    return said


def _unread(columns: Sequence[Column], table: pa.Table) -> str:
    """Why a text that is a time by its name is none."""
    for column in columns:
        if column.kind == "text" and any(strength(column.name, role) for role in TIMES):
            try:
                check_times(table[column.name].combine_chunks()[:1000], column.name, None)
            except ConfigError as error:
                return str(error)
    return ""


def of_clock(rows: Rows, now_us: int) -> list[str]:
    """Times that cannot be, and what looks like two time zones.

    Args:
        rows: of ``frame_of``.
        now_us: the present, microseconds since 1970.
    """
    said = []
    early, late = ((t - EPOCH).total_seconds() * 1e6 for t in (EARLIEST, LATEST))
    for condition, what in (
        ("__asked IS NULL OR __happened IS NULL", "have a time that is missing or cannot be read"),
        (
            f"least(__asked, __happened) < {early:.0f} OR greatest(__asked, __happened) >= "
            f"{late:.0f}",
            "have a time before 1971 or after 2199: a wrong unit, or a zero for 'unknown'",
        ),
        (
            f"greatest(__asked, __happened) > {now_us + DAY_US} "
            f"AND greatest(__asked, __happened) < {late:.0f}",
            "lie in the future: a clock that is wrong, or a wrong unit",
        ),
        ("__happened < __asked", "have an event before its request: they will be quarantined"),
    ):
        if share := rows.share(condition):
            said.append(f"{_share(share)} of the rows {what}")
    return [*said, *_shifted(rows)]


def _shifted(rows: Rows) -> list[str]:
    found = rows.ask(
        """SELECT round(hours)::BIGINT AS shift,
               count(*) FILTER (abs(hours - round(hours)) < 0.1), sum(count(*)) OVER ()
           FROM (SELECT (__happened - __asked) / 3.6e9 AS hours FROM log
                 WHERE __happened <> __asked) GROUP BY shift ORDER BY 2 DESC LIMIT 1"""
    )
    for shift, near, total in found:
        if shift and total >= FEW and near >= 0.8 * total:
            return [
                f"{near / total:.0%} of the events that are not at their request's time are "
                f"{abs(shift)} h {'after' if shift > 0 else 'before'} it, to within minutes: the "
                "two times seem to be of two time zones. Write both in UTC"
            ]
    return []


def of_rows(rows: Rows, found: Choices) -> list[str]:
    """Rows that say the same thing twice, or lack what every row needs."""
    said = []
    for role in NEEDED:
        if column_of(found, role):
            field = {"user_id": "user", "item_id": "item"}.get(role, role)
            if share := rows.share(f"coalesce(__{field}, '') = ''"):
                said.append(f"{_share(share)} of the rows have no {role}: they will be quarantined")
    fields = "__request, __user, __query, __item, __action, __asked, __happened"
    total, different = rows.one(
        f"SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT {fields} FROM log)) FROM log"
    )
    if total > different:
        share = (total - different) / total
        said.append(
            f"{_share(share)} of the rows repeat another one (same request, item, action and "
            "times): they count once" + " unless their event_id differs" * ("event_id" in found)
        )
    return said


def of_ids(rows: Rows, catalogue: Collection[str]) -> list[str]:
    """Item ids of two kinds, and ids that the catalogue lacks.

    Args:
        rows: of ``frame_of``.
        catalogue: item ids of the catalogue as text; empty where they are not known.
    """
    refs = [ref for (ref,) in rows.ask("SELECT DISTINCT __item FROM log WHERE __item <> ''")]
    if not refs:
        return []
    (integers,) = rows.one(
        f"SELECT avg(regexp_full_match(i, '{_INTEGER}')::INT) FROM ("
        "SELECT DISTINCT __item AS i FROM log WHERE __item <> '')"
    )
    said = []
    if 0.0 < integers < 1.0:
        odd, what = min((1 - integers, "texts"), (integers, "integers"))
        said.append(
            f"{_share(odd)} of the item ids are {what}, the others are not: two kinds of ids. "
            "Where both are meant, set `ids: string`"
        )
    if catalogue:
        known = set(catalogue)
        lacking = sum(ref not in known for ref in refs) / len(refs)
        if lacking > 0.01:
            said.append(f"{_share(lacking)} of the log's items are in no catalogue: they lack text")
        if lacking > 0.9:
            said.append(
                f"hardly an item id of the log ({refs[0]!r}) is one of the catalogue's "
                f"({min(catalogue)!r}): the wrong column, or written in another way"
            )
    return said


def of_times(found: Choices) -> list[str]:
    """Whether the log has one time only."""
    told = [role for role in TIMES if column_of(found, role)]
    if len(told) != 1:
        return []
    return [
        f"{column_of(found, *told)} is the only time: it is that of the request and of the event, "
        "so how late an engagement comes is not known"
    ]


def of_catalogue(ids: Column | None) -> list[str]:
    """Items that stand twice in a catalogue, by its column of ids."""
    if ids is None or ids.distinct == ids.known:
        return []
    return [
        f"{ids.known - ids.distinct:,} rows of the catalogue repeat an item id: where their "
        "attributes differ, the catalogue will be refused"
    ]


def of_zone(found: Choices, columns: Sequence[Column], table: pa.Table) -> list[str]:
    """Whether times have no zone, and are read as UTC."""
    naive = []
    for column in columns:
        if column.name != column_of(found, *TIMES) or column.kind != "time":
            continue
        kind = table[column.name].type
        if pa.types.is_timestamp(kind) and kind.tz is None:
            naive.append(column.name)
        if is_textual(kind) and not _zoned(table[column.name].slice(0, 1000)):
            naive.append(column.name)
    return [f"{name} has no zone and is read as UTC" for name in naive]


def _zoned(texts: pa.ChunkedArray) -> bool:
    """Whether a text that is a time ends in a zone."""
    return bool(pc.any(pc.match_substring_regex(texts, _ZONE)).as_py())


def of_units(found: Choices, columns: Sequence[Column]) -> list[str]:
    """Numeric times of several units, of which a mapping can name one."""
    by_name = {c.name: c for c in columns}
    units = {
        role: by_name[choice.column].unit
        for role, choice in found.items()
        if role in TIMES and choice.column and by_name[choice.column].kind in ("integer", "number")
    }
    if len(set(units.values())) < 2:
        return []
    each = ", ".join(f"{role} in {unit}" for role, unit in units.items())
    return [f"the times have several units ({each}), and a mapping names one: convert a column"]


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "fewer than 0.1%"
