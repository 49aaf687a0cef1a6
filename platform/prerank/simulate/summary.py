"""Documented marginals of a simulated log, gathered tick by tick in constant memory."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.presets import DAY, IMPRESSIONS
from prerank.simulate.relevance import Batch, run_index
from prerank.simulate.world import VARIANTS, World

TAIL_REQUESTS = 10  # a query is tail until it has been asked this often
NEW_ITEM_AGE = 7 * DAY


@dataclass(frozen=True)
class SimulationSummary:
    """Marginals of the log; shares are in [0, 1].

    rows: events of any action; engagement_rate: impressions with a click (long clicks and
    saves imply one); ctr_by_position: the same per position 1 … 24; abandoned_share: requests
    without any positive action. The last three are shares of requests *with* one:
    tail_query_share (query asked fewer than 10 times before, by any user),
    new_item_share (a positive created in the last 7 days), tail_or_new_share (either).
    """

    preset: str
    seed: int
    requests: int
    rows: int
    impressions: int
    items: int
    users: int
    engagement_rate: float
    ctr_by_position: tuple[float, ...]
    abandoned_share: float
    positives_per_engaged_request: float
    tail_query_share: float
    new_item_share: float
    tail_or_new_share: float

    def write(self, path: Path) -> None:
        """Write as JSON, one key per line."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")


class Marginals:
    """Adds up ticks; `summary` may be read at any time."""

    def __init__(self, world: World) -> None:
        self._world = world
        # A variant that fell back to the right spelling is the same query text.
        same = [[text == texts[0] for text in texts] for texts in world.queries.texts]
        index = np.arange(len(same) * VARIANTS).reshape(-1, VARIANTS)
        self._text = np.where(np.array(same), index[:, :1], index).ravel()
        self._asked = np.zeros(len(self._text), dtype=np.int64)
        self._shown = np.zeros(IMPRESSIONS, dtype=np.int64)
        self._clicked = np.zeros(IMPRESSIONS, dtype=np.int64)
        self._requests = self._rows = self._engaged = 0
        self._tail = self._new = self._either = 0

    def add(
        self,
        batch: Batch,
        variant: NDArray[np.int64],
        items: NDArray[np.int64],
        done: NDArray[np.bool_],
    ) -> None:
        """Count a tick: items int64 [N, I], done bool [4, N, I] (see `log.Outcome`)."""
        clicks = done[1]
        tail = self._earlier(self._text[batch.query * VARIANTS + variant]) < TAIL_REQUESTS
        age = batch.time[:, None] - self._world.items.created[items]
        new = (clicks & (age <= NEW_ITEM_AGE)).any(axis=1)
        engaged = clicks.any(axis=1)
        self._shown += done[0].sum(axis=0)
        self._clicked += clicks.sum(axis=0)
        self._requests += len(engaged)
        self._rows += int(done.sum())
        self._engaged += int(engaged.sum())
        self._tail += int((tail & engaged).sum())
        self._new += int(new.sum())
        self._either += int((new | (tail & engaged)).sum())

    def _earlier(self, text: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often each query text was asked before, int64 [N], this tick included."""
        order = np.argsort(text, kind="stable")
        earlier = np.empty_like(text)
        earlier[order] = run_index(text[order])
        earlier += self._asked[text]
        np.add.at(self._asked, text, 1)
        return earlier

    @property
    def rows(self) -> int:
        """Events so far."""
        return self._rows

    @property
    def requests(self) -> int:
        """Requests so far."""
        return self._requests

    def summary(self) -> SimulationSummary:
        """The marginals of what was added so far (at least one request)."""
        engaged = max(self._engaged, 1)
        preset = self._world.preset
        return SimulationSummary(
            preset=preset.name,
            seed=self._world.seed,
            requests=self._requests,
            rows=self._rows,
            impressions=int(self._shown.sum()),
            items=preset.items,
            users=len(self._world.users.activity),
            engagement_rate=round(float(self._clicked.sum() / self._shown.sum()), 6),
            ctr_by_position=tuple(
                round(float(c), 6) for c in self._clicked / np.maximum(self._shown, 1)
            ),
            abandoned_share=round(1 - self._engaged / self._requests, 6),
            positives_per_engaged_request=round(float(self._clicked.sum() / engaged), 6),
            tail_query_share=round(self._tail / engaged, 6),
            new_item_share=round(self._new / engaged, 6),
            tail_or_new_share=round(self._either / engaged, 6),
        )
