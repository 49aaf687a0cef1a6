"""A log's rows in the platform's fields, as far as their columns are known."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from interactrank.features.text import normalise
from prerank.core.ids import SEPARATOR
from prerank.ingest.inspection.columns import Column
from prerank.ingest.inspection.roles import Choices, column_of
from prerank.ingest.inspection.tables import no_times, texts, times


def frame_of(table: pa.Table, columns: Sequence[Column], found: Choices) -> pa.Table:
    """The rows of a table with the team's columns, and beside them

    Returns:
        ``__request``, ``__user``, ``__query``, ``__item``, ``__action`` str; ``__asked`` and
        ``__happened`` int64 microseconds since 1970; ``__place`` float64. All may be null.
    """
    by_name = {c.name: c for c in columns}
    asked = column_of(found, "request_time", "timestamp", "event_time")
    happened = column_of(found, "event_time", "timestamp", "request_time")
    at = {
        name: times(table, by_name[name]) if name else no_times(len(table))
        for name in {asked, happened}
    }
    user = texts(table, column_of(found, "user_id"))
    query = _normalised(texts(table, column_of(found, "query")))
    asked_us = at[asked].cast(pa.int64())
    given = column_of(found, "request_id")
    request = texts(table, given) if given else _joined(query, asked_us, user)
    position = column_of(found, "position")
    place = texts(table, position)
    fields = {
        "__request": request,
        "__user": user,
        "__query": query,
        "__item": texts(table, column_of(found, "item_id")),
        "__action": texts(table, column_of(found, "action")),
        "__asked": asked_us,
        "__happened": at[happened].cast(pa.int64()),
        "__place": _numbers(place),
    }
    for name, column in fields.items():
        table = table.append_column(name, column)
    return table


def _normalised(array: pa.Array) -> pa.Array:
    encoded = array.dictionary_encode()
    tidy = [normalise(q) for q in encoded.dictionary.to_pylist()]
    return pa.array(tidy, pa.string()).take(encoded.indices)


def _joined(*parts: pa.Array) -> pa.Array:
    plain = [p.cast(pa.string()).fill_null("") for p in parts]
    return pc.binary_join_element_wise(*plain, SEPARATOR)


def _numbers(array: pa.Array) -> pa.Array:
    numeric = pc.match_substring_regex(array, r"^\d+(\.0*)?$")
    return pc.if_else(numeric, array, None).cast(pa.float64())
