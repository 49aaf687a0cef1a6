"""Filling the online store from the feature tables.

Feast materialises the engagement rows; nothing else writes them. Histories are merged by event id,
as live events are (``prerank.online.writer``): on SQLite an older row that Feast materialised
would overwrite a newer one that was pushed.

A filling goes on from the last one where the store proves that it still has what that one wrote
(``prerank.online.sentinel``). Else it starts over: its sentinel says so until the end, and what the
journal holds is merged anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from feast import FeatureStore
from tqdm import tqdm

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import StateError
from prerank.core.home import Home, write_json
from prerank.core.quiet import muted
from prerank.core.sql import connection
from prerank.core.times import HOUR_US, utc
from prerank.online.history import HISTORY_FIELDS, History
from prerank.online.probes import Probes, evictions
from prerank.online.sentinel import ENGAGEMENT, REMEDY, Sentinel, write_sentinel
from prerank.online.store import apply, online_name
from prerank.online.watch import broken
from prerank.online.writer import HistoryWriter

HISTORY_BATCH = 1_000
SAME_FEATURES = ("schema_hash", "fingerprint", "cadence_hours", "lag_minutes")
"""What must agree for materialisation to resume instead of writing every row again."""


def materialise(home: Home, until_us: int | None = None, progress: bool = True) -> dict[str, Any]:
    """Bring the online store to what was known at ``until_us``: rows stamped at or before it.

    Args:
        home: features must be built there.
        until_us: microseconds since 1970; None takes everything.
        progress: show bars.

    Returns:
        What is written to ``materialised.json``: until_us, cutoff_us (the latest snapshot's),
        schema_hash, fingerprint, schema, online_store, users, epoch, probes, evictions.

    Raises:
        StateError: no features, the online store already holds a later state, or it did not keep
            what was written.
    """
    features = home.read_json(home.features / "manifest.json", "prerank features")
    lag = features["lag_minutes"] * 60_000_000
    until = features["last_cutoff_us"] + lag if until_us is None else until_us
    before = home.read_json(home.materialised, "") if home.materialised.exists() else {}
    store = apply(home)
    wrong = broken(store, ENGAGEMENT, before)
    over = bool(wrong)
    if before and over and progress:
        tqdm.write(f"The whole online store is filled anew: {wrong.removesuffix(REMEDY)}")
    start = 0 if over else _start(home, before, features, until)
    epoch = secrets.token_hex(8) if over else before["epoch"]
    sentinel = Sentinel(epoch, not over, until, features["schema_hash"], features["fingerprint"])
    if over:
        write_sentinel(store, ENGAGEMENT, sentinel)
    with muted():
        # Inclusive at both ends, as the offline join is at its right end.
        store.materialize(utc(start), utc(until), feature_views=[ENGAGEMENT])
    users = _backfill(home, store, until, progress)
    if over:
        _merge_journal(home, store, features)
    cadence = features["cadence_hours"] * HOUR_US
    state = {
        "epoch": epoch,
        "until_us": until,
        "cutoff_us": min(features["last_cutoff_us"], (until - lag) // cadence * cadence),
        **{name: features[name] for name in SAME_FEATURES},
        "schema": features["schema"],
        "online_store": online_name(),
        "users": users,
        "probes": asdict(_kept(home, store, until)),
        "evictions": evictions(store),
    }
    # The store first: what it has beyond the home's state is no loss, the reverse is one.
    write_sentinel(store, ENGAGEMENT, replace(sentinel, filled=True))
    write_json(home.materialised, state)
    return state


def _start(home: Home, before: Mapping[str, Any], features: Mapping[str, Any], until: int) -> int:
    """Where a store that is whole is filled from; zero for other features than before."""
    if before["until_us"] > until:
        raise StateError(
            f"the online store already holds the state of {utc(before['until_us'])}, later than "
            f"{utc(until)}: it cannot forget. Remove {home.feast} (with Redis: use an empty one) "
            "and materialise again."
        )
    same = all(before.get(name) == features[name] for name in SAME_FEATURES)
    return int(before["until_us"]) if same else 0


def _merge_journal(home: Home, store: FeatureStore, features: Mapping[str, Any]) -> None:
    """Merge all acknowledged events: what was merged before a store lost its data is gone."""
    schema = FeatureSchema.from_dict(features["schema"])
    HistoryWriter(home, store, schema, exclusive=True).replay(anew=True)


def _kept(home: Home, store: FeatureStore, until: int) -> Probes:
    """Probes of what was written.

    Raises:
        StateError: one is not there.
    """
    probes = Probes.drawn(home, until)
    if lost := probes.lost(store, ENGAGEMENT):
        raise StateError(
            f"{lost} It does not keep what is written: with Redis, set `maxmemory-policy` to "
            "noeviction and give it more memory first."
        )
    return probes


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
