"""What ingest refuses before it does any work: paths, files, columns, actions, times, id kinds.

Footers, a sample of the times and two columns (actions and item ids) are read here, no more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from interactrank.features.schema import ENGAGE
from prerank.core.errors import ConfigError, DataError
from prerank.core.ids import ItemIds, canonical_integer, kind_of
from prerank.core.sql import connection, quoted
from prerank.ingest.existing import Existing, same_actions
from prerank.ingest.items import RawCatalogue, read_catalogue
from prerank.ingest.mapping import LogMapping
from prerank.ingest.mapping_columns import Resolved
from prerank.ingest.parsing import check_times, is_numeric
from prerank.ingest.rows import RowPlan

SAMPLED_FILES = 16
SAMPLED_ROWS = 20_000
MAX_ACTIONS = 100

_ACTION = re.compile(r"[A-Za-z0-9_.\-]+", re.ASCII)


@dataclass(frozen=True)
class Source:
    """Parquet files that make up one table.

    Attributes:
        files: absolute paths, sorted by name.
        rows: rows of each file.
        schemas: Arrow schema of each file.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    schemas: tuple[pa.Schema, ...]


@dataclass(frozen=True)
class Checked:
    """A log that may be ingested, and how.

    Attributes:
        source: the event files.
        plan: how rows are read.
        single_time: the log has only one time.
        catalogue: the catalogue, ids still as text.
        log_refs: item ids of the log as text; empty where the log's ids are integers anyway.
        warnings, notices: what the report should say.
    """

    source: Source
    plan: RowPlan
    single_time: bool
    catalogue: RawCatalogue
    log_refs: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def check(
    events: Path, items: Path | RawCatalogue, mapping: LogMapping, existing: Existing
) -> Checked:
    """Refuse what cannot be ingested into a home with ``existing``; else say how to read it.

    Raises:
        ConfigError: a path, a column, a time unit or an action that the mapping must settle.
        DataError: an unreadable or empty log, or ids of two kinds.
    """
    source, (catalogue, ignored) = _open(events, "events"), _catalogue(items, mapping)
    if not sum(source.rows):
        raise DataError(f"The log {events} is empty: its Parquet files hold no rows.")
    resolved = _same_columns(source, mapping)
    _check_times(source, resolved.columns, mapping.time_unit)
    actions = _check_actions(source, resolved.columns, mapping, existing)
    ids, log_refs = _check_ids(source, resolved.columns["item_id"], catalogue, mapping)
    checked = Checked(
        source,
        RowPlan(
            columns=resolved.columns,
            time_unit=mapping.time_unit,
            actions=mapping.actions,
            action=mapping.action,
            segments=mapping.segments,
            ids=ids,
        ),
        resolved.single_time,
        catalogue,
        tuple(log_refs),
        list(catalogue.warnings),
    )
    _remark(checked, mapping, actions, ignored)
    return checked


def _catalogue(items: Path | RawCatalogue, mapping: LogMapping) -> tuple[RawCatalogue, list[str]]:
    """The catalogue, and the columns of its files that are not read."""
    if isinstance(items, RawCatalogue):
        return items, []
    source, columns = open_catalogue(items, mapping)
    ignored = [name for name in source.schemas[0].names if name not in columns.values()]
    return read_catalogue(list(source.files), columns, mapping), ignored


def open_catalogue(items: Path, mapping: LogMapping) -> tuple[Source, dict[str, str]]:
    """The files of a catalogue, and the columns to read of each.

    Raises:
        ConfigError: the path is wrong, or a column is missing or not in every file.
        DataError: a file is unreadable, or there is none.
    """
    source = _open(items, "items")
    columns = [mapping.item_columns(s.names, str(f)) for f, s in _pairs(source)]
    if any(c != columns[0] for c in columns):
        raise ConfigError(f"The catalogue files of {items} differ in their columns: unify them.")
    return source, columns[0]


def _pairs(source: Source) -> list[tuple[Path, pa.Schema]]:
    return list(zip(source.files, source.schemas, strict=True))


def _open(path: Path, what: str) -> Source:
    if not path.is_absolute():
        raise ConfigError(
            f"The {what} path {path} is relative. Give an absolute one: a cluster job runs in "
            "another working directory."
        )
    if not path.exists():
        raise ConfigError(f"The {what} path {path} does not exist.")
    # A folder may be partitioned; what starts with _ or . is a writer's own book-keeping.
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    files = [f for f in files if not f.name.startswith((".", "_"))]
    if not files:
        raise DataError(f"The {what} folder {path} holds no *.parquet file.")
    rows, schemas = [], []
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                rows.append(opened.metadata.num_rows)
                schemas.append(opened.schema_arrow)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{file} cannot be read as Parquet: {error}. Write it again, or convert it: "
                "pandas.read_csv(...).to_parquet(...)."
            ) from None
    return Source(tuple(files), tuple(rows), tuple(schemas))


def _same_columns(source: Source, mapping: LogMapping) -> Resolved:
    first = mapping.event_columns(source.schemas[0].names, str(source.files[0]))
    for file, schema in _pairs(source)[1:]:
        other = mapping.event_columns(schema.names, str(file))
        if other != first:
            odd = sorted(set(other.columns.items()) ^ set(first.columns.items()))[0]
            raise ConfigError(
                f"{file} and {source.files[0]} differ: only one has {odd[1]!r} (as {odd[0]}). "
                f"Add the column, or switch it off in the mapping with `{odd[0]}: null`."
            )
    return first


