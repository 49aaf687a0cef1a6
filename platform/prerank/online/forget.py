"""Users taken out of the online store.

That nothing of them is written again is settled before (``prerank.core.forgotten``): whoever writes
histories holds a lock that is taken here, and asks for the forgotten while it does.
"""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureStore, RepoConfig

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import StateError
from prerank.core.feature_sets import online_states, state_files
from prerank.core.files import read_json, write_json
from prerank.core.home import Home
from prerank.core.sql import connection, quoted
from prerank.online.layout import ViewLayout, entity_key
from prerank.online.merging import LOCK
from prerank.online.store import (
    BULK,
    REDIS_ENV,
    WRITER,
    online_name,
    open_store,
    redis_client,
    store_config,
)
from prerank.online.streams import reached

ROWS = 1_000
"""Rows that are written to the online store at once."""
POLL_S = 0.5
CHECKPOINT_S = 10.0
"""How long readers of SQLite may hold up the end of its write-ahead log."""


def check_store(home: Home) -> None:
    """See that the online store of ``home`` is the one that the environment names.

    Raises:
        StateError: it is another one, whose rows would stay.
    """
    config = store_config(home)
    others = sorted({state["online_store"] for state in online_states(home)} - {online_name()})
    if others:
        raise StateError(
            f"the features are online in {others[0]}, and the environment names {online_name()}. "
            f"Set {REDIS_ENV} as the deployment has it, so that its rows are found."
        )
    if (
        home.store
        and config.online_store.type != "redis"
        and online_states(home)
        and not _sqlite_files(home, config)
    ):
        raise StateError(
            "the features are online in a file of another node. Run this command there, so that "
            "their rows are found."
        )


def restate_rows(home: Home, schema: FeatureSchema, keys: Sequence[str]) -> tuple[int, int]:
    """Bring the rows of engagement keys online again, from tables that were restated.

    Args:
        home: with the tables.
        schema: theirs.
        keys: distinct.

    Returns:
        Rows that were written, and keys that have none any more, whose rows were taken away.
    """
    path = home.materialised_of(schema.hash())
    if not keys or not path.exists():
        return 0, 0
    until, view = read_json(path)["until_us"], schema.engagement_view
    store = open_store(home, BULK)
    left, wanted = set(keys), pa.table({"engagement_key": pa.array(keys, pa.string())})
    files = sorted(
        str(p) for p in (home.features_of(schema.hash()) / "engagement").glob("*.parquet")
    )
    with connection() as db:
        db.register("wanted", wanted)
        latest = db.execute(
            """SELECT engagement_key, row, event_timestamp FROM read_parquet(?)
            WHERE event_timestamp <= make_timestamptz(?)
                AND engagement_key IN (SELECT engagement_key FROM wanted)
            QUALIFY row_number()
                OVER (PARTITION BY engagement_key ORDER BY event_timestamp DESC) = 1""",
            [files, until],
        )
        while files and (rows := latest.fetchmany(ROWS)):
            frame = pd.DataFrame(rows, columns=["engagement_key", "row", "event_timestamp"])
            store.write_to_online_store(view, frame)
            left -= set(frame["engagement_key"])
    _take_away(store, view, sorted(left))
    _without_probes(home, keys=left)
    return len(keys) - len(left), len(left)


def _take_away(store: FeatureStore, view: str, keys: Sequence[str]) -> None:
    """Remove the rows of engagement keys from a view."""
    layout = ViewLayout.of(store.config, store.get_feature_view(view))
    names = [layout.entity_key(key) for key in keys]
    if store.config.online_store.type != "redis":
        statement = f"DELETE FROM {quoted(layout.table)} WHERE entity_key = ?"
        with closing(_sqlite(store.config.online_store.path)) as db:
            db.executemany(statement, [(name,) for name in names])
        return
    online_store: Any = store._get_provider().online_store
    client = online_store._get_client(store.config.online_store)
    fields = [*layout.fields.values(), layout.stamp]
    with reached(), client.pipeline(transaction=False) as pipe:
        for key in keys:
            # A hash has the rows of every view.
            pipe.hdel(layout.hash_name(key), *fields)
        pipe.execute()


def histories_offline(home: Home, users: Collection[str]) -> int:
    """Take users' histories out of the online store, of every schema; how many users had some.

    Raises:
        NotReadyError: Redis does not answer.
        sqlite3.OperationalError: the file is locked for too long.
    """
    config = store_config(home)
    names = [entity_key("user_id", user, config) for user in users]
    found: set[bytes] = set()
    with _alone(home):
        for path in _sqlite_files(home, config):
            found |= _deleted(path, names)
        if config.online_store.type == "redis":
            client, project = redis_client(home)
            with closing(client), reached():
                found |= {n for n in names if client.delete(n + project.encode())}
    _without_probes(home, users=users)
    return len(found)


def _sqlite_files(home: Home, config: RepoConfig) -> list[Path]:
    """The store, or what it was before Redis."""
    path = Path(getattr(config.online_store, "path", None) or home.feast / "online.db")
    return [path] if path.exists() else []


def _sqlite(path: str | Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=WRITER.reply_s, isolation_level=None)


def _deleted(path: Path, names: Sequence[bytes]) -> set[bytes]:
    """Delete the rows of entities from every table; those that had some."""
    found = set()
    with closing(_sqlite(path)) as db:
        tables = [
            quoted(table)
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if any(column[1] == "entity_key" for column in _columns(db, table))
        ]
        for name in names:
            for table in tables:
                if db.execute(f"DELETE FROM {table} WHERE entity_key = ?", [name]).rowcount:
                    found.add(name)
    return found


def _columns(db: sqlite3.Connection, table: str) -> list[Any]:
    return db.execute(f"PRAGMA table_info({quoted(table)})").fetchall()


def rewrite_sqlite(home: Home) -> bool:
    """Write an embedded store's file anew, so that nothing deleted is left in it.

    Readers and writers may go on; writers wait meanwhile. False where readers kept an old state
    for so long that the write-ahead log still holds it.
    """
    done = True
    for path in _sqlite_files(home, store_config(home)):
        with closing(_sqlite(path)) as db:
            db.execute("VACUUM")
            deadline = time.monotonic() + CHECKPOINT_S
            while (busy := db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]) and (
                time.monotonic() < deadline
            ):
                time.sleep(POLL_S)
        done = done and not busy
    return done


def _without_probes(home: Home, keys: Collection[str] = (), users: Collection[str] = ()) -> None:
    """Take names off the rows that must be online (``prerank.online.probes``)."""
    for path in state_files(home):
        state = read_json(path)
        probes = state.get("probes")
        if not probes:
            continue
        left = {
            "keys": [key for key in probes["keys"] if key not in keys],
            "users": [user for user in probes["users"] if user not in users],
        }
        if left != probes:
            write_json(path, state | {"probes": left})


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """While no history is being written."""
    path = home.feast / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
