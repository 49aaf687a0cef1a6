"""A log and its catalogue, looked at: everything that a mapping follows from.

files  ->  a sample of rows  ->  columns  ->  roles  ->  actions, window, leftovers, faults
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa

from prerank.core.errors import DataError
from prerank.core.sql import connection, quoted
from prerank.ingest.inspection import faults
from prerank.ingest.inspection.actions import Action, actions_of, has_impressions
from prerank.ingest.inspection.catalogue import CatalogueProfile, catalogue_profile, taken_from_log
from prerank.ingest.inspection.columns import Column, profiled
from prerank.ingest.inspection.frame import frame_of
from prerank.ingest.inspection.leftover import Leftover, leftovers, shown_order
from prerank.ingest.inspection.roles import (
    MAX_ACTIONS,
    Choice,
    Choices,
    chosen,
    column_of,
    sessions,
)
from prerank.ingest.inspection.sample import Sample, chosen_files, sample_of
from prerank.ingest.inspection.tables import Rows, texts
from prerank.ingest.inspection.window import Window, windows
from prerank.ingest.landing import in_turn, opened
from prerank.ingest.mapping import LogMapping
from prerank.ingest.sources import RawFile, Source, raw_files, stem
from prerank.ingest.ubi import is_ubi, joined, ubi_columns, ubi_mapping

FOUND = 0.8
"""Share of the catalogue's ids among the values of a column from which it holds item ids."""
EARLIER = 5
"""Engagements after which a user's next one is of somebody who came back."""


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        name: of the data set, by the place of the events.
        is_ubi: the log is UBI, whose columns are settled.
        sample: of the events, and ``columns`` of it.
        roles: of the events' columns.
        actions: most frequent first.
        windows: label windows and their costs.
        others: event columns without a role.
        rank_by_place: why the position may be the retriever's rank; None where it may not.
        catalogue: the items.
        catalogue_columns: of the items.
        span_us: first request and last event, microseconds since 1970; None without times.
        requests, users, queries, items: different ones among the rows that were looked at.
        returning: share of the engagements whose user had EARLIER before, among these rows.
        faults: what is wrong, a line each.
        remarks: what else should be known, a line each.
    """

    name: str
    is_ubi: bool
    sample: Sample
    columns: tuple[Column, ...]
    roles: Choices
    actions: tuple[Action, ...]
    windows: tuple[Window, ...]
    others: tuple[Leftover, ...]
    rank_by_place: str | None
    catalogue: CatalogueProfile
    catalogue_columns: tuple[Column, ...]
    span_us: tuple[int, int] | None
    requests: int
    users: int
    queries: int
    items: int
    returning: float
    faults: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def has_impressions(self) -> bool:
        """Whether the log says what was shown."""
        return has_impressions(list(self.actions))


def inspect(events: str | Path, items: str | Path, now_us: int | None = None) -> Inspection:
    """Look at a log and its catalogue; nothing is written.

    Of a long log a sample is read; its actions are counted in all files that were opened. Text,
    and what lies in an object store, is copied to a scratch folder meanwhile.

    Args:
        events: a file, a folder or a glob, by its absolute path or its URI.
        items: the catalogue, likewise.
        now_us: the present in microseconds since 1970; None for that of the clock.

    Raises:
        ConfigError: a path is wrong.
        DataError: files cannot be read, or the log holds no row.
        NotReadyError: an object store does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        raws, remarks = raw_files(events, "events")
        ubi = is_ubi(raws)
        source, files = (
            (_ubi_log(raws, remarks, scratch), len(raws))
            if ubi
            else (opened(chosen_files(raws), remarks, scratch / "events", in_turn), len(raws))
        )
        sample = sample_of(source, 1 if ubi else files)
        if not len(sample.rows):
            raise DataError(f"The log is empty: {events} holds no row.")
        found_items, more = raw_files(items, "items")
        catalogue = opened(chosen_files(found_items), more, scratch / "items", in_turn)
        described = sample_of(catalogue, len(found_items)).rows
        now = time.time_ns() // 1_000 if now_us is None else now_us
        return _look(stem(events), ubi, source, sample, described, now)


def _ubi_log(raws: Sequence[RawFile], remarks: tuple[str, ...], scratch: Path) -> Source:
    halves = opened(raws, remarks, scratch / "events", in_turn, ubi_columns(()))
    return joined(halves, ubi_mapping(LogMapping()), scratch / "ubi")


