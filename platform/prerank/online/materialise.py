"""Filling the online store from the feature tables.

Feast materialises the engagement rows; nothing else writes them. Histories are merged by event id,
as live events are (``prerank.online.writer``): on SQLite an older row that Feast materialised
would overwrite a newer one that was pushed.

The features of the log's present schema are filled. Those of other schemas stay as they are while
a model version in the home needs them, and are taken away after that.
"""

from __future__ import annotations

import shutil
from typing import Any

from feast import FeatureStore
from tqdm import tqdm

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import StateError
from prerank.core.feature_sets import manifest_of_log, manifests, needed, online_states
from prerank.core.home import Home, write_json
from prerank.core.manifest import LogManifest
from prerank.core.quiet import muted
from prerank.core.sql import connection
from prerank.core.times import HOUR_US, utc
from prerank.online.history import HISTORY_FIELDS, History
from prerank.online.store import apply, forget, online_name
from prerank.online.writer import HistoryWriter

HISTORY_BATCH = 1_000
SAME_FEATURES = ("schema_hash", "fingerprint", "cadence_hours", "lag_minutes")
"""What must agree for materialisation to resume instead of starting over."""


def materialise(home: Home, until_us: int | None = None, progress: bool = True) -> dict[str, Any]:
    """Bring the online store to what was known at ``until_us``: rows stamped at or before it.

    What live writers acknowledged is merged into the histories. Features of schemas that neither
    the log nor a model version in the home needs are removed.

    Args:
        home: features must be built there.
        until_us: microseconds since 1970; None takes everything.
        progress: show bars.

    Returns:
        What is written to ``materialised-<schema hash>.json``: until_us, cutoff_us (the latest
        snapshot's), schema_hash, fingerprint, schema, cross_features, views, history_codes,
        project, online_store, users. Also ``removed``: hashes of the schemas that were removed.

    Raises:
        StateError: no log, no features, or the online store already holds a later state.
    """
    features, schema = manifest_of_log(home), LogManifest.load(home).schema
    until = _all_of(features) if until_us is None else until_us
    start = _start(home, features, until)
    store = apply(home)
    state = _fill(home, store, features, schema, start, until, progress)
    for other in needed(home) - {schema.hash()}:
        _fill_anew(home, store, other, progress)
    return state | {"removed": _remove_unneeded(home, store)}


def _all_of(features: dict[str, Any]) -> int:
    """When the last snapshot was published, microseconds."""
    return int(features["last_cutoff_us"]) + int(features["lag_minutes"]) * 60_000_000


def _fill(
    home: Home,
    store: FeatureStore,
    features: dict[str, Any],
    schema: FeatureSchema,
    start: int,
    until: int,
    progress: bool,
) -> dict[str, Any]:
    """Write rows stamped from ``start`` to ``until`` and all histories; returns the state."""
    with muted():
        # Inclusive at both ends, as the offline join is at its right end.
        store.materialize(utc(start), utc(until), feature_views=[schema.engagement_view])
    writer = HistoryWriter.backfill(home, store, schema)
    users = _backfill(home, writer, until, progress)
    cadence, lag = features["cadence_hours"] * HOUR_US, features["lag_minutes"] * 60_000_000
    state = {
        "until_us": until,
        "cutoff_us": min(features["last_cutoff_us"], (until - lag) // cadence * cadence),
        **{name: features[name] for name in SAME_FEATURES},
        "schema": features["schema"],
        "cross_features": schema.cross,
        "views": features["views"],
        "history_codes": schema.history_codes,
        "project": store.project,
        "online_store": online_name(),
        "users": users,
    }
    write_json(home.materialised_of(schema.hash()), state)
    # Only now: live writers that see the state write to these histories themselves, so an event
    # that they acknowledged earlier is in the journal.
    writer.replay()
    return state


def _fill_anew(home: Home, store: FeatureStore, schema_hash: str, progress: bool) -> None:
    """Bring another schema's features, which a model needs, to a store that is not the one before.

    From the tables that are left of it: the log has another schema now.
    """
    features, path = manifests(home).get(schema_hash), home.materialised_of(schema_hash)
    if features is None:
        return
    before = home.read_json(path, "prerank materialise") if path.exists() else {}
    until = int(before.get("until_us", _all_of(features)))
    if _start(home, features, until) == until:
        return
    try:
        schema = FeatureSchema.from_dict(features["schema"])
    except TypeError:
        # Of an earlier release: this one cannot load its model either.
        return
    if schema.hash() == schema_hash:
        _fill(home, store, features, schema, 0, until, progress)


def _start(home: Home, features: dict[str, Any], until: int) -> int:
    """Where materialisation may resume; zero for another store than before, or other features."""
    path = home.materialised_of(features["schema_hash"])
    if not path.exists():
        return 0
    before = home.read_json(path, "prerank materialise")
    if (before["online_store"], before["project"]) != (online_name(), f"prerank_{home.id}"):
        return 0
    if before["until_us"] > until:
        raise StateError(
            f"the online store already holds the state of {utc(before['until_us'])}, later than "
            f"{utc(until)}: it cannot forget. Remove {home.feast} (with Redis: use an empty one) "
            "and materialise again."
        )
    same = all(before.get(name) == features[name] for name in SAME_FEATURES)
    return int(before["until_us"]) if same else 0


def _backfill(home: Home, writer: HistoryWriter, until: int, progress: bool) -> int:
    """Merge every user's latest history at ``until`` into the online store; number of users."""
    tables = home.features_of(writer.schema.hash())
    files = sorted(str(p) for p in (tables / "user_history").glob("*.parquet"))
    if not files:
        return 0
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


def _remove_unneeded(home: Home, store: FeatureStore) -> list[str]:
    """Remove tables, rows and state of every schema that nothing in the home needs."""
    keep, tables = needed(home), manifests(home)
    views = {
        r["schema_hash"]: set(r["views"].values()) for r in (*online_states(home), *tables.values())
    }
    # Live writers stop writing to a history when its state is gone.
    gone = sorted(views.keys() - keep)
    for schema_hash in gone:
        home.materialised_of(schema_hash).unlink(missing_ok=True)
    kept = {view for schema_hash in views.keys() & keep for view in views[schema_hash]}
    forget(store, set().union(*views.values()) - kept)
    for schema_hash in gone:
        shutil.rmtree(home.features_of(schema_hash), ignore_errors=True)
    # What earlier releases wrote down of the store, under names that held a hash of its password.
    for path in (*home.feast.glob("replayed-redis-*"), *home.feast.glob("replayed-sqlite-*")):
        path.unlink(missing_ok=True)
    (home.feast / "materialised.json").unlink(missing_ok=True)
    return gone