def _check_times(source: Source, columns: dict[str, str], unit: str | None) -> None:
    step = -(-len(source.files) // SAMPLED_FILES)
    names = list(dict.fromkeys((columns["request_time"], columns["event_time"])))
    for file in source.files[::step]:
        try:
            with pq.ParquetFile(file) as opened:
                batch = next(opened.iter_batches(SAMPLED_ROWS, columns=names), None)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file} cannot be read: {error}.") from None
        if batch is not None:
            for name in names:
                check_times(batch[name], name, unit)


def _counts(source: Source, expression: str, limit: int | None = None) -> dict[str, int]:
    """Rows by the distinct values of an SQL expression, nulls left out."""
    query = f"""
        SELECT value, count(*) FROM (SELECT {expression} AS value FROM read_parquet(
            ?, union_by_name = true, hive_partitioning = false)) AS log
        WHERE value IS NOT NULL GROUP BY value {f"LIMIT {limit}" if limit else ""}"""
    try:
        with connection(threads=2) as db:
            return dict(db.execute(query, [[str(f) for f in source.files]]).fetchall())
    except duckdb.Error as error:
        raise DataError(f"The log {source.files[0].parent} cannot be read: {error}") from None


def _check_actions(
    source: Source, columns: dict[str, str], mapping: LogMapping, existing: Existing
) -> list[str]:
    """Canonical actions of the log and of what is existing."""
    if mapping.action:
        found = [mapping.action]
    else:
        column = columns["action"]
        expression = f"CAST({quoted(column)} AS VARCHAR)"
        raw = sorted(a for a in _counts(source, expression, MAX_ACTIONS + 1) if a)
        if len(raw) > MAX_ACTIONS:
            raise ConfigError(
                f"Column {column!r} has more than {MAX_ACTIONS} distinct values (such as "
                f"{raw[0]!r}): name the action column under `events.action`."
            )
        found = _renamed(raw, column, mapping.actions)
    same_actions(existing, found)
    found = sorted({*found, *existing.actions})
    if not mapping.heads_of(found):
        raise DataError(
            f"The log's actions ({', '.join(found)}) give no head a positive: only engagements "
            "can be learned. Map the engagement actions, and check `passive` and `heads`."
        )
    return found


def _renamed(raw: list[str], column: str, actions: dict[str, str] | None) -> list[str]:
    if actions is not None:
        unknown = [a for a in raw if a not in actions]
        if unknown:
            raise ConfigError(
                f"Unknown action {unknown[0]!r} in column {column!r} (mapped: "
                f"{', '.join(actions)}). Add it to the mapping, under `actions:`."
            )
        return sorted({actions[a] for a in raw})
    for action in raw:
        if action == ENGAGE or not _ACTION.fullmatch(action):
            raise ConfigError(
                f"The action {action!r} in column {column!r} cannot be a canonical name "
                f"(letters, digits, '_', '.', '-'; not {ENGAGE!r}): rename it under `actions:`."
            )
    return raw


def _check_ids(
    source: Source, column: str, catalogue: RawCatalogue, mapping: LogMapping
) -> tuple[ItemIds, list[str]]:
    """The kind of ids, and the log's distinct ids as text where they matter."""
    kinds = {str(s.field(column).type): s.field(column).type for s in source.schemas}
    integers = {is_numeric(kind) for kind in kinds.values()}
    if len(integers) > 1:
        raise DataError(
            f"Column {column!r} is {' in one file and '.join(kinds)} in another. '12' and 12 must "
            "not be mixed: write the files again in one type."
        )
    plain = all(pa.types.is_integer(k) for k in kinds.values())
    name = quoted(column)
    text = f"CAST({name} AS VARCHAR)"
    if integers == {True} and not plain:
        whole = f"{name} = trunc({name})"
        text = f"CASE WHEN {whole} THEN TRY_CAST({name} AS BIGINT)::VARCHAR ELSE {text} END"
    counts = {} if plain and mapping.ids != "string" else _counts(source, text)
    counts.pop("", None)
    if mapping.ids == "string":
        return ItemIds("string", mapping.hash_seed), list(counts)
    if mapping.ids == "integer":
        odd = next((r for r in catalogue.refs if canonical_integer(r) is None), None)
        if odd is not None:
            raise DataError(f"`ids: integer`, but the catalogue has the item id {odd!r}.")
        return ItemIds("integer", mapping.hash_seed), []
    kind = kind_of(
        catalogue.refs,
        counts,
        catalogue_ints=catalogue.integer_column,
        log_ints=integers == {True},
    )
    return ItemIds(kind, mapping.hash_seed), list(counts) if kind == "string" else []


def _remark(
    checked: Checked,
    mapping: LogMapping,
    actions: list[str],
    ignored: list[str],
) -> None:
    """Fill in warnings and notices."""
    plan, source = checked.plan, checked.source
    times = {plan.columns["request_time"], plan.columns["event_time"]}
    if checked.single_time:
        checked.warnings.append(
            f"the log has one time only ({', '.join(sorted(times))}): event_time = request_time, "
            "so counts learn of an action earlier than they could"
        )
    naive = [
        n
        for n in sorted(times)
        if pa.types.is_timestamp(kind := source.schemas[0].field(n).type) and kind.tz is None
    ]
    if naive:
        checked.notices.append(f"times without a zone are read as UTC: {', '.join(naive)}")
    used = set(plan.columns.values())
    extra = [n for n in source.schemas[0].names if n not in used]
    for what, names in (("event", extra), ("catalogue", ignored)):
        if names:
            checked.notices.append(f"{what} columns ignored: {', '.join(names)}")
    wanted = list(mapping.heads or {})
    dropped = [h for h in wanted if h not in mapping.heads_of(actions)]
    if dropped:
        checked.warnings.append(f"heads dropped, no such action in the log: {', '.join(dropped)}")
    if "impression" not in actions:
        checked.notices.append("no impressions in the log: negatives will be sampled")
