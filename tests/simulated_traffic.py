"""Simulated searchers at a live deployment, over HTTP, and the little that it begins with.

Requests and events bring the times of the simulated world: the deployment's clock is ``replay``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tests.installation import Installation
from tests.simulated_searchers import Moment, Search, Searchers
from tests.small_versions import build_index

from interactrank.model.architectures import build
from interactrank.model.config import ModelConfig
from prerank.core.manifest import LogManifest
from prerank.core.times import iso
from prerank.dataset.catalogue import load_catalogue
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, save_bundle
from prerank.registry.registration import register
from prerank.simulate.presets import DAY, LOG_START

FIRST_DAY = 10
"""Of the simulated world."""
HOURS = (1.5, 24.0)
"""In which people search: a day's work is done by then (``lag_minutes``)."""
PAGE = 12
"""Items on a page."""
MAPPING = """\
name: board
segments: [country, device]
label_window_hours: 1
"""
UNTRAINED = ModelConfig(width=16, mask_blocks=1, mask_width=16, hidden=(16,))

Order = Callable[[Search], NDArray[np.int64]]


@dataclass(frozen=True)
class Answered:
    """An answer to a search.

    Attributes:
        search: that was sent.
        sent: rows of its candidates int64 [n], as they were sent.
        order: places in ``sent`` int64 [n], the answer's best first.
        body: of the answer.
    """

    search: Search
    sent: NDArray[np.int64]
    order: NDArray[np.int64]
    body: dict[str, Any]


class Traffic:
    """Sends searches by time, and reports what is done with the answers when it happens.

    Searches of one moment are of different users and are sent together. Before a user's search is
    sent, everything that this user did until then was reported and acknowledged, and of the others
    what was done before the moment: all that a deployment reads of a user is as if each search was
    sent alone.

    Args:
        client: of the deployment.
        searchers: who search.
        order: rows of a search's candidates in the order in which they are sent; None for the
            retriever's.
        threads: that send.
    """

    def __init__(
        self,
        client: httpx.Client,
        searchers: Searchers,
        order: Order | None = None,
        threads: int = 8,
    ) -> None:
        self.client, self.searchers = client, searchers
        self._order = order or (lambda search: search.found)
        self._threads = threads
        self._due: list[dict[str, Any]] = []

    def day(self, day: int, count: int) -> None:
        """All searches of a day of the world, and what is done before its end."""
        with ThreadPoolExecutor(self._threads) as pool:
            for moment in self.searchers.moments(day, count, HOURS):
                own = {search.user: search.time_us for search in moment.searches}
                self._report(moment.searches[0].time_us, own)
                answers = list(pool.map(self._asked, moment.searches))
                pages = padded([each.sent[each.order[:PAGE]] for each in answers], PAGE)
                self.answered(moment, answers, pages)
                self._due += self.searchers.acts(moment, pages)
            self._report(end_of(day), {})

    def answered(self, moment: Moment, answers: list[Answered], pages: NDArray[np.int64]) -> None:
        """See the answers of a moment, before anything is done with its pages int64 [N, PAGE]."""

    def reported(self, events: list[dict[str, Any]]) -> None:
        """See events that were acknowledged."""

    def _asked(self, search: Search) -> Answered:
        sent = self._order(search)
        ids = self.searchers.ids[sent].tolist()
        asked = self.client.post("/v1/prerank", json=body_of(search, ids))
        body = asked.raise_for_status().json()
        assert body["degraded"] == [], body
        order = places_of([item["id"] for item in body["items"]], ids)
        return Answered(search, sent, order, body)

    def _report(self, now_us: int, own: dict[str, int]) -> None:
        """Report what was done before ``now_us``, and by the users of ``own`` before their time."""
        events, later = list[dict[str, Any]](), list[dict[str, Any]]()
        for event in self._due:
            until_us = own.get(event["user_id"], now_us)
            (events if event["event_time"] < until_us else later).append(event)
        self._due = later
        if not events:
            return
        events.sort(key=lambda event: event["event_time"])
        answer = self.client.post("/v1/events", json={"events": events}).raise_for_status().json()
        assert answer == {"accepted": len(events), "passive": 0, "online": True}
        self.reported(events)


