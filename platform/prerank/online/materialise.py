"""Filling the online store from the feature tables.

Feast materialises the engagement rows; nothing else writes them. Histories are merged by event id,
as live events are (``prerank.online.writer``): on SQLite an older row that Feast materialised
would overwrite a newer one that was pushed.

The features of the log's present schema are filled. Those of other schemas stay as they are while
a model version in the home needs them, and are taken away after that.

A filling goes on from the last one where the store proves that it still has what that one wrote
(``prerank.online.sentinel``). Else it starts over: its sentinel says so until the end, and what the
journal holds is merged anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from feast import FeatureStore
from tqdm import tqdm

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import ConfigError, StateError
from prerank.core.feature_sets import described, manifest_of_log, manifests, needed, online_states
from prerank.core.files import locked, publish, remove, write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.progress import bar
from prerank.core.quiet import muted
from prerank.core.settings import typed
from prerank.core.sql import connection
from prerank.core.times import HOUR_US, utc
from prerank.online.history import HISTORY_FIELDS, History, HistoryTable
from prerank.online.merging import OnlineHistories
from prerank.online.probes import Probes, evictions
from prerank.online.sentinel import REMEDY, Sentinel, write_sentinel
from prerank.online.store import REGISTRY, apply, filling_of, forget, online_name
from prerank.online.watch import broken

HISTORY_BATCH = 1_000
SAME_FEATURES = ("schema_hash", "tables", "cadence_hours", "lag_minutes")
"""What must agree for materialisation to resume instead of writing every row again: while it does,
builds only add rows, stamped after the cutoff of before."""


def of_store(schema: FeatureSchema, project: str) -> dict[str, Any]:
    """What the state of an online store says besides what was written into it, and until when."""
    return {
        **described(schema),
        "cross_features": schema.cross,
        "history_codes": schema.history_codes,
        "project": project,
        "online_store": online_name(),
    }


def materialise(home: Home, until_us: int | None = None, progress: bool = True) -> dict[str, Any]:
    """Bring the online store to what was known at ``until_us``: rows stamped at or before it.

    What live writers acknowledged is merged into the histories of a store that is filled anew.
    Features of schemas that neither the log nor a model version in the home needs are removed.

    Args:
        home: features must be built there.
        until_us: microseconds since 1970; None takes everything.
        progress: show bars.

    Returns:
        What is written to ``materialised-<schema hash>.json``: until_us, cutoff_us (the latest
        snapshot's), schema_hash, fingerprint, schema, cross_features, views, history_codes,
        project, online_store, users (whose histories were merged), epoch, probes, evictions. Also
        ``removed``: hashes of the schemas that were removed.

    Raises:
        StateError: no log, no features, the online store already holds a later state, or it did
            not keep what was written.
    """
    home.look()
    with locked(filling_of(home)):
        features, schema = manifest_of_log(home), LogManifest.load(home).schema
        home.fetch(home.features_of(schema.hash()))
        filling = _Filling(home, apply(home), features, schema, progress)
        state = filling.fill(filling.last_us if until_us is None else until_us)
        for other in needed(home) - {schema.hash()}:
            _keep_whole(home, filling.store, other, progress)
        removed = _remove_unneeded(home, filling.store)
        publish(home.feast / REGISTRY)
        return state | {"removed": removed}


def _keep_whole(home: Home, store: FeatureStore, schema_hash: str, progress: bool) -> None:
    """Bring another schema's features, which a model needs, to a store that has not all of them.

    From the tables that are left of it: the log has another schema now.
    """
    features = manifests(home).get(schema_hash)
    if features is None:
        return
    try:
        schema = typed(FeatureSchema, features["schema"], what="schema")
    except ConfigError:
        # Of an earlier release: this one cannot load its model either.
        return
    if schema.hash() != schema_hash:
        return
    filling = _Filling(home, store, features, schema, progress)
    before = filling.before()
    if broken(store, schema, before):
        home.fetch(home.features_of(schema_hash))
        filling.fill(before.get("until_us", filling.last_us))


@dataclass(frozen=True)
class _Filling:
    """A schema's feature tables, on their way to the online store."""

    home: Home
    store: FeatureStore
    features: Mapping[str, Any]
    schema: FeatureSchema
    progress: bool

    @property
    def last_us(self) -> int:
        """When the last snapshot was published, microseconds."""
        return int(self.features["last_cutoff_us"]) + self._lag_us

    @property
    def _lag_us(self) -> int:
        return int(self.features["lag_minutes"]) * 60_000_000

    def before(self) -> dict[str, Any]:
        """The state of the last filling, empty if there was none."""
        path = self.home.materialised_of(self.schema.hash())
        return self.home.read_json(path, "") if path.exists() else {}

    def fill(self, until: int) -> dict[str, Any]:
        """Write rows stamped at or before ``until`` and all histories; returns the state."""
        before, view = self.before(), self.schema.engagement_view
        wrong = broken(self.store, self.schema, before)
        start = 0 if wrong else self._start(before, until)
        sentinel = Sentinel(
            epoch=secrets.token_hex(8) if wrong else before["epoch"],
            filled=True,
            until_us=until,
            schema_hash=self.features["schema_hash"],
            fingerprint=self.features["fingerprint"],
        )
        if wrong:
            if before and self.progress:
                what = f"features of schema {self.schema.hash()} are filled anew"
                tqdm.write(f"The online {what}: {wrong.removesuffix(REMEDY)}")
            write_sentinel(self.store, view, replace(sentinel, filled=False))
        with muted():
            # Inclusive at both ends, as the offline join is at its right end.
            self.store.materialize(utc(start), utc(until), feature_views=[view])
        table = HistoryTable.of(self.schema)
        histories = OnlineHistories(self.home, self.store, table, exclusive=True)
        users = self._merge_histories(histories, start, until)
        state = self._state(sentinel, users)
        path = self.home.materialised_of(self.schema.hash())
        # Whoever sees the state opens the registry.
        publish(self.home.feast / REGISTRY)
        if wrong:
            # Live writers that see the state write to these histories themselves, so an event that
            # they acknowledged earlier is in the journal.
            write_json(path, state)
            histories.merge_journal()
        # The store first: what it has beyond the home's state is no loss, the reverse is one.
        write_sentinel(self.store, view, sentinel)
        write_json(path, state)
        return state

    def _start(self, before: Mapping[str, Any], until: int) -> int:
        """The cutoff that a whole store is filled from; zero for other features than before."""
        if before["until_us"] > until:
            raise StateError(
                f"the online store already holds the state of {utc(before['until_us'])}, later "
                f"than {utc(until)}: it cannot forget. Remove {self.home.feast} (with Redis: use "
                "an empty one) and materialise again."
            )
        same = all(before.get(name) == now for name, now in self._same().items())
        return int(before["cutoff_us"]) if same else 0

    def _same(self) -> dict[str, Any]:
        # Tables of an earlier release have no name, and change when the log does.
        named = {"tables": self.features["fingerprint"], **self.features}
        return {name: named[name] for name in SAME_FEATURES}

    def _state(self, sentinel: Sentinel, users: int) -> dict[str, Any]:
        features, until = self.features, sentinel.until_us
        cadence = features["cadence_hours"] * HOUR_US
        cutoff = (until - self._lag_us) // cadence * cadence
        return {
            **of_store(self.schema, self.store.project),
            **self._same(),
            "epoch": sentinel.epoch,
            "until_us": until,
            "cutoff_us": min(features["last_cutoff_us"], cutoff),
            "fingerprint": features["fingerprint"],
            "users": users,
            "probes": asdict(self._kept(until)),
            "evictions": evictions(self.store),
        }

    def _kept(self, until: int) -> Probes:
        """Probes of what was written.

        Raises:
            StateError: one is not there.
        """
        probes = Probes.drawn(self.home.features_of(self.schema.hash()), until)
        if lost := probes.lost(self.store, self.schema):
            raise StateError(
                f"{lost} It does not keep what is written: with Redis, set `maxmemory-policy` to "
                "noeviction and give it more memory first."
            )
        return probes

    def _merge_histories(self, online: OnlineHistories, start: int, until: int) -> int:
        """Merge users' latest histories at ``until`` that are newer than ``start``; how many."""
        tables = self.home.features_of(self.schema.hash())
        files = sorted(str(p) for p in (tables / "user_history").glob("*.parquet"))
        if not files:
            return 0
        columns = ", ".join(HISTORY_FIELDS)
        users = 0
        with connection() as db:
            latest = db.execute(
                f"""SELECT user_id, {columns} FROM read_parquet(?)
                WHERE event_timestamp > make_timestamptz(?)
                    AND event_timestamp <= make_timestamptz(?)
                QUALIFY row_number()
                    OVER (PARTITION BY user_id ORDER BY event_timestamp DESC) = 1""",
                [files, start, until],
            )
            with bar(self.progress, desc="histories", unit="user") as shown:
                while rows := latest.fetchmany(HISTORY_BATCH):
                    online.merge_histories({user: History.from_lists(own) for user, *own in rows})
                    users += len(rows)
                    shown.update(len(rows))
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
        remove(home.materialised_of(schema_hash))
    kept = {view for schema_hash in views.keys() & keep for view in views[schema_hash]}
    forget(store, set().union(*views.values()) - kept)
    for schema_hash in gone:
        remove(home.features_of(schema_hash))
    # What earlier releases wrote down of the store, under names that held a hash of its password.
    for path in (*home.feast.glob("replayed-redis-*"), *home.feast.glob("replayed-sqlite-*")):
        path.unlink(missing_ok=True)
    (home.feast / "materialised.json").unlink(missing_ok=True)
    return gone
