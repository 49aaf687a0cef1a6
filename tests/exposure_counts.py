"""What was shown, expected and engaged, recounted from raw events by the definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interactrank.features.schema import CLICKED, EXPECTED, SHOWN, WINDOWS, FeatureSchema, Level
from prerank.core.times import DAY_US
from prerank.features.examination import NO_POSITION, Examination
from prerank.features.states import UNIT

NEVER = 1 << 62


@dataclass(frozen=True)
class Exposure:
    """An item that a request showed; times in microseconds since 1970, ``weight`` in parts."""

    item: int
    user: str
    query: str
    time: int
    known: int
    engaged: int
    weight: int


def exposures(
    events: pd.DataFrame, passive: Iterable[str], examination: Examination
) -> list[Exposure]:
    """Each item that a request showed; ``events`` have their times in microseconds."""
    shown: dict[tuple[str, int], tuple[int, int, int]] = {}
    engaged: dict[tuple[str, int], int] = {}
    asked: dict[str, tuple[str, str]] = {}
    row: Any
    for row in events.itertuples():
        pair = (row.request_id, int(row.item_id))
        asked[row.request_id] = (row.user_id, row.query)
        if row.action == "impression":
            place = NO_POSITION if pd.isna(row.position) else int(row.position)
            told = (row.known_time, row.event_time, place)
            shown[pair] = min(shown.get(pair, told), told)
        elif row.action not in passive:
            engaged[pair] = min(engaged.get(pair, NEVER), row.known_time)
    found = []
    for pair, (known, time, place) in shown.items():
        weight = examination.weights(np.array([known]), np.array([place]))[0]
        later = max(known, engaged.get(pair, NEVER))
        found.append(Exposure(pair[1], *asked[pair[0]], time, known, later, int(weight)))
    return found


def recount(
    shown: Iterable[Exposure],
    schema: FeatureSchema,
    level: Level,
    cutoff: int,
    trust: Mapping[str, float] = {},
) -> dict[int, dict[str, float]]:
    """Item -> column -> count at the last midnight before a cutoff.

    ``trust`` has the weight of flagged users as of then.
    """
    names, midnight = schema.exposures(level), cutoff // DAY_US * DAY_US
    found: dict[int, dict[str, float]] = {}
    for one in shown:
        whole = {EXPECTED: one.weight, SHOWN: UNIT, CLICKED: UNIT}
        since = {EXPECTED: one.known, SHOWN: one.known, CLICKED: one.engaged}
        share = round(trust.get(one.user, 1.0) * UNIT)
        for name in names:
            action, window = name.split(":")
            days = WINDOWS[window]
            inside = days is None or one.time >= midnight - days * DAY_US
            if since[action] < midnight and inside:
                counts = found.setdefault(one.item, dict.fromkeys(names, 0.0))
                counts[name] += (whole[action] * share + UNIT // 2) // UNIT / UNIT
    return {item: counts for item, counts in found.items() if any(counts.values())}
