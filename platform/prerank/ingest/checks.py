"""What ingest refuses before it does any work: columns, actions, times, id kinds.

Footers, a sample of the times and two columns (actions and item ids) are read here, no more.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import pyarrow as pa

from interactrank.features.schema import CANDIDATE_PREFIX, ENGAGE
from prerank.core.errors import ConfigError, DataError
from prerank.core.ids import ItemIds, kind_of, non_integers
from prerank.core.sql import connection, quoted
from prerank.ingest.existing import Existing, same_actions
from prerank.ingest.items import RawCatalogue, read_catalogue
from prerank.ingest.mapping import LogMapping
from prerank.ingest.mapping_columns import Resolved
from prerank.ingest.parsing import check_times, is_numeric, whole_text
from prerank.ingest.ranges import RowRange, read_range
from prerank.ingest.rows import RowPlan
from prerank.ingest.sources import Source

SAMPLED_FILES = 16
SAMPLED_ROWS = 20_000
MAX_ACTIONS = 100

_AS_TEXT = "CAST(value AS VARCHAR)"
_ACTION = re.compile(r"[A-Za-z0-9_.\-]+", re.ASCII)


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
    source: Source, items: Source | RawCatalogue, mapping: LogMapping, existing: Existing
) -> Checked:
    """Refuse what cannot be ingested into a home with ``existing``; else say how to read it.

    Raises:
        ConfigError: a column, a time unit or an action that the mapping must settle.
        DataError: an unreadable or empty log, or ids of two kinds.
    """
    catalogue, remarks = _catalogue(items, mapping)
    if not sum(source.rows):
        raise DataError(f"The log is empty: {source.names[0]} and what lies beside it hold no row.")
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
            whole=_whole(source, resolved.columns, mapping.segments),
            candidate_features=tuple(CANDIDATE_PREFIX + n for n in mapping.candidate_features),
        ),
        resolved.single_time,
        catalogue,
        tuple(log_refs),
        list(catalogue.warnings),
    )
    _remark(checked, mapping, actions, remarks)
    return checked


def _catalogue(items: Source | RawCatalogue, mapping: LogMapping) -> tuple[RawCatalogue, list[str]]:
    """The catalogue, and what the report should say of its files."""
    if isinstance(items, RawCatalogue):
        return items, []
    columns = catalogue_columns(items, mapping)
    found = read_catalogue(items, columns, mapping)
    return found, [*_ignored("catalogue", items, columns), *items.remarks]


def _ignored(what: str, source: Source, columns: dict[str, str]) -> list[str]:
    extra = [name for name in source.schemas[0].names if name not in columns.values()]
    return [f"{what} columns ignored: {', '.join(extra)}"] if extra else []


def catalogue_columns(source: Source, mapping: LogMapping) -> dict[str, str]:
    """The columns to read of each file of a catalogue.

    Raises:
        ConfigError: a column is missing or not in every file.
    """
    found = zip(source.names, source.schemas, strict=True)
    columns = [mapping.item_columns(schema.names, name) for name, schema in found]
    if any(c != columns[0] for c in columns):
        raise ConfigError(
            f"The catalogue files beside {source.names[0]} differ in their columns: unify them."
        )
    return columns[0]


def _same_columns(source: Source, mapping: LogMapping) -> Resolved:
    first = mapping.event_columns(source.schemas[0].names, source.names[0])
    for name, schema in zip(source.names, source.schemas, strict=True):
        other = mapping.event_columns(schema.names, name)
        if other != first:
            odd = sorted(set(other.columns.items()) ^ set(first.columns.items()))[0]
            raise ConfigError(
                f"{name} and {source.names[0]} differ: only one has {odd[1]!r} (as {odd[0]}). "
                f"Add the column, or switch it off in the mapping with `{odd[0]}: null`."
            )
    return first


def _check_times(source: Source, columns: dict[str, str], unit: str | None) -> None:
    step = -(-len(source.files) // SAMPLED_FILES)
    names = list(dict.fromkeys((columns["request_time"], columns["event_time"])))
    for file, place in list(zip(source.files, source.names, strict=True))[::step]:
        try:
            _, batch = next(read_range(RowRange(file, 0, SAMPLED_ROWS), names), (0, None))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{place} cannot be read: {error}.") from None
        if batch is not None:
            for name in names:
                check_times(batch[name].combine_chunks(), name, unit)


def _query(source: Source, select: str, column: str, then: str = "") -> list[tuple[Any, ...]]:
    """Rows of ``select`` over a column of the log, as ``value``."""
    query = f"""
        SELECT {select} FROM (SELECT {quoted(column)} AS value FROM read_parquet(
            ?, union_by_name = true, hive_partitioning = false)) AS log
        WHERE value IS NOT NULL {then}"""
    try:
        with connection(threads=2) as db:
            return db.execute(query, [[str(f) for f in source.files]]).fetchall()
    except duckdb.Error as error:
        raise DataError(f"The log at {source.names[0]} cannot be read: {error}") from None


def _counts(source: Source, column: str, text: str, limit: int | None = None) -> dict[str, int]:
    """Rows by the distinct values of ``text``, an SQL expression of a column, nulls left out."""
    then = f"AND ({text}) IS NOT NULL GROUP BY {text} {f'LIMIT {limit}' if limit else ''}"
    return dict(_query(source, f"{text}, count(*)", column, then))


def _check_actions(
    source: Source, columns: dict[str, str], mapping: LogMapping, existing: Existing
) -> list[str]:
    """Canonical actions of the log and of what is existing."""
    if mapping.action:
        found = [mapping.action]
    else:
        column = columns["action"]
        raw = sorted(a for a in _counts(source, column, _AS_TEXT, MAX_ACTIONS + 1) if a)
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
    typed = [s for s, text in zip(source.schemas, source.is_text, strict=True) if not text]
    kinds = {str(s.field(column).type): s.field(column).type for s in typed}
    integers = {is_numeric(kind) for kind in kinds.values()}
    if len(integers) > 1:
        raise DataError(
            f"Column {column!r} is {' in one file and '.join(kinds)} in another. '12' and 12 must "
            "not be mixed: write the files again in one type."
        )
    plain = not any(source.is_text) and all(pa.types.is_integer(k) for k in kinds.values())
    text = _AS_TEXT
    if integers == {True} and not plain and not any(source.is_text):
        whole = "value = trunc(value)"
        text = f"CASE WHEN {whole} THEN TRY_CAST(value AS BIGINT)::VARCHAR ELSE {text} END"
    counts = {} if plain and mapping.ids != "string" else _counts(source, column, text)
    counts.pop("", None)
    rows: Counter[str] = Counter()
    for ref, count in counts.items():
        rows[whole_text(ref)] += count
    # Either form may be that of a file: of text, or of numbers.
    refs = list({*counts, *rows} if any(source.is_text) else counts)
    if mapping.ids == "string":
        return ItemIds("string", mapping.hash_seed), refs
    if mapping.ids == "integer":
        odd = next(iter(non_integers(catalogue.refs)), None)
        if odd is not None:
            raise DataError(f"`ids: integer`, but the catalogue has the item id {odd!r}.")
        return ItemIds("integer", mapping.hash_seed), []
    kind = kind_of(
        catalogue.refs,
        rows if any(source.is_text) else counts,
        catalogue_ints=catalogue.integer_column,
        log_ints=integers == {True},
    )
    return ItemIds(kind, mapping.hash_seed), refs if kind == "string" else []


def _whole(source: Source, columns: dict[str, str], segments: tuple[str, ...]) -> frozenset[str]:
    """Text fields whose every value in the whole log is an integer, some of them as 12.0.

    Programs that hold integers with gaps as floats write them so.
    """
    text_files = replace(
        source,
        files=tuple(f for f, text in zip(source.files, source.is_text, strict=True) if text),
    )
    if not text_files.files:
        return frozenset()
    found = set()
    for name in ("request_id", "user_id", "event_id", *segments):
        if (column := columns.get(name)) is None:
            continue
        # The cheap question first: most columns have no such value.
        ((some,),) = _query(text_files, "bool_or(suffix(value, '.0'))", column)
        matches = "bool_and(regexp_full_match(value::VARCHAR, '-?[0-9]+(\\.0+)?'))"
        if some and _query(source, matches, column) == [(True,)]:
            found.add(name)
    return frozenset(found)


def _remark(
    checked: Checked,
    mapping: LogMapping,
    actions: list[str],
    of_catalogue: list[str],
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
    checked.notices.extend(
        (*_ignored("event", source, plan.columns), *of_catalogue, *source.remarks)
    )
    wanted = list(mapping.heads or {})
    dropped = [h for h in wanted if h not in mapping.heads_of(actions)]
    if dropped:
        checked.warnings.append(f"heads dropped, no such action in the log: {', '.join(dropped)}")
    if "impression" not in actions:
        checked.notices.append("no impressions in the log: negatives will be sampled")
