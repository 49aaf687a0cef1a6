"""Small simulated worlds, and how their logs are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from prerank.simulate import Motion, Oracle, Preset, Sessions

MOVING = Preset("moving", 600, 200, 60, 8, 6, 40, 24, Motion(), spammers=0.3, daily=True)
GOING_ON = Preset("going on", 600, 200, 60, 8, 6, 40, 24, sessions=Sessions())
POSITIVE = ["click", "long_click", "save"]


def read_events(folder: Path) -> pd.DataFrame:
    """All events of a simulated log in Parquet."""
    events: pd.DataFrame = pq.read_table(folder / "events").to_pandas()
    return events


def mean_reciprocal_rank(events: pd.DataFrame, oracle: Oracle | None) -> float:
    """Over requests with a positive; None ranks at random, by a seeded shuffle."""
    rng = np.random.default_rng(0)
    found = []
    for request, rows in events.groupby("request_id"):
        positive = set(rows.loc[rows["action"].isin(POSITIVE), "item_id"])
        if not positive:
            continue
        shown = rows.loc[rows["action"] == "impression", "item_id"].to_numpy()
        score = rng.random(len(shown)) if oracle is None else oracle.score(str(request), shown)
        order = shown[np.argsort(-score)]
        found.append(1 / (1 + next(i for i, item in enumerate(order) if item in positive)))
    return float(np.mean(found))
