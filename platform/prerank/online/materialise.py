"""Filling the online store from the feature tables.

Feast materialises the engagement rows; nothing else writes them. Histories are merged by event id,
as live events are (``prerank.online.writer``): on SQLite an older row that Feast materialised
would overwrite a newer one that was pushed.
"""

from __future__ import annotations

from typing import Any

from feast import FeatureStore
from tqdm import tqdm

from prerank.core.errors import StateError
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.quiet import muted
from prerank.core.sql import connection
from prerank.core.times import HOUR_US, utc
from prerank.online.history import HISTORY_FIELDS, History
from prerank.online.store import apply, online_name
from prerank.online.writer import HistoryWriter

HISTORY_BATCH = 1_000
SAME_FEATURES = ("schema_hash", "fingerprint", "cadence_hours", "lag_minutes")
"""What must agree for materialisation to resume instead of starting over."""


def materialise(home: Home, until_us: int | None = None, progress: bool = True) -> dict[str, Any]:
    """Bring the online store to what was known at ``until_us``: rows stamped at or before it.

    Args:
        home: features must be built there.
        until_us: microseconds since 1970; None takes everything.
        progress: show bars.

    Returns:
        What is written to ``materialised.json``: until_us, cutoff_us (the latest snapshot's),
        schema_hash, fingerprint, schema, online_store, users.

    Raises:
        StateError: no features, or those of a log that was replaced since, or the online store
            already holds a later state.
    """
    features = home.read_json(home.features / "manifest.json", "prerank features")
    if not home.has_made(features):
        raise StateError(
            f"{home.features} is of a log that was replaced since. Run `prerank features` again."
        )
    lag = features["lag_minutes"] * 60_000_000
    until = features["last_cutoff_us"] + lag if until_us is None else until_us
    start = _start(home, features, until)
    store = apply(home)
    with muted():
        # Inclusive at both ends, as the offline join is at its right end.
        store.materialize(utc(start), utc(until), feature_views=["engagement"])
    users = _backfill(home, store, until, progress)
    cadence = features["cadence_hours"] * HOUR_US
    cutoff = min(features["last_cutoff_us"], (until - lag) // cadence * cadence)
    state = {
        "until_us": until,
        "cutoff_us": cutoff,
        **{name: features[name] for name in SAME_FEATURES},
        "schema": features["schema"],
        "online_store": online_name(),
        "users": users,
    }
    write_json(home.materialised, state)
    return state


def _start(home: Home, features: dict[str, Any], until: int) -> int:
    """Where materialisation may resume; zero for another store than before, or other features."""
    path = home.materialised
    if not path.exists():
        return 0
    before = home.read_json(path, "prerank materialise")
    if before.get("online_store") != online_name():
        return 0
    if before["until_us"] > until:
        raise StateError(
            f"the online store already holds the state of {utc(before['until_us'])}, later than "
            f"{utc(until)}: it cannot forget. Remove {home.feast} (with Redis: use an empty one) "
            "and materialise again."
        )
    same = all(before.get(name) == features[name] for name in SAME_FEATURES)
    return int(before["until_us"]) if same else 0


def _backfill(home: Home, store: FeatureStore, until: int, progress: bool) -> int:
    """Merge every user's latest history at ``until`` into the online store; number of users."""
    files = sorted(str(p) for p in (home.features / "user_history").glob("*.parquet"))
    if not files:
        return 0
    writer = HistoryWriter.backfill(home, store)
    columns = ", ".join(HISTORY_FIELDS)
    users = 0
    with connection() as db:
        latest = db.execute(
            f"""SELECT user_id, {columns} FROM read_parquet(?)
            WHERE event_timestamp <= make_timestamptz(?)
            QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp DESC) = 1""",
            [files, until],
        )
        with tqdm(desc="histories", unit="user", disable=not progress) as bar:
            while rows := latest.fetchmany(HISTORY_BATCH):
                writer.merge_histories({user: History.from_lists(own) for user, *own in rows})
                users += len(rows)
                bar.update(len(rows))
    return users
