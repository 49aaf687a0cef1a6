"""Three days through a live deployment that learns from nothing but its own traffic, and a fourth.

Searchers of a simulated world rank over HTTP and click what they are shown, by its true relevance
and by how far down it stands. Each night the served log is read; after the third a model is trained
of it and promoted. `make loop` starts this; not part of `make test`: it took twelve minutes on two
busy cores.

The deployment's clock is `replay`: requests and events bring the days of the simulated world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from tests.installation import Installation
from tests.online_events import wait_until
from tests.serve_status import ready
from tests.served_features import answers_of, requests_of, served_is_joined
from tests.simulated_searchers import Moment, Search, Searchers
from tests.simulated_traffic import FIRST_DAY, PAGE, Answered, Traffic, begin, follows

from prerank.core.ids import hash_all
from prerank.core.times import HOUR_US
from prerank.dataset.examples import read_split
from prerank.registry import versions as registry
from prerank.simulate import PRESETS

DAYS, A_DAY, SHARE = 3, 600, 0.9
"""Days; searches of each; share of the answers written down."""
JOB = """\
features: {cadence_hours: 24, lag_minutes: 60}
train: {batch_requests: 32, warmup_steps: 10}
baselines: []
"""


class Watched(Traffic):
    """Traffic of which everything is kept.

    Attributes:
        asked: request -> the search.
        shown: request -> ids of the page. ``ranks``: and their places in the retriever's list.
        events: request -> what was reported.
        gains: NDCG of the true relevance over all candidates, as served and as retrieved.
    """

    def __init__(self, client: httpx.Client, searchers: Searchers) -> None:
        super().__init__(client, searchers)
        self.asked: dict[str, Search] = {}
        self.shown: dict[str, list[int]] = {}
        self.ranks: dict[str, list[int]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.gains: list[tuple[float, float]] = []

    def answered(self, moment: Moment, answers: list[Answered], pages: NDArray[np.int64]) -> None:
        truth = self.searchers.relevance(moment, moment.found)
        for answer, relevance in zip(answers, truth, strict=True):
            name, order = answer.search.name, answer.order
            relevance = relevance[: len(order)]
            self.gains.append((ndcg(relevance[order]), ndcg(relevance)))
            self.asked[name] = answer.search
            self.ranks[name] = order[:PAGE].tolist()
            self.shown[name] = self.searchers.ids[answer.sent[order[:PAGE]]].tolist()

    def reported(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            self.events.setdefault(event["request_id"], []).append(event)


def ndcg(relevance: NDArray[np.float64]) -> float:
    """Of the first ten places of an order; relevances are the gains."""
    discount = 1 / np.log2(np.arange(len(relevance)) + 2)
    best = np.sort(relevance)[::-1]
    return float((relevance * discount)[:10].sum() / (best * discount)[:10].sum())


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
        log_items=PAGE,
        # The machine may be busy: what is late would be degraded.
        timeout_ms=20_000,
        golden_ms=10_000,
        # The first model is of no training.
        require_gate=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.variables.items():
            patch.setenv(name, value)
        try:
            registry.promote(found.home, begin(found, searchers, JOB))
            found.start_ray()
            found.deploy()
            found.serve.wait_for(1, besides=lambda: ready(found.url))
            yield found
        finally:
            found.stop()
    mlflow.set_tracking_uri(before)


def night(live: Installation, traffic: Watched, day: int) -> None:
    """A day's work, once its last answers are written: half a minute after they were given."""
    wanted = written_down(traffic)
    wait_until(lambda: set(answers_of(live.home)) == wanted, "the answers are not written down")
    printed = live.run(f"prerank update --served --config {live.root}/job.yaml")
    assert "quarantined" not in printed.replace("+ 0 quarantined", ""), printed
    wait_until(lambda: follows(live, day), str(live.health()))


def written_down(traffic: Watched) -> set[str]:
    """The requests whose answers are: a hash of the id says so."""
    names = list(traffic.asked)
    below = hash_all(names).view(np.uint64) < SHARE * 2.0**64
    return {name for name, chosen in zip(names, below.tolist(), strict=True) if chosen}


def every_answer_came_back(live: Installation, traffic: Watched, requests: pa.Table) -> None:
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
            for event in traffic.events.get(name, [])
            if event["event_time"] <= until
        }
        assert {i for i, label in zip(shown, row["labels"], strict=True) if label} == engaged, name
    log = pq.read_table(live.home.events, partitioning=None, columns=["action", "user_id"])
    done = log.filter(pc.not_equal(log["action"], "impression"))
    reported = Counter(e["action"] for events in traffic.events.values() for e in events)
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
        traffic = Watched(client, searchers)
        for day in range(FIRST_DAY, FIRST_DAY + DAYS):
            traffic.day(day, A_DAY)
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
        traffic.day(FIRST_DAY + DAYS, A_DAY)
    after = np.array(traffic.gains)
    print(f"NDCG@10 of the true relevance, as served and as retrieved, in {A_DAY} searches a day")
    for day, gains in enumerate([*np.split(before, DAYS), after], 1):
        print(f"day {day}: {gains[:, 0].mean():.3f} {gains[:, 1].mean():.3f}")
    gain = after[:, 0] - after[:, 1]
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))
