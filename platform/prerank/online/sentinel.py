"""What the online store itself says of its content: one reserved row.

Materialisation writes the *sentinel* into a schema's engagement view: which filling of which store
it is (``epoch``), how far it came, and whether it is whole. ``materialised-<schema hash>.json``
names the same epoch. A store that was emptied has no sentinel; one that is being filled says so;
one of another log, or one that was put back from an older copy, has another epoch or an earlier
state.

A request learns of the sentinel with its own rows, so it costs no round trip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from feast import FeatureStore

from prerank.core.times import utc
from prerank.online.layout import packed_row
from prerank.online.values import OnlineValues, Wanted

KEY = "_sentinel"
"""No engagement key: those begin with the letter of a level and a colon."""
REMEDY = "Run `prerank materialise`."


@dataclass(frozen=True)
class Sentinel:
    """The reserved row.

    Attributes:
        epoch: names one filling of one store; random.
        filled: false from the beginning of a filling until its end.
        until_us: rows stamped at or before it are there, microseconds since 1970.
        schema_hash, fingerprint: of the features.
    """

    epoch: str
    filled: bool
    until_us: int
    schema_hash: str
    fingerprint: str

    def packed(self) -> bytes:
        """The row's bytes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpacked(cls, row: bytes) -> Sentinel | None:
        """The sentinel of a row; None where there is none, or none that this version knows."""
        try:
            return cls(**json.loads(row))
        except (ValueError, TypeError):
            return None


def wanted_rows(view: str, keys: Sequence[str]) -> Wanted:
    """The packed rows of keys in an engagement view; ``layout.packed_row`` reads each."""
    return Wanted(view, ("row",), keys)


def read_rows(store: FeatureStore, view: str, keys: Sequence[str]) -> list[bytes]:
    """Packed row of each key in an engagement view, empty where it has none, in one round trip."""
    (values,) = OnlineValues.of(store).read([wanted_rows(view, keys)])
    return [packed_row(row) for (row,) in values]


def read_sentinel(store: FeatureStore, view: str) -> Sentinel | None:
    """The sentinel of an engagement view; None where it has none."""
    return Sentinel.unpacked(read_rows(store, view, [KEY])[0])


def write_sentinel(store: FeatureStore, view: str, sentinel: Sentinel) -> None:
    """Put the sentinel into an engagement view, in place of the one that is there."""
    row = {
        "engagement_key": KEY,
        "row": sentinel.packed(),
        "event_timestamp": pd.Timestamp.now("UTC"),
    }
    store.write_to_online_store(view, pd.DataFrame([row]))


def disagreement(state: Mapping[str, Any], there: Sentinel | None) -> str:
    """What the sentinel tells against the home's state, with the remedy; empty if nothing.

    Args:
        state: content of ``materialised-<schema hash>.json``, empty if there is none.
        there: what the store says.
    """
    if there is None:
        wrong = (
            "the online store has no sentinel: it is empty, it lost its data, or another version "
            "filled it."
        )
    elif not there.filled:
        wrong = "the online store is being filled, or its filling broke off."
    elif there.epoch != state.get("epoch"):
        wrong = "the online store was filled from another home, or put back from another copy."
    elif there.until_us < state["until_us"]:
        wrong = (
            f"the online store holds the state of {utc(there.until_us)}, older than "
            f"{utc(state['until_us'])}, which was materialised."
        )
    else:
        return ""
    return f"{wrong} {REMEDY}"
