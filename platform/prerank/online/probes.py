"""Rows that must be in the online store: what was lost without the sentinel is noticed by them.

A sentinel can outlive rows that were evicted or deleted. The state of a filling therefore names
*probes*: keys and users, drawn over all of them, that had a row when it ended. They are read back a
few at a time, off the request path; of a store that lost every tenth row, sixteen probes of each
kind find it in nearly every look.

Redis evicts what was not read for long, and a probe is read now and then. So where Redis tells how
many keys it has evicted, that number must not have grown either.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feast import FeatureStore
from redis import RedisError

from interactrank.features.schema import FeatureSchema
from prerank.core.sql import connection
from prerank.online.history import read_histories
from prerank.online.sentinel import REMEDY, read_rows

PROBES = 256
AT_ONCE = 16
"""Of each kind; 1 to 2 ms of a background thread."""


@dataclass(frozen=True)
class Probes:
    """Engagement keys and users that had a row when the store was filled."""

    keys: Sequence[str]
    users: Sequence[str]

    @classmethod
    def drawn(cls, tables: Path, until_us: int) -> Probes:
        """Drawn over the rows of a schema's feature tables stamped at or before ``until_us``."""
        return cls(
            _drawn(tables / "engagement", "engagement_key", until_us),
            _drawn(tables / "user_history", "user_id", until_us),
        )

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Probes:
        """Those that a state names."""
        return cls(**state["probes"])

    def some(self) -> Probes:
        """A few of them, others each time."""
        keys, users = (random.sample(s, min(len(s), AT_ONCE)) for s in (self.keys, self.users))
        return Probes(keys, users)

    def lost(self, store: FeatureStore, schema: FeatureSchema) -> str:
        """What is no longer in the schema's views, with the remedy; empty if all are there."""
        keys = read_rows(store, schema.engagement_view, self.keys) if self.keys else []
        users = read_histories(store, schema.history_view, self.users) if self.users else {}
        gone = {
            "engagement rows": (keys.count(b""), len(keys)),
            "histories": (sum(not len(h) for h in users.values()), len(users)),
        }
        said = [f"{lost} of {of} {what}" for what, (lost, of) in gone.items() if lost]
        if not said:
            return ""
        return f"the online store lost {' and '.join(said)} that were probed. {REMEDY}"


def _drawn(table: Path, column: str, until_us: int) -> list[str]:
    files = sorted(str(p) for p in table.glob("*.parquet"))
    if not files:
        return []
    with connection() as db:
        # A sample of rows, not of distinct keys: those of a large table are too many to hold.
        rows = db.execute(
            f"""SELECT DISTINCT {column} FROM (
                SELECT {column} FROM (
                    SELECT {column} FROM read_parquet(?)
                    WHERE event_timestamp <= make_timestamptz(?)
                ) USING SAMPLE reservoir({PROBES} ROWS) REPEATABLE (0)
            ) ORDER BY 1""",
            [files, until_us],
        ).fetchall()
    return [name for (name,) in rows]


def evicted(state: Mapping[str, Any], store: FeatureStore) -> str:
    """Whether Redis has evicted keys since the filling, with the remedy; empty if not."""
    before, now = state.get("evictions"), evictions(store)
    if before is None or now is None or now <= before:
        return ""
    return (
        f"Redis evicted {now - before} keys since the online store was filled. Set its "
        f"`maxmemory-policy` to noeviction, give it memory, then: {REMEDY}"
    )


def evictions(store: FeatureStore) -> int | None:
    """Keys that Redis has evicted since it started; None where nobody tells."""
    if store.config.online_store.type != "redis":
        return None
    online_store: Any = store._get_provider().online_store
    try:
        found = online_store._get_client(store.config.online_store).info("stats")["evicted_keys"]
        return int(found)
    except (RedisError, KeyError):
        # Not every account may ask, and not every server of this protocol tells.
        return None
