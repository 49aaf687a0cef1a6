"""User Behavior Insights (UBI 1.0, https://github.com/o19s/ubi): searches and events as one log.

A folder with files or folders called ``ubi_queries*`` and ``ubi_events*`` is such a log:

    ubi_queries  query_id, client_id, user_query, timestamp, query_response_hit_ids
    ubi_events   query_id, action_name, timestamp, event_attributes.object.object_id,
                 event_attributes.position.ordinal (from 1)

An event with an object becomes a row of its query, by the query's user, text and time. A hit that
a query lists is an impression at its place, unless an event says that it was shown. Columns may
lie in ``_source``, as an export of the search engine has them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prerank.core.errors import ConfigError
from prerank.core.sql import connection
from prerank.ingest.lines import FILE, LINE
from prerank.ingest.mapping import LogMapping
from prerank.ingest.sources import RawFile, Source

QUERIES, EVENTS = "ubi_queries", "ubi_events"
_OBJECT, _ORDINAL = "event_attributes.object.object_id", "event_attributes.position.ordinal"
_HITS = "query_response_hit_ids"
_OF_QUERY = ("query_id", "client_id", "user_query", "timestamp")
_OF_EVENT = ("query_id", "action_name", "timestamp", _OBJECT)
_SOURCE = "_source."
_IMPRESSION = "impression"
MEMORY = "1GB"


def is_ubi(raws: list[RawFile]) -> bool:
    """Whether files are the two halves of a UBI log."""
    return all(any(_half(raw.place) == half for raw in raws) for half in (QUERIES, EVENTS))


def ubi_columns(segments: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that lie inside JSON objects."""
    names = (*_OF_QUERY, *_OF_EVENT, _HITS, _ORDINAL, *segments)
    return tuple(dict.fromkeys([_OBJECT, _ORDINAL, *(_SOURCE + n for n in names)])) + tuple(
        s for s in segments if "." in s
    )


def ubi_mapping(mapping: LogMapping) -> LogMapping:
    """A mapping as it reads the joined log: numbers are milliseconds if it does not say otherwise.

    Raises:
        ConfigError: it names columns of events, which UBI settles, or candidate features.
    """
    if mapping.events.model_fields_set or mapping.action:
        raise ConfigError(
            "The log is UBI, whose columns are known: take `events` and `action` off the mapping."
        )
    if mapping.candidate_features:
        raise ConfigError(
            "The log is UBI, which says nothing of each hit but its place: take "
            "`candidate_features` off the mapping."
        )
    actions = mapping.actions
    if actions is not None and _IMPRESSION not in actions.values():
        actions = {**actions, _IMPRESSION: _IMPRESSION}
    return mapping.model_copy(update={"time_unit": mapping.time_unit or "ms", "actions": actions})