def _look(
    name: str, ubi: bool, source: Source, sample: Sample, described: pa.Table, now_us: int
) -> Inspection:
    columns, of_items = profiled(sample.rows), profiled(described)
    with Rows(sample.rows) as rows:
        roles = chosen(rows, columns)
        catalogue = catalogue_profile(described, of_items, _items(sample.rows, roles))
        if column_of(roles, "item_id") is None:
            _find_items(roles, sample.rows, columns, catalogue.ids)
        of_sessions = sessions(rows, columns, roles)
    with Rows(frame_of(sample.rows, columns, roles)) as rows:
        actions = actions_of(rows, {} if sample.is_whole else _counts(source, roles))
        exposed = [a.name for a in actions if a.passive]
        shown = exposed if has_impressions(actions) else []
        catalogue = _without_hindsight(rows, described, of_items, catalogue)
        span = rows.one(
            """SELECT min(__asked), max(__happened), count(DISTINCT __request),
                   count(DISTINCT __user), count(DISTINCT __query), count(DISTINCT __item)
               FROM log"""
        )
        taken = {c.column for c in roles.values() if c.column} | {s for s, _ in of_sessions}
        noted = [Leftover(s, "none", "certain", why) for s, why in of_sessions]
        return Inspection(
            name=name,
            is_ubi=ubi,
            sample=sample,
            columns=tuple(columns),
            roles=roles,
            actions=tuple(actions),
            windows=tuple(windows(rows, exposed, shown)),
            others=(*noted, *leftovers(rows, columns, taken, shown)),
            rank_by_place=_rank(rows, roles, shown),
            catalogue=catalogue,
            catalogue_columns=tuple(of_items),
            span_us=None if span[0] is None or span[1] is None else (span[0], span[1]),
            requests=span[2],
            users=span[3],
            queries=span[4],
            items=span[5],
            returning=_returning(rows, exposed),
            faults=(
                *faults.missing(roles, columns, sample.rows),
                *faults.of_units(roles, columns),
                *faults.of_clock(rows, now_us),
                *faults.of_rows(rows, roles),
                *faults.of_ids(rows, catalogue.ids),
                *faults.of_catalogue(_column(of_items, column_of(catalogue.choices, "item_id"))),
                *_of_request_id(roles),
            ),
            remarks=(
                *source.remarks,
                *faults.of_times(roles),
                *faults.of_zone(roles, columns, sample.rows),
            ),
        )


def _returning(rows: Rows, exposed: Sequence[str]) -> float:
    (share,) = rows.one(
        """SELECT avg((before > $1)::INT) FROM (
               SELECT row_number() OVER (PARTITION BY __user ORDER BY __happened) AS before
               FROM log WHERE __user IS NOT NULL AND NOT list_contains($2, coalesce(__action, '')))
        """,
        [EARLIER, list(exposed)],
    )
    return float(share or 0.0)


def _column(columns: Sequence[Column], name: str | None) -> Column | None:
    return next((c for c in columns if c.name == name), None)


def _items(table: pa.Table, roles: Choices) -> list[str]:
    return [r for r in texts(table, column_of(roles, "item_id")).unique().to_pylist() if r]


def _find_items(
    roles: Choices, table: pa.Table, columns: Sequence[Column], ids: frozenset[str]
) -> None:
    """The items are in the column that holds the catalogue's ids."""
    taken = {c.column for c in roles.values()}
    for column in columns:
        if not column.is_id or column.name in taken or column.distinct < 2:
            continue
        values = [v for v in texts(table, column.name).unique().to_pylist() if v]
        share = sum(v in ids for v in values) / len(values)
        if share >= FOUND:
            why = f"{share:.0%} of its values are ids of the catalogue"
            roles["item_id"] = Choice(column.name, "certain", why)
            return


def _counts(source: Source, roles: Choices) -> dict[str, int]:
    """Rows of each action in all files that were opened; empty where they cannot be counted."""
    column = column_of(roles, "action")
    if column is None:
        return {}
    query = f"""
        SELECT {quoted(column)}::VARCHAR AS __name, count(*) FROM read_parquet(
            $1, union_by_name = true, hive_partitioning = false)
        WHERE __name <> '' GROUP BY __name ORDER BY 2 DESC LIMIT {MAX_ACTIONS}"""
    try:
        with connection(threads=2) as db:
            return dict(db.execute(query, [[str(f) for f in source.files]]).fetchall())
    except duckdb.Error:
        # Files of several types, which DuckDB does not read as one: the sample then counts.
        return {}


def _without_hindsight(
    rows: Rows, table: pa.Table, columns: Sequence[Column], catalogue: CatalogueProfile
) -> CatalogueProfile:
    """The catalogue without a ``created_at`` that was taken from the log itself."""
    created, ids = (column_of(catalogue.choices, role) for role in ("created_at", "item_id"))
    if created is None or ids is None:
        return catalogue
    column = _column(columns, created)
    if column is None or not taken_from_log(rows, table, column, ids):
        return catalogue
    why = "the time of an item's first event: an age from it would tell the future"
    choices = catalogue.choices | {"created_at": Choice(None, "likely", why)}
    return replace(catalogue, choices=choices, others=catalogue.others | {created: why})


def _rank(rows: Rows, roles: Choices, shown: Sequence[str]) -> str | None:
    """Why the position may be the retriever's rank, where the log has no other word of it."""
    told = column_of(roles, "retriever_rank", "retriever_score")
    if told or column_of(roles, "position") is None:
        return None
    return shown_order(rows, shown)


def _of_request_id(roles: Choices) -> list[str]:
    choice = roles.get("request_id")
    if choice is None or choice.column is not None:
        return []
    if "values of time" in choice.why:
        return [
            f"{choice.why}. The log's only time is that of the event: add a column with the time "
            "of the search, or each row counts as a search of its own"
        ]
    return [f"{choice.why}. Requests are told by user, query and time instead"]
