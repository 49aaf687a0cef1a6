"""Three days through a live deployment that learns from nothing but its own traffic, and a fourth.

Searchers of a simulated world rank over HTTP and click what they are shown, by its true relevance
and by how far down it stands. Each night the served log is read; after the third a model is trained
of it and promoted. `make loop` starts this; not part of `make test`: it took twelve minutes on two
busy cores.

The deployment's clock is `replay`: requests and events bring the days of the simulated world.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from tests.installation import Installation
from tests.online_events import wait_until
from tests.serve_status import ready
from tests.served_features import answers_of, requests_of, served_is_joined
from tests.simulated_searchers import Search, Searchers
from tests.small_versions import build_index

from interactrank.model.architectures import build
from interactrank.model.config import ModelConfig
from prerank.core.ids import hash_all
from prerank.core.manifest import LogManifest
from prerank.core.times import HOUR_US, iso
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import read_split
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, save_bundle
from prerank.registry.registration import register
from prerank.simulate import PRESETS
from prerank.simulate.presets import DAY, LOG_START

FIRST_DAY, DAYS, A_DAY, SHOWN, SHARE = 10, 3, 600, 12, 0.9
"""Of the simulated world; searches a day; items on a page; share of the answers written down."""
HOURS = (1.5, 24.0)
"""In which people search: a day's work is done by then (``lag_minutes``)."""
JOB = """\
features: {cadence_hours: 24, lag_minutes: 60}
train: {batch_requests: 32, warmup_steps: 10}
baselines: []
"""
MAPPING = """\
name: board
segments: [country, device]
label_window_hours: 1
"""
UNTRAINED = ModelConfig(width=16, mask_blocks=1, mask_width=16, hidden=(16,))


@dataclass
class Traffic:
    """A day's searches, sent when they are made; what is done is reported when it happens.

    Attributes:
        client: of the deployment.
        searchers: who search.
        asked: request -> the search.
        shown: request -> ids of the page. ``ranks``: and their places in the retriever's list.
        reported: request -> its events.
        gains: NDCG of the true relevance over all candidates, as served and as retrieved.
    """

    client: httpx.Client
    searchers: Searchers
    asked: dict[str, Search] = field(default_factory=dict)
    shown: dict[str, list[int]] = field(default_factory=dict)
    ranks: dict[str, list[int]] = field(default_factory=dict)
    reported: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    gains: list[tuple[float, float]] = field(default_factory=list)
    _due: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)
    _acts: int = 0

    def day(self, day: int) -> None:
        """All searches of a day of the world, and what is done before its end."""
        for search in self.searchers.searches(day, A_DAY, HOURS):
            self._report(search.time_us)
            self._search(search)
        self._report(round((LOG_START + DAY * (day + 1)) * 1e6))

    def _search(self, search: Search) -> None:
        ids = self.searchers.ids[search.found].tolist()
        body = {
            "request_id": search.name,
            "user_id": search.user,
            "query": search.query,
            "context": search.context,
            "time": search.time_us,
            "candidates": [{"id": i, "rank": rank} for rank, i in enumerate(ids)],
            "k": len(ids),
        }
        answer = self.client.post("/v1/prerank", json=body).raise_for_status().json()
        assert answer["degraded"] == []
        order = np.array([ids.index(item["id"]) for item in answer["items"]])
        relevance = self.searchers.relevance(search, search.found)
        self.gains.append((ndcg(relevance[order]), ndcg(relevance)))
        self.asked[search.name] = search
        self.ranks[search.name] = order[:SHOWN].tolist()
        self.shown[search.name] = [ids[rank] for rank in order[:SHOWN]]
        for event in self.searchers.acts(search, search.found[order[:SHOWN]]):
            self._acts += 1
            heapq.heappush(self._due, (event["event_time"], self._acts, event))

    def _report(self, now_us: int) -> None:
        """Report what was done before a time."""
        events = []
        while self._due and self._due[0][0] < now_us:
            events.append(heapq.heappop(self._due)[2])
        if not events:
            return
        answer = self.client.post("/v1/events", json={"events": events}).raise_for_status().json()
        assert answer == {"accepted": len(events), "passive": 0, "online": True}
        for event in events:
            self.reported.setdefault(event["request_id"], []).append(event)


def ndcg(relevance: NDArray[np.float64]) -> float:
    """Of the first ten places of an order; relevances are the gains."""
    discount = 1 / np.log2(np.arange(len(relevance)) + 2)
    best = np.sort(relevance)[::-1]
    return float((relevance * discount)[:10].sum() / (best * discount)[:10].sum())