def body_of(search: Search, ids: list[int]) -> dict[str, Any]:
    """Of a request to rank all of ``ids``, which are in the retriever's order."""
    return {
        "request_id": search.name,
        "user_id": search.user,
        "query": search.query,
        "context": search.context,
        "time": search.time_us,
        "candidates": [{"id": i, "rank": rank} for rank, i in enumerate(ids)],
        "k": len(ids),
    }


def places_of(best: list[int], ids: list[int]) -> NDArray[np.int64]:
    """Where each of ``best`` stands in ``ids``, int64 [len(best)]."""
    places = {id: place for place, id in enumerate(ids)}
    return np.array([places[id] for id in best], np.int64)


def padded(rows: list[NDArray[np.int64]], width: int) -> NDArray[np.int64]:
    """Rows of one array int64 [N, width]; -1 where there is none."""
    found = np.full((len(rows), width), -1)
    for n, each in enumerate(rows):
        found[n, : len(each)] = each
    return found


def end_of(day: int) -> int:
    """When a day of the world ends, microseconds since 1970."""
    return round((LOG_START + DAY * (day + 1)) * 1e6)


def follows(live: Installation, day: int) -> bool:
    """Whether the deployment has the features of a day that has ended."""
    return live.health().get("snapshot_cutoff") == iso(end_of(day))


def begin(live: Installation, searchers: Searchers, job: str) -> Version:
    """Start MLflow; make a log that says what there is and nothing else, and a model of it.

    Args:
        live: without any state.
        searchers: whose world it is.
        job: configuration of the features.

    Returns:
        A registered version of no training, with its index.
    """
    root = live.root
    _first_log(searchers).to_parquet(root / "first.parquet")
    pq.write_table(searchers.items, root / "items.parquet")
    (root / "mapping.yaml").write_text(MAPPING)
    (root / "job.yaml").write_text(job)
    live.start_mlflow()
    live.run(
        f"prerank ingest --events {root}/first.parquet --items {root}/items.parquet "
        f"--mapping {root}/mapping.yaml && prerank features --config {root}/job.yaml && "
        "prerank materialise"
    )
    tracking.connect(live.home)
    return _untrained(live)


def _first_log(searchers: Searchers) -> pd.DataFrame:
    """One item shown, each act done once, by a user who searches for nothing again.

    What was shown was not engaged with and what was done was not shown, so no training request has
    a label of it.
    """
    at = pd.Timestamp((LOG_START + DAY * FIRST_DAY) - 3600, unit="s", tz="UTC")
    actions = ["impression", "click", "long_click", "save"]
    return pd.DataFrame(
        {
            "request_id": ["first-shown", *(f"first-{name}" for name in actions[1:])],
            "request_time": at,
            "event_time": at,
            "user_id": "nobody",
            "query": "the first query",
            "item_id": searchers.ids[:4],
            "action": actions,
            "position": pd.array([1, None, None, None], "Int32"),
            "retriever_rank": pd.array([0, None, None, None], "Int32"),
            "country": "us",
            "device": "mobile",
        }
    )


def _untrained(live: Installation) -> Version:
    catalogue = load_catalogue(live.home)
    torch.manual_seed(1)
    model = build(UNTRAINED, LogManifest.load(live.home).schema, catalogue).eval()
    with tracking.job_run(live.home, "untrained", {}, {}) as run_id:
        pass
    folder = live.root / "untrained"
    save_bundle(folder, model, catalogue, {})
    version = register(folder, run_id, {}, {})
    build_index(live.home, registry.download(live.home, version), version)
    return version
