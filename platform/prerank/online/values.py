"""Reading serialised feature values out of Feast's online store in one round trip.

``FeatureStore.get_online_features`` asks once per call and view, and makes several objects per key.
A request has a few milliseconds for all it does, so what it reads is asked for at once: on Redis as
one pipeline, on SQLite as one statement. The layout is Feast's (``prerank.online.layout``); tests
compare what is read with what Feast itself finds.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from feast import FeatureStore
from feast.infra.online_stores.online_store import OnlineStore
from redis import Redis

from prerank.core.errors import ConfigError
from prerank.online.connections import Connections
from prerank.online.layout import ViewLayout

Values = list[Sequence[bytes | None]]
"""Per key, each feature's serialised value (``feast.types.Value``); None where there is none."""


class SqliteLink(NamedTuple):
    """A connection for reads alone: on the one that writes, what is not committed yet is seen.

    Attributes:
        patience_ms: how long a read without a deadline waits for a lock.
        one: held by the read that is under way. While one is, the connection stays at the state
            that it began with: another read beside it would not see what was written before it.
    """

    db: sqlite3.Connection
    patience_ms: int
    one: threading.Lock


_LINKS: WeakKeyDictionary[OnlineStore, Connections | SqliteLink] = WeakKeyDictionary()
"""Of each online store that Feast has open: what it is read by."""


class Wanted(NamedTuple):
    """Features of some keys of a view."""

    view: str
    features: Sequence[str]
    keys: Sequence[str]


class OnlineValues(ABC):
    """Reads of one store, opened by ``of``. Safe to share between threads."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._layouts: dict[str, ViewLayout] = {}

    @staticmethod
    def of(store: FeatureStore) -> OnlineValues:
        """For the online store that is configured; asks it nothing yet.

        Raises:
            ConfigError: it is neither SQLite nor one Redis.
        """
        online_store = store._get_provider().online_store
        link = _LINKS.get(online_store)
        if link is None:
            link = _LINKS[online_store] = _linked(store, online_store)
        if isinstance(link, Connections):
            return RedisValues(store, link)
        return SqliteValues(store, link)

    @abstractmethod
    def read(self, wanted: Sequence[Wanted], deadline: float | None = None) -> list[Values]:
        """What the store holds of each of ``wanted``.

        Args:
            wanted: of one or more views.
            deadline: ``time.monotonic()`` at which the read is given up; None waits as long as the
                store was opened to (``prerank.online.store.Patience``).

        Raises:
            FeatureViewNotFoundException: the registry has no such view.
            TimeoutError: the deadline has passed.
            OSError, RedisError, sqlite3.Error: the store is away, or refuses.
        """

    def layout(self, view: str) -> ViewLayout:
        """Where the values of a view are; looked up once."""
        found = self._layouts.get(view)
        if found is None:
            found = ViewLayout.of(
                self._store.config, self._store.get_feature_view(view, allow_registry_cache=True)
            )
            self._layouts[view] = found
        return found


class RedisValues(OnlineValues):
    """One pipeline of HMGETs."""

    def __init__(self, store: FeatureStore, connections: Connections) -> None:
        super().__init__(store)
        self._connections = connections

    def read(self, wanted: Sequence[Wanted], deadline: float | None = None) -> list[Values]:
        """As ``OnlineValues.read``."""
        commands = []
        for view, features, keys in wanted:
            layout = self.layout(view)
            head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(features))
            fields = b"".join(_bulk(layout.fields[feature]) for feature in features)
            commands += [b"%b%b%b" % (head, _bulk(layout.hash_name(k)), fields) for k in keys]
        replies = self._connections.ask(b"".join(commands), len(commands), deadline)
        found, start = [], 0
        for _, _, keys in wanted:
            found.append(replies[start : start + len(keys)])
            start += len(keys)
        return found


class SqliteValues(OnlineValues):
    """One statement."""

    def __init__(self, store: FeatureStore, link: SqliteLink) -> None:
        super().__init__(store)
        self._db, self._patience_ms, self._one = link

    def read(self, wanted: Sequence[Wanted], deadline: float | None = None) -> list[Values]:
        """As ``OnlineValues.read``: waits for locks are bounded, the disk's own time is not."""
        layouts = [self.layout(view) for view, _, _ in wanted]
        keys = [
            [layout.entity_key(k) for k in w.keys]
            for layout, w in zip(layouts, wanted, strict=True)
        ]
        statement = " UNION ALL ".join(
            f'SELECT {i}, entity_key, feature_name, value FROM "{layout.table}" '
            f"WHERE entity_key IN ({','.join('?' * len(own))})"
            for i, (layout, own) in enumerate(zip(layouts, keys, strict=True))
        )
        rows = self._rows(statement, [key for own in keys for key in own], deadline)
        found = {(i, key, name): value for i, key, name, value in rows}
        return [
            [[found.get((i, key, name)) for name in w.features] for key in own]
            for i, (w, own) in enumerate(zip(wanted, keys, strict=True))
        ]

    def _rows(self, statement: str, keys: list[bytes], deadline: float | None) -> list[Any]:
        until = time.monotonic() + self._patience_ms / 1e3 if deadline is None else deadline
        if not self._one.acquire(timeout=max(until - time.monotonic(), 0.0)):
            raise TimeoutError("the online store was read by others for too long")
        try:
            wait_ms = max(int(1e3 * (until - time.monotonic())), 0)
            self._db.execute(f"PRAGMA busy_timeout = {wait_ms}")
            return self._db.execute(statement, keys).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise TimeoutError("the online store was locked for too long") from error
            raise
        finally:
            self._one.release()


def _linked(store: FeatureStore, online_store: Any) -> Connections | SqliteLink:
    config = store.config.online_store
    if config.type == "sqlite":
        writer = online_store._get_conn(store.config)
        (patience_ms,) = writer.execute("PRAGMA busy_timeout").fetchone()
        db = sqlite3.connect(config.path, isolation_level=None, check_same_thread=False)
        return SqliteLink(db, patience_ms, threading.Lock())
    client = online_store._get_client(config) if config.type == "redis" else None
    if not isinstance(client, Redis):
        raise ConfigError(
            f"the online store of {store.config.repo_path} is neither SQLite nor one Redis "
            "server. Configure one of these in PRERANK_FEATURE_REPO."
        )
    return Connections(client.connection_pool)


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)