def write_first_log(folder: Path, searchers: Searchers) -> None:
    """A log that says what there is, and nothing else: one item shown, each act done once.

    By a user who searches for nothing again. What was shown was not engaged with and what was done
    was not shown, so no training request has a label of it.
    """
    at = pd.Timestamp((LOG_START + DAY * FIRST_DAY) - 3600, unit="s", tz="UTC")
    actions = ["impression", "click", "long_click", "save"]
    log = pd.DataFrame(
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
    log.to_parquet(folder / "first.parquet")
    pq.write_table(searchers.items, folder / "items.parquet")
    (folder / "mapping.yaml").write_text(MAPPING)
    (folder / "job.yaml").write_text(JOB)


def register_untrained(live: Installation) -> Version:
    """A model of nothing, which the first days are served with."""
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


@pytest.fixture
def searchers() -> Searchers:
    return Searchers(PRESETS["tiny"], 7)


@pytest.fixture
def live(tmp_path: Path, searchers: Searchers) -> Iterator[Installation]:
    """A deployment whose log says nothing, with an untrained model."""
    import mlflow

    before = mlflow.get_tracking_uri()
    found = Installation(
        tmp_path,
        clock="replay",
        replicas=1,
        log_share=SHARE,
        log_items=SHOWN,
        # The machine may be busy: what is late would be degraded.
        timeout_ms=20_000,
        golden_ms=10_000,
        # The first model is of no training.
        require_gate=False,
    )
    write_first_log(tmp_path, searchers)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.variables.items():
            patch.setenv(name, value)
        try:
            found.start_mlflow()
            first = f"--events {tmp_path}/first.parquet --items {tmp_path}/items.parquet"
            found.run(
                f"prerank ingest {first} --mapping {tmp_path}/mapping.yaml && "
                f"prerank features --config {tmp_path}/job.yaml && prerank materialise"
            )
            tracking.connect(found.home)
            registry.promote(found.home, register_untrained(found))
            found.start_ray()
            found.deploy()
            found.serve.wait_for(1, besides=lambda: ready(found.url))
            yield found
        finally:
            found.stop()
    mlflow.set_tracking_uri(before)


def night(live: Installation, traffic: Traffic, day: int) -> None:
    """A day's work, once its last answers are written: half a minute after they were given."""
    wanted = written_down(traffic)
    wait_until(lambda: set(answers_of(live.home)) == wanted, "the answers are not written down")
    printed = live.run(f"prerank update --served --config {live.root}/job.yaml")
    assert "quarantined" not in printed.replace("+ 0 quarantined", ""), printed
    cutoff = iso(round((LOG_START + DAY * (day + 1)) * 1e6))
    wait_until(lambda: live.health().get("snapshot_cutoff") == cutoff, str(live.health()))


def written_down(traffic: Traffic) -> set[str]:
    """The requests whose answers are: a hash of the id says so."""
    names = list(traffic.asked)
    below = hash_all(names).view(np.uint64) < SHARE * 2.0**64
    return {name for name, chosen in zip(names, below.tolist(), strict=True) if chosen}


def every_answer_came_back(live: Installation, traffic: Traffic, requests: pa.Table) -> None:
    """Each answer that was written down is a training request, and each event is in the log."""
    rows = {row["request_id"]: row for row in requests.to_pylist()}
    assert rows.keys() - written_down(traffic) == {"first-shown"}
    assert not any(rows["first-shown"]["labels"])
    for name in written_down(traffic):
        row, search, shown = rows[name], traffic.asked[name], traffic.shown[name]
        assert (row["user_id"], row["query"]) == (search.user, search.query)
        assert row["context"] == search.context
        assert row["request_time"] == pd.Timestamp(search.time_us, unit="us", tz="UTC")
        assert row["items"] == shown
        assert row["positions"] == list(range(1, len(shown) + 1))
        assert all(row["shown"])
        assert row["retriever_rank"] == traffic.ranks[name]
        until = search.time_us + HOUR_US
        engaged = {
            event["item_id"]
            for event in traffic.reported.get(name, [])
            if event["event_time"] <= until
        }
        assert {i for i, label in zip(shown, row["labels"], strict=True) if label} == engaged, name
    log = pq.read_table(live.home.events, partitioning=None, columns=["action", "user_id"])
    done = log.filter(pc.not_equal(log["action"], "impression"))
    reported = Counter(e["action"] for events in traffic.reported.values() for e in events)
    assert Counter(done.filter(pc.not_equal(done["user_id"], "nobody"))["action"].to_pylist()) == (
        reported
    )


@pytest.mark.loop
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
def test_three_days_of_live_traffic_rank_the_fourth(
    live: Installation, searchers: Searchers
) -> None:
    with httpx.Client(base_url=live.url, timeout=60) as client:
        traffic = Traffic(client, searchers)
        for day in range(FIRST_DAY, FIRST_DAY + DAYS):
            traffic.day(day)
            night(live, traffic, day)
        requests = requests_of(live.home)
        every_answer_came_back(live, traffic, requests)
        served = pc.is_in(requests["request_id"], pa.array(sorted(written_down(traffic))))
        assert served_is_joined(live.home, requests.filter(served)) > 10_000

        job = f"--config {live.root}/job.yaml"
        live.run(f"prerank training-set && prerank train {job} && prerank promote", timeout_s=900)
        learned = {i for t in read_split(live.home, "train") for i in t["request_id"].to_pylist()}
        assert learned - written_down(traffic) <= {"first-shown"}
        wait_until(lambda: live.health().get("model_version") == "2", str(live.health()))

        before, traffic.gains = np.array(traffic.gains), []
        traffic.day(FIRST_DAY + DAYS)
    after = np.array(traffic.gains)
    print(f"NDCG@10 of the true relevance, as served and as retrieved, in {A_DAY} searches a day")
    for day, gains in enumerate([*np.split(before, DAYS), after], 1):
        print(f"day {day}: {gains[:, 0].mean():.3f} {gains[:, 1].mean():.3f}")
    gain = after[:, 0] - after[:, 1]
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))
