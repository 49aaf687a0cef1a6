"""How an event log is made of the served log, in SQL (``prerank.ingest.served``)."""

from __future__ import annotations

from collections.abc import Sequence

from interactrank.features.schema import CANDIDATE_PREFIX
from prerank.core.manifest import RETRIEVER
from prerank.core.served import EVENT_FIELDS
from prerank.core.sql import quoted

EXPOSURE = "impression"
_COLUMNS = ", ".join(f"{name}: {kind!r}" for name, kind in EVENT_FIELDS.items())
ANSWERS = "read_parquet(getvariable('answers'), hive_partitioning = true)"
LINES = f"""read_json(getvariable('lines'), format = 'newline_delimited', ignore_errors = true,
    hive_partitioning = false, columns = {{{_COLUMNS}}})"""
"""The files that the variables name."""
_NULLS = ", ".join(f"NULL::{kind} AS {name}" for name, kind in EVENT_FIELDS.items())
NO_LINES = f"(SELECT {_NULLS} WHERE false)"
"""Where there is no file."""

TABLES = """
CREATE TEMP TABLE answers AS
    -- A caller that tried again has the first answer's place.
    SELECT request_id, request_time, user_id, query, context, items, retriever, day
    FROM {answers}
    QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY request_time, day) = 1;
CREATE TEMP TABLE lines AS SELECT * FROM {lines};
CREATE TEMP TABLE reports AS
    SELECT * FROM lines WHERE event_id IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY event_time) = 1;
CREATE TEMP TABLE credited AS
    SELECT e.*, a.request_time, a.query AS searched, a.context, a.items, a.retriever
    FROM reports AS e JOIN answers AS a USING (request_id, user_id);
"""


def rows(
    exposed: bool,
    segments: Sequence[str],
    retriever: Sequence[str],
    candidate_features: Sequence[str] = (),
) -> str:
    """Rows of the event log of ``TABLES``, in its canonical columns; a candidate feature has its
    own name.

    Args:
        exposed: whether what was answered is in it; from the day ``first`` (a variable) on.
        segments: of the log.
        retriever: columns of the log, of ``RETRIEVER``.
        candidate_features: of the log.
    """
    given = {name: RETRIEVER[name] for name in retriever}
    given |= {name: CANDIDATE_PREFIX + name for name in candidate_features}
    empty = "".join(f", NULL::VARCHAR AS {quoted(name)}" for name in segments)
    empty += "".join(f", NULL::FLOAT AS {quoted(name)}" for name in given)
    told = "".join(f", context[{text(name)}] AS {quoted(name)}" for name in segments)
    told += "".join(
        f", CASE WHEN NOT isnan(retriever[{text(key)}][place]) "
        f"THEN retriever[{text(key)}][place] END AS {quoted(name)}"
        for name, key in given.items()
    )
    own = f"""
        SELECT 'event-' || md5(event_id) AS request_id, make_timestamp(event_time) AS request_time,
            user_id, query, item_id, action, make_timestamp(event_time) AS event_time, position,
            event_id{empty}
        FROM reports ANTI JOIN credited USING (event_id)"""
    of_answers = f"""
        SELECT request_id, request_time, user_id, searched AS query, item_id, action,
            make_timestamp(event_time) AS event_time, coalesce(position, place) AS position,
            event_id{told}
        FROM (SELECT *, list_position(items, item_id) AS place FROM credited)"""
    shown = f"""
        SELECT request_id, request_time, user_id, query, item_id, '{EXPOSURE}' AS action,
            request_time AS event_time, place AS position, NULL AS event_id{told}
        FROM (SELECT *, unnest(items) AS item_id, generate_subscripts(items, 1) AS place
            FROM answers WHERE day >= getvariable('first'))
        ANTI JOIN (SELECT request_id FROM credited WHERE action = '{EXPOSURE}')
            USING (request_id)"""
    return " UNION ALL ".join([own, of_answers, *([shown] if exposed else [])])


def text(value: str) -> str:
    """A text as SQL has it."""
    return "'" + value.replace("'", "''") + "'"
