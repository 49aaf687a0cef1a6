"""Accounts that boost items: greedy bots, rings and sybils, and who they are.

A *greedy* bot searches and clicks its one item all day for some days. The members of a *ring* are
users like others, who also click each other's items. *Sybils* are many accounts with a request or
two each, all for one item. Each has a query under which the item is to rise; what is clicked is
put on the page if retrieval has not put it there.

Who they are stands in truth/spammers.parquet and in no event; names of accounts do not tell either.

Shape letters: B such accounts, U users before them, N requests of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.presets import DAY, LOG_START, Preset

GREEDY, RING, SYBIL = range(3)
KINDS: Final = ("greedy", "ring", "sybil")
SHARES: Final = (0.1, 0.3, 0.6)  # of the accounts
GROUPS: Final = (1, 8, 40)  # accounts of a campaign
CAMPAIGN_DAYS: Final = ((3.0, 10.0), (10.0, 30.0), (0.5, 2.0))
PACE: Final = (20.0, 2.0)  # boosting requests of a greedy bot and a ring member per mean user's one
SYBIL_REQUESTS = 1.5  # however long the log is
MOST_BOOSTING = 0.3  # of a log's requests are those of greedy bots and rings


@dataclass(frozen=True)
class Spam:
    """Per account [B], whose user index is U + its place: kind and campaign int64; query and item
    int64, what it boosts (a ring's members each have their own); start and end float64, seconds.
    """

    kind: NDArray[np.int64]
    campaign: NDArray[np.int64]
    query: NDArray[np.int64]
    item: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]

    def requests(
        self, begin: float, end: float, requests: int, users: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Boosting requests from begin to end (seconds): who asks, and for whose item, each [n].

        requests, users: of the whole log.
        """
        volume = self._volume(requests, users)
        overlap = np.minimum(self.end, end) - np.maximum(self.start, begin)
        share = np.maximum(overlap, 0.0) / (self.end - self.start)
        who = np.repeat(np.arange(len(self.kind)), rng.poisson(volume[self.kind] * share))
        first = np.searchsorted(self.campaign, self.campaign[who])
        other = first + (who - first + rng.integers(1, GROUPS[RING], size=len(who))) % GROUPS[RING]
        return who, np.where(self.kind[who] == RING, other, who)

    def _volume(self, requests: int, users: int) -> NDArray[np.float64]:
        """Boosting requests of an account of each kind in the whole log, float64 [kinds]."""
        busy = np.array(PACE) * max(requests / users, 1.0)
        accounts = np.bincount(self.kind, minlength=len(KINDS))
        total = max(float(busy @ accounts[: len(PACE)]), 1.0)
        return np.append(busy * min(1.0, MOST_BOOSTING * requests / total), SYBIL_REQUESTS)


def kinds_of(preset: Preset) -> NDArray[np.int64]:
    """Kind of each account, int64 [B]: `preset.spammers` of all accounts, rings whole."""
    count = round(preset.spammers / (1 - preset.spammers) * preset.users)
    greedy = round(SHARES[GREEDY] * count)
    ring = round(SHARES[RING] * count / GROUPS[RING]) * GROUPS[RING]
    sybil = max(count - greedy - ring, 0)
    return np.repeat(np.arange(len(KINDS)), (greedy, ring, sybil))


def draw_spam(
    kind: NDArray[np.int64],
    days: int,
    pool: NDArray[np.int64],
    created: NDArray[np.float64],
    rng: np.random.Generator,
) -> Spam:
    """Campaigns of the accounts.

    kind int64 [B], ascending; pool int64 [Q, L], items that match each query, best first, the
    commonest query first; created float64 [P], seconds.
    """
    place = np.arange(len(kind)) - np.searchsorted(kind, kind)
    group = place // np.array(GROUPS)[kind]
    campaign = np.cumsum(np.r_[0, (np.diff(kind) != 0) | (np.diff(group) != 0)])[: len(kind)]
    query, item = np.zeros_like(kind), np.zeros_like(kind)
    start, end = np.zeros(len(kind)), np.zeros(len(kind))
    for each in np.unique(campaign):
        members = np.flatnonzero(campaign == each)
        of = kind[members[0]]
        length = min(rng.uniform(*CAMPAIGN_DAYS[of]), days)
        start[members] = LOG_START + DAY * rng.uniform(0, days - length)
        end[members] = start[members] + DAY * length
        targets = len(members) if of == RING else 1
        # Neither the commonest queries, where a boost is lost, nor those that nobody asks.
        query[members] = rng.integers(len(pool) // 20, max(len(pool) // 2, 1), size=targets)
        item[members] = [
            _target(pool[q], created, start[members[0]], rng) for q in query[members][:targets]
        ]
    return Spam(kind, campaign.astype(np.int64), query, item, start, end)


def _target(
    pool: NDArray[np.int64], created: NDArray[np.float64], start: float, rng: np.random.Generator
) -> int:
    """An item of the worse half of the pool that exists when the campaign starts."""
    worse = pool[len(pool) // 2 :]
    there = worse[created[worse] < start]
    return int(rng.choice(there)) if len(there) else int(np.argmin(created))
