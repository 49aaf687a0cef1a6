"""What the playground knows of the ingested log: its items, and its newest events.

Everything is made once, when the log is opened: the newest events in an in-memory table, and an
index of names for each kind of thing that is searched for. Memory is linear in the catalogue and in
``PlaygroundConfig.log_events``; no request reads a file of the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.schema import CANDIDATE_PREFIX
from interactrank.features.text import query_code
from prerank.core.home import Home
from prerank.core.manifest import RETRIEVER, LogManifest
from prerank.core.sql import connection, quoted
from prerank.core.times import iso
from prerank.playground.catalogue import Items
from prerank.playground.names import Names
from prerank.serving.fields import RequestError, shown

MEMORY = "1GB"
"""Of the newest events; a million of them take a few hundred megabytes."""
KINDS = ("queries", "users", "items")
MAX_REQUESTS = 20
"""Searches of the log that are listed of a query or a user."""

Row = dict[str, Any]


class LogView:
    """The log of a home, as it was when it was opened.

    Args:
        home: that was ingested.
        newest: events that are known, at most.

    Raises:
        StateError: nothing was ingested.

    Attributes:
        manifest: of the log.
        items: of the catalogue.
        fingerprint: of the log; another one means another log.
    """

    def __init__(self, home: Home, newest: int) -> None:
        home = home.pin()
        self.manifest = LogManifest.load(home)
        self.fingerprint = self.manifest.fingerprint
        self.items = Items(home)
        self._db = connection(memory=MEMORY)
        self._read_events(home, newest)
        queries, users = self._weighted("query"), self._weighted("user_id")
        self._query_names, self._user_names = (Names([n for n, _ in t]) for t in (queries, users))
        self._weights = {"queries": queries, "users": users}
        self._known_users = {name for name, _ in users}
        self._query_of_code = {query_code(text): text for text, _ in reversed(queries)}
        self._item_order, self._item_counts = self._ordered_items()
        self._item_names = Names(self.items.texts(self._item_order))

    def suggest(self, kind: str, typed: str, limit: int) -> list[Row]:
        """Queries, users or items of which a name begins with, or holds, what was ``typed``.

        Each has ``id``, ``title`` and ``count``: searches of the newest events, of an item its
        engagements.
        """
        if kind == "items":
            at = self._item_names.find(typed, limit)
            rows, counts = self._item_order[at], self._item_counts[at]
            pairs = zip(rows.tolist(), counts.tolist(), strict=True)
            return [self.items.at(row) | {"count": count} for row, count in pairs]
        weighted = self._weights[kind]
        names = self._query_names if kind == "queries" else self._user_names
        found = [weighted[at] for at in names.find(typed, limit)]
        return [{"id": name, "title": name, "count": count} for name, count in found]

    def knows_user(self, user_id: str) -> bool:
        """Whether the newest events have the user."""
        return user_id in self._known_users

    def query_text(self, code: int) -> str | None:
        """The query of a code in a history; None where the newest events have none."""
        return self._query_of_code.get(code)

    def requests(self, query: str | None = None, user_id: str | None = None) -> list[Row]:
        """The newest searches of a normalised query, of a user, or of both."""
        asked = {"query": query, "user_id": user_id}
        given = {name: value for name, value in asked.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in given) or "true"
        known = [name for name in self.manifest.segments if name in self._columns]
        segments = "".join(f", any_value({quoted(name)})" for name in known)
        rows = self._ask(
            "SELECT request_id, any_value(user_id), any_value(query), any_value(moment), "
            "count(DISTINCT item_id), count(DISTINCT item_id) FILTER (engaged)"
            f"{segments} FROM events WHERE {where} GROUP BY request_id "
            f"ORDER BY any_value(moment) DESC, request_id LIMIT {MAX_REQUESTS}",
            list(given.values()),
        )
        return [
            {
                "request_id": id,
                "user_id": user,
                "query": text,
                "time": iso(at),
                "candidates": candidates,
                "engaged": engaged,
                "context": {k: v for k, v in zip(known, values, strict=True) if v},
            }
            for id, user, text, at, candidates, engaged, *values in rows
        ]

    def candidates(self, request_id: str) -> tuple[list[Row], NDArray[np.int64]]:
        """The candidates of a search as ``/v1/prerank`` takes them, and keys of those engaged with.

        Raises:
            RequestError: the newest events have no such search.
        """
        given = [name for name in self._given if name in self._columns]
        columns = "".join(f", any_value({quoted(name)})" for name in given)
        rows = self._ask(
            f"SELECT item_id, bool_or(engaged){columns} FROM events WHERE request_id = ? "
            "GROUP BY item_id ORDER BY min(place), item_id",
            [request_id],
        )
        if not rows:
            raise RequestError(
                "source.request_id",
                f"{shown(request_id)} is no search among the newest events of the log; choose "
                "another one",
                404,
            )
        keys = np.array([row[0] for row in rows], np.int64)
        shown_as = self.items.shown(keys)
        found = [
            _candidate(item["id"], dict(zip(given, row[2:], strict=True)))
            for item, row in zip(shown_as, rows, strict=True)
        ]
        return found, keys[[bool(row[1]) for row in rows]]

    def searched_for(self, key: int, limit: int) -> list[Row]:
        """The queries that most engagements of an item came from, among the newest events."""
        rows = self._ask(
            "SELECT query, count(*) FROM events WHERE item_id = ? AND engaged GROUP BY query "
            "ORDER BY count(*) DESC, query LIMIT ?",
            [key, limit],
        )
        return [{"query": query, "count": count} for query, count in rows]

    def segment_values(self, column: str, limit: int) -> list[str]:
        """The values of a segment column that most searches have."""
        if column not in self._columns:
            return []
        name = quoted(column)
        rows = self._ask(
            f"SELECT {name} FROM events WHERE {name} <> '' GROUP BY {name} "
            f"ORDER BY count(DISTINCT request_id) DESC, 1 LIMIT {limit}",
            [],
        )
        return [value for (value,) in rows]

    @property
    def _given(self) -> Mapping[str, str]:
        """Columns of what callers gave of each candidate, with their names in a request."""
        own = {CANDIDATE_PREFIX + name: name for name in self.manifest.candidate_features}
        return {c: n for c, n in RETRIEVER.items() if n in self.manifest.retriever} | own

    def _read_events(self, home: Home, newest: int) -> None:
        """Make the table of the newest events; of the files, only as many as hold them are read."""
        files, rows = [], 0
        for file in reversed(home.files(home.events)):
            home.fetch(file)
            files.append(str(file))
            rows += pq.read_metadata(file).num_rows
            if rows >= newest:
                break
        there = set(pq.read_schema(files[0]).names) if files else set()
        names = (*self.manifest.segments, *self._given)
        self._columns = [name for name in names if name in there]
        if not files:
            self._db.execute(
                "CREATE TABLE events (request_id VARCHAR, moment BIGINT, user_id VARCHAR, "
                "query VARCHAR, item_id BIGINT, engaged BOOLEAN, place INTEGER)"
            )
            return
        position = "position" if "position" in there else "NULL"
        own = "".join(f", {quoted(name)}" for name in self._columns)
        self._db.execute(
            "CREATE TABLE events AS SELECT request_id, epoch_us(request_time) AS moment, user_id, "
            f"query, item_id, list_contains(?, action) AS engaged, {position} AS place{own} "
            "FROM read_parquet(?, hive_partitioning = false, union_by_name = true) "
            f"ORDER BY request_time DESC LIMIT {newest}",
            [list(self.manifest.schema.engagements), files],
        )

    def _weighted(self, column: str) -> list[tuple[str, int]]:
        """Distinct values of a column and in how many searches each stands, most first."""
        return self._ask(
            f"SELECT {column}, count(DISTINCT request_id) FROM events GROUP BY {column} "
            "ORDER BY 2 DESC, 1",
            [],
        )

    def _ordered_items(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of all items, those that are engaged with most first, and their engagements."""
        counts = np.zeros(len(self.items), np.int64)
        found = self._ask("SELECT item_id, count(*) FROM events WHERE engaged GROUP BY item_id", [])
        if found:
            keys, engaged = np.array(found, np.int64).T
            rows = self.items.rows(keys)
            counts[rows[rows >= 0]] = engaged[rows >= 0]
        order = np.argsort(-counts, kind="stable")
        return order, counts[order]

    def _ask(self, statement: str, values: list[Any]) -> list[Any]:
        # A cursor each: a connection serves one thread at a time.
        return self._db.cursor().execute(statement, values).fetchall()


def _candidate(id: str, given: Mapping[str, Any]) -> Row:
    """A candidate as a request names it, with what the log says that its caller gave."""
    told = {k: v for k, v in given.items() if v is not None}
    found: Row = {"id": id} | {RETRIEVER[k]: v for k, v in told.items() if k in RETRIEVER}
    own = {k.removeprefix(CANDIDATE_PREFIX): v for k, v in told.items() if k not in RETRIEVER}
    return found | ({"features": own} if own else {})
