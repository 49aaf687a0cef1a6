"""Attacks on a log's counts: what is pushed, by which accounts, and whom a detector finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SEED = 7
QUERIES = 200
MIDDLE = (0.10, 0.60)
"""Quantiles between which a query's rank by clicks lies, of the queries with MIN_CLICKS."""
MIN_CLICKS = 5
LEAD = 1.2
GREEDY_CLICKS, RING = 20, 8
ATTACK_SHARE = 0.2
DETECTOR = (0.8, 0.01)
SPAMMER = "spammer-"


@dataclass(frozen=True)
class Push:
    """An item to be pushed under a query by so many clicks."""

    query: str
    item: int
    clicks: int


def pushes(before: pd.DataFrame, items: NDArray[np.int64], rng: np.random.Generator) -> list[Push]:
    """What the attack is to reach, from the events before the measured time."""
    counts = before.groupby("query").size().sort_values(ascending=False, kind="stable")
    counts = counts[counts >= MIN_CLICKS]
    low, high = (int(share * len(counts)) for share in MIDDLE)
    names = counts.index[low:high].to_numpy()
    chosen = rng.choice(names, min(QUERIES, len(names)), replace=False)
    found = []
    for query in chosen:
        own = before.loc[before["query"] == query, "item_id"].value_counts()
        others = items[~np.isin(items, own.index.to_numpy())]
        found.append(Push(str(query), int(rng.choice(others)), int(np.ceil(LEAD * own.iloc[0]))))
    return found


def greedy(targets: list[Push]) -> Iterator[tuple[str, Push]]:
    """Account and push of each click of greedy bots."""
    for at, push in enumerate(targets):
        for click in range(push.clicks):
            yield f"greedy-{at}-{click // GREEDY_CLICKS}", push


def ring(targets: list[Push]) -> Iterator[tuple[str, Push]]:
    """Account and push of each click of rings: nobody clicks the own item."""
    for at, push in enumerate(targets):
        for click in range(push.clicks):
            member = (at % RING + 1 + click % (RING - 1)) % RING
            yield f"ring-{at // RING}-{member}", push


def sybil(targets: list[Push]) -> Iterator[tuple[str, Push]]:
    """Account and push of each click of sybils."""
    for at, push in enumerate(targets):
        for click in range(push.clicks):
            yield f"sybil-{at}-{click}", push


ATTACKS: dict[str, Callable[[list[Push]], Iterator[tuple[str, Push]]]] = {
    "greedy": greedy,
    "ring": ring,
    "sybil": sybil,
}


def attacked(
    events: pd.DataFrame, attack: str, targets: list[Push], until: pd.Timestamp
) -> pd.DataFrame:
    """The log with an attack that ends at `until`."""
    rng = np.random.default_rng(SEED)
    clicks = list(ATTACKS[attack](targets))
    begin = until - ATTACK_SHARE * (until - events["request_time"].min())
    seconds = (until - begin).total_seconds() * rng.random(len(clicks))
    at = pd.DatetimeIndex(begin + pd.to_timedelta(seconds, unit="s")).floor("s")
    added = pd.DataFrame(
        {
            "request_id": [f"{SPAMMER}{i}" for i in range(len(clicks))],
            "request_time": at,
            "event_time": at + pd.Timedelta(seconds=2),
            "user_id": [SPAMMER + account for account, _ in clicks],
            "query": [push.query for _, push in clicks],
            "item_id": [push.item for _, push in clicks],
            "action": events["action"].mode().iloc[0],
        }
    )
    return pd.concat([events, added.astype(events.dtypes.to_dict())], ignore_index=True)


def detected(users: NDArray[Any]) -> list[str]:
    """The users whom a detector of a given recall and false positives finds."""
    rng = np.random.default_rng(SEED)
    spams = np.array([user.startswith(SPAMMER) for user in users])
    found: list[str] = users[rng.random(len(users)) < np.where(spams, *DETECTOR)].tolist()
    return found
