"""How likely a position is looked at, learned from the swaps that a log made by itself.

A logged engagement says as much about the place as about the item: what stands first is looked at
most. The position-based model (Craswell et al. 2008) has P(engage | item at place k) = p_k r, and
the propensity p_k is how often place k is examined, relative to the best place.

A (query, item) pair that was shown at several places is an experiment that the log made by itself
(intervention harvesting, Agarwal et al. 2019): within the pair r is the same. The propensities are
the maximum-likelihood p of a Poisson model with one r per pair, over all pairs and places together.
Pairs at one place only, or without engagement, say nothing and drop out. Neighbouring places are
pooled until each group has enough engagements. Where too few pairs moved, items alone take the
place of pairs: that overstates the bias where items are shown higher for the queries they fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prerank.core.manifest import LogManifest
from prerank.core.sql import connection

CELL = ("stratum", "place", "shown", "engaged")
STRATA = ("query and item", "item")
FLOOR = 0.05
"""Least propensity: no engagement counts more than 20 times another."""
ROWS = 5_000_000
"""Events that an estimate reads, the newest days first."""
MIN_ENGAGEMENTS = 100
"""Engagements of moved items that a group of places must have."""


@dataclass(frozen=True)
class Propensities:
    """Relative examination by place.

    Attributes:
        first: first place of each group of places, ascending.
        value: propensity of each group, in [FLOOR, 1].
        engagements: how many engagements the estimate rests on.
        strata: "query and item", or "item" where too few pairs moved.
    """

    first: tuple[int, ...]
    value: tuple[float, ...]
    engagements: int
    strata: str

    def at(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Propensity of each of ``places``."""
        at = np.searchsorted(np.array(self.first), places, side="right") - 1
        return np.array(self.value)[np.maximum(at, 0)]


def fit(
    stratum: NDArray[np.int64],
    place: NDArray[np.int64],
    shown: NDArray[np.int64],
    engaged: NDArray[np.int64],
    strata: str = "query and item",
) -> Propensities | None:
    """Propensities from counts per (stratum, place): int64 [C] each, ``stratum`` from 0 up.

    None when fewer than two groups of places have enough engagements of items that moved.
    """
    first = _groups(place, engaged)
    group = np.searchsorted(first, place, side="right") - 1
    if len(first) < 2:
        return None
    p = np.ones(len(first))
    of_stratum = np.bincount(stratum, engaged)
    of_group = np.bincount(group, engaged, minlength=len(first))
    for _ in range(2_000):
        rate = of_stratum / np.bincount(stratum, shown * p[group])
        new = of_group / np.bincount(group, shown * rate[stratum], minlength=len(first))
        new /= new[0]
        done = np.abs(new / p - 1).max() < 1e-7
        p = new
        if done:
            break
    value = np.clip(p / p.max(), FLOOR, 1.0)
    return Propensities(tuple(first.tolist()), tuple(value.tolist()), int(engaged.sum()), strata)


def _groups(place: NDArray[np.int64], engaged: NDArray[np.int64]) -> NDArray[np.int64]:
    """First places of groups of neighbouring places with MIN_ENGAGEMENTS each."""
    places, index = np.unique(place, return_inverse=True)
    first: list[int] = []
    mass = float(MIN_ENGAGEMENTS)
    for at, more in zip(places, np.bincount(index.reshape(-1), engaged), strict=True):
        if mass >= MIN_ENGAGEMENTS:
            first.append(int(at))
            mass = 0.0
        mass += more
    if mass < MIN_ENGAGEMENTS and first:
        first.pop()
    return np.array(first, np.int64)


def learned(
    files: Sequence[str],
    manifest: LogManifest,
    before_us: int,
    by: Literal["request_time", "known_time"],
    memory: str | None = None,
    spill: Path | None = None,
) -> Propensities | str:
    """Propensities from canonical events, or why there are none.

    Args:
        files: canonical events.
        manifest: of their log.
        before_us: rows whose time ``by`` is at or after it are passed over, microseconds.
        by: "known_time" also leaves out engagements that became known later.
        memory, spill: of the connection.
    """
    with connection(threads=2, memory=memory, spill=spill) as db:
        if not _shown(db, files, manifest, before_us, by):
            return "The log has no positions: where an impression stood is not known."
        for strata in STRATA:
            cells = _cells(db, strata)
            stratum, place, shown, engaged = (cells[c].to_numpy() for c in CELL)
            found = fit(stratum, place, shown, engaged, strata)
            if found is not None:
                return found
    return "Too few items were shown at several places: examination cannot be told from relevance."


def _shown(
    db: duckdb.DuckDBPyConnection,
    files: Sequence[str],
    manifest: LogManifest,
    before_us: int,
    by: str,
) -> bool:
    """Make a table of what was shown at a known place; whether there is some."""
    engaging = manifest.heads[manifest.head_order[0]]
    db.execute(
        f"""CREATE TEMP TABLE shown AS SELECT min(query) AS query, item_id,
            min(position)::BIGINT AS place,
            bool_or(list_contains($engaging, action) AND event_time <= request_time
                + to_microseconds($window))::BIGINT AS engaged
        FROM read_parquet($files) WHERE epoch_us({by}) < $before
        GROUP BY request_id, item_id
        HAVING bool_or(action = 'impression') AND min(position) IS NOT NULL""",
        {
            "engaging": list(engaging),
            "files": list(files),
            "before": before_us,
            "window": manifest.label_window_us,
        },
    )
    row = db.sql("SELECT count(*) FROM shown").fetchone()
    return row is not None and row[0] > 0


def _cells(db: duckdb.DuckDBPyConnection, strata: str) -> pa.Table:
    """Columns of ``fit``, of the strata that moved and were engaged."""
    key = "query, item_id" if strata == STRATA[0] else "item_id"
    return db.sql(
        f"""WITH cell AS (
            SELECT {key}, place, count(*) AS shown, sum(engaged)::BIGINT AS engaged
            FROM shown GROUP BY {key}, place),
        moved AS (SELECT * FROM cell
            QUALIFY count(*) OVER (PARTITION BY {key}) > 1
                AND sum(engaged) OVER (PARTITION BY {key}) > 0)
        SELECT dense_rank() OVER (ORDER BY {key}) - 1 AS stratum, place, shown, engaged
        FROM moved ORDER BY stratum, place"""
    ).to_arrow_table()