def joined(source: Source, mapping: LogMapping, scratch: Path) -> Source:
    """The log of both halves in canonical columns of text, written to ``scratch``.

    Args:
        source: files of both halves.
        mapping: of ``ubi_mapping``; its segments are columns of the queries.
        scratch: a folder, made here.

    Raises:
        ConfigError: a half lacks a column.
    """
    scratch.mkdir(parents=True)
    queries = _half_of(source, QUERIES, (*_OF_QUERY, *mapping.segments), (_HITS,))
    events = _half_of(source, EVENTS, _OF_EVENT, (_ORDINAL,))
    shown = [team for team, name in (mapping.actions or {}).items() if name == _IMPRESSION]
    shown = shown or [_IMPRESSION]
    segments = "".join(f", q.{_quoted(s)}" for s in mapping.segments)
    file = scratch / "ubi.parquet"
    with connection(threads=2, memory=MEMORY, spill=scratch / "spill") as db:
        # A query that was logged twice is one.
        db.execute(
            f"""CREATE TABLE queries AS SELECT DISTINCT ON (query_id) * FROM ({queries})
                WHERE query_id IS NOT NULL ORDER BY "timestamp", {FILE}, {LINE}"""
        )
        db.execute(f"CREATE VIEW events AS {events}")
        db.execute(
            f"""CREATE VIEW hits AS SELECT query_id, hit, place FROM (
                    SELECT query_id, unnest({_quoted(_HITS)}) AS hit,
                        generate_subscripts({_quoted(_HITS)}, 1) - 1 AS place FROM queries)
                WHERE hit IS NOT NULL"""
        )
        db.execute(
            f"""CREATE VIEW log AS
            SELECT e.query_id AS request_id, q."timestamp" AS request_time,
                e."timestamp" AS event_time, q.client_id AS user_id, q.user_query AS query,
                e.{_quoted(_OBJECT)} AS item_id, e.action_name AS action,
                coalesce((TRY_CAST(e.{_quoted(_ORDINAL)} AS DOUBLE)::BIGINT - 1)::VARCHAR,
                    h.place::VARCHAR) AS position{segments}, e.{LINE}, e.{FILE}
            FROM events e LEFT JOIN queries q USING (query_id)
                LEFT JOIN (SELECT query_id, hit, min(place) AS place FROM hits GROUP BY ALL) h
                ON h.query_id = e.query_id AND h.hit = e.{_quoted(_OBJECT)}
            WHERE e.{_quoted(_OBJECT)} IS NOT NULL
            UNION ALL
            SELECT h.query_id, q."timestamp", q."timestamp", q.client_id, q.user_query, h.hit,
                $shown, h.place::VARCHAR{segments}, q.{LINE}, q.{FILE}
            FROM hits h JOIN queries q USING (query_id)
            WHERE NOT EXISTS (FROM events e WHERE e.query_id = h.query_id
                AND e.{_quoted(_OBJECT)} = h.hit AND list_contains($all, e.action_name))""".replace(
                "$shown", _text(shown[0])
            ).replace("$all", f"[{', '.join(map(_text, shown))}]")
        )
        db.execute(f"COPY log TO '{file}' (FORMAT parquet, COMPRESSION lz4)")
        (without,) = db.execute(
            f"SELECT count(*) FROM events WHERE {_quoted(_OBJECT)} IS NULL"
        ).fetchall()[0]
    parquet = pq.read_metadata(file)
    schema = pa.schema([f for f in pq.read_schema(file) if f.name not in (LINE, FILE)])
    remarks = source.remarks
    if without:
        remarks += (f"UBI events without an object left out: {without:,}",)
    return replace(
        source,
        files=(file,),
        names=(f"{source.names[0]} and the other files of UBI",),
        rows=(parquet.num_rows,),
        schemas=(schema,),
        is_text=(True,),
        remarks=remarks,
    )


def _half(place: str) -> str | None:
    parts = place.lower().split("/")
    return next((h for h in (QUERIES, EVENTS) if any(p.startswith(h) for p in parts)), None)


def _half_of(source: Source, half: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> str:
    """SQL of a half: its columns as text, the hits as a list of text, LINE and FILE.

    Raises:
        ConfigError: a needed column is missing.
    """
    files = [(f, n) for f, n in zip(source.files, source.names, strict=True) if _half(n) == half]
    schemas = [pq.read_schema(file) for file, _ in files]
    for column in needed:
        if not any(_expression(column, schema) for schema in schemas):
            raise ConfigError(f"{files[0][1]} has no column {column!r}, which UBI needs.")
    return " UNION ALL ".join(
        _selected(file, name.rpartition("/")[2], schema, (*needed, *optional))
        for (file, name), schema in zip(files, schemas, strict=True)
    )


def _selected(file: Path, name: str, schema: pa.Schema, columns: tuple[str, ...]) -> str:
    """SQL of a file of a half; what it lacks is null."""
    landed = LINE in schema.names
    found = []
    for column in columns:
        value = _expression(column, schema) or "NULL"
        if column == _HITS:
            listed = f"""from_json(nullif({value}, ''), '["VARCHAR"]')""" if landed else value
            found.append(f"{listed}::VARCHAR[] AS {_quoted(column)}")
        else:
            found.append(f"{value}::VARCHAR AS {_quoted(column)}")
    line = LINE if landed else f"file_row_number AS {LINE}"
    numbered = "" if landed else ", file_row_number = true"
    return (
        f"SELECT {', '.join(found)}, {line}, {_text(name)} AS {FILE} "
        f"FROM read_parquet({_text(str(file))}{numbered})"
    )


def _expression(column: str, schema: pa.Schema) -> str | None:
    """SQL of a column that stands flat, by its dotted name, or inside a struct; None without."""
    for name in (column, _SOURCE + column):
        if name in schema.names:
            return _quoted(name)
        first, *inner = name.split(".")
        if first not in schema.names:
            continue
        kind = schema.field(first).type
        for part in inner:
            index = kind.get_field_index(part) if pa.types.is_struct(kind) else -1
            if index < 0:
                break
            kind = kind.field(index).type
        else:
            return ".".join(map(_quoted, (first, *inner)))
    return None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
