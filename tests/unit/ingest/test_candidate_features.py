"""The caller's own features of candidates, from a log to the arrays of a training set."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from tests.http_calls import LOCAL, NoEngine, call, no_writers, whole
from tests.plain_requests import Request, as_inputs

from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.candidates import shown_candidates
from prerank.dataset.requests import read_requests
from prerank.ingest.report import IngestReport
from prerank.ingest.served import ingest_served
from prerank.online.reader import OnlineRead
from prerank.serving.answer import Answer
from prerank.serving.api import PrerankRequest
from prerank.serving.config import ServeConfig, limits_of
from prerank.serving.http import HttpApi
from prerank.serving.served_log import LogConfig, ServedLog

Ingested = Callable[..., tuple[IngestReport, Home]]

FIRST = pd.Timestamp("2024-03-01T10:00:00Z")
ITEMS = pd.DataFrame({"item_id": range(9), "title": [f"item {i}" for i in range(9)]})
NAN = float("nan")


def day(number: int) -> pd.DataFrame:
    """Four requests of a day: three items shown at a price, and the second one clicked."""
    rows = []
    for r in range(4):
        asked = FIRST + pd.Timedelta(days=number, minutes=r)
        own = {"request_id": f"d{number}r{r}", "request_time": asked, "user_id": "u", "query": "q"}
        for place in range(3):
            shown = own | {"item_id": (r + place) % 9, "position": place, "price": 10.0 * place + r}
            rows.append(shown | {"event_time": asked, "action": "impression"})
            if place == 1:
                later = asked + pd.Timedelta(seconds=9)
                rows.append(shown | {"event_time": later, "action": "click", "price": None})
    return pd.DataFrame(rows)


@pytest.fixture
def places(tmp_path: Path) -> Callable[[pd.DataFrame], tuple[Path, Path]]:
    def write(events: pd.DataFrame) -> tuple[Path, Path]:
        paths = tmp_path / "events.parquet", tmp_path / "items.parquet"
        events.to_parquet(paths[0])
        ITEMS.to_parquet(paths[1])
        return paths

    return write


Places = Callable[[pd.DataFrame], tuple[Path, Path]]


def events_of(home: Home) -> pd.DataFrame:
    frame: pd.DataFrame = pads.dataset(str(home.events)).to_table().to_pandas()
    return frame.sort_values(["request_time", "position", "event_time"]).reset_index(drop=True)


def given_of(home: Home) -> dict[str, NDArray[np.float32]]:
    """What is given of each request's candidates, as training reads it."""
    files = sorted(home.events.glob("day=*/*.parquet"))
    requests = read_requests(files, LogManifest.load(home))
    found = shown_candidates(requests)
    assert found.retriever_features is not None
    parts = np.split(found.retriever_features, found.offsets[1:-1])
    return dict(zip(requests["request_id"].to_pylist(), parts, strict=True))


def test_they_are_read_as_numbers_and_named_in_the_manifest(
    places: Places, ingested: Ingested
) -> None:
    report, home = ingested(*places(day(0)), candidate_features=["price"])
    events = events_of(home)
    assert events["candidate_price"].dtype == np.float32
    np.testing.assert_array_equal(events["candidate_price"][:4], [0, 10, NAN, 20])
    manifest = LogManifest.load(home)
    assert manifest.candidate_features == ("price",)
    assert manifest.schema.candidate_features == ("price",)
    assert report.manifest.warnings == ()
    found = given_of(home)
    np.testing.assert_array_equal(found["d0r1"], [[1], [11], [21]])


def test_a_log_without_them_is_written_as_before_there_were_any(
    places: Places, ingested: Ingested
) -> None:
    log = places(day(0).drop(columns="price"))
    _, home = ingested(*log)
    data = json.loads(home.manifest.read_text())
    assert "candidate_features" not in data
    assert "candidate_features" not in LogManifest.load(home).schema.to_dict()
    (file,) = home.events.glob("*/*.parquet")
    assert not [name for name in pq.read_schema(file).names if name.startswith("candidate")]
    _, ignored = ingested(*places(day(0)))
    assert LogManifest.load(ignored).fingerprint == data["fingerprint"]


def test_what_is_no_finite_number_counts_as_missing_and_is_counted(
    places: Places, ingested: Ingested
) -> None:
    frame = day(0)
    odd = ["free", "", "inf", "1e39", "nan", None, "7.5", " 3", "-0.0"]
    frame["price"] = [*odd, *["1"] * (len(frame) - len(odd))]
    report, home = ingested(*places(frame), candidate_features=["price"])
    assert report.manifest.rows["quarantined"] == 0
    said = "price: 5 values are no finite number, and count as missing"
    assert said in report.manifest.warnings
    prices = events_of(home)["candidate_price"].to_numpy()
    assert np.isnan(prices[:6]).all()
    np.testing.assert_array_equal(prices[6:], [7.5, 3, 0, *[1] * (len(frame) - 9)])


def test_another_price_is_another_log(places: Places, ingested: Ingested) -> None:
    prints = [
        ingested(*places(day(0).assign(price=price)), candidate_features=["price"])[
            0
        ].manifest.fingerprint
        for price in (1.0, 2.0, 1.0)
    ]
    assert prints[0] == prints[2] != prints[1]


def test_what_was_shown_has_the_price_at_which_it_was_shown(
    places: Places, ingested: Ingested
) -> None:
    frame = day(0)
    clicked = frame["action"] == "click"
    # A price that comes with the click alone, and one of a click without an impression.
    frame.loc[frame["request_id"] == "d0r0", "price"] = None
    frame.loc[clicked, "price"] = 99.0
    unseen = frame[clicked & (frame["request_id"] == "d0r2")].assign(item_id=8, position=7)
    _, home = ingested(*places(pd.concat([frame, unseen])), candidate_features=["price"])
    found = given_of(home)
    np.testing.assert_array_equal(found["d0r0"], [[NAN], [NAN], [NAN]])
    np.testing.assert_array_equal(found["d0r1"], [[1], [11], [21]])
    np.testing.assert_array_equal(found["d0r2"], [[2], [12], [22], [99]])


def test_they_follow_the_retrievers_columns_under_any_name(
    places: Places, ingested: Ingested
) -> None:
    frame = day(0).assign(retriever_score=0.5, **{"price.net-1": 3.0})
    _, home = ingested(*places(frame), candidate_features=["price.net-1", "price"])
    assert LogManifest.load(home).schema.given == (
        "score",
        "candidate_price.net-1",
        "candidate_price",
    )
    np.testing.assert_array_equal(given_of(home)["d0r0"], [[0.5, 3, 0], [0.5, 3, 10], [0.5, 3, 20]])


def test_without_impressions_they_would_tell_the_label(places: Places, ingested: Ingested) -> None:
    frame = day(0)
    clicks = frame[frame["action"] == "click"].assign(price=5.0)
    report, home = ingested(*places(clicks), candidate_features=["price"])
    assert LogManifest.load(home).candidate_features == ()
    assert "price left out: the log has no impressions" in report.manifest.warnings
    assert "candidate_price" in events_of(home)


def test_a_day_that_is_added_leaves_the_others(places: Places, ingested: Ingested) -> None:
    _, home = ingested(*places(day(0)), candidate_features=["price"])
    before = {f.name: f.stat().st_ino for f in home.events.glob("day=2024-03-01/*")}
    both = pd.concat([day(1), day(0).head(3)])
    report, _ = ingested(*places(both), home, candidate_features=["price"])
    assert report.manifest.rows["duplicates"] == 3
    _, at_once = ingested(*places(pd.concat([day(0), day(1)])), candidate_features=["price"])
    assert report.manifest.fingerprint == LogManifest.load(at_once).fingerprint
    pd.testing.assert_frame_equal(
        events_of(home).drop(columns="known_time"), events_of(at_once).drop(columns="known_time")
    )
    _, home = ingested(*places(day(2)), home, candidate_features=["price"])
    assert before.keys() == {f.name for f in home.events.glob("day=2024-03-01/*")}
    with pytest.raises(ConfigError, match="`candidate_features` differs"):
        ingested(*places(day(3)), home)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"candidate_features": ["cost"]}, "no column 'cost'.*under `candidate_features:`"),
        ({"candidate_features": ["price", "Price"]}, "listed twice"),
        ({"candidate_features": ["position"]}, "canonical column"),
        ({"candidate_features": ["price"], "segments": ["price"]}, "listed twice"),
        ({"candidate_features": ["price"], "segments": ["candidate_price"]}, "canonical column"),
        ({"candidate_features": ["price, net"]}, "pattern"),
    ],
)
def test_what_cannot_be_one_is_named(
    mapping: dict[str, Any], says: str, places: Places, ingested: Ingested
) -> None:
    with pytest.raises((ConfigError, ValueError), match=says):
        ingested(*places(day(0)), **mapping)


class Ranks(NoEngine):
    """Answers with the candidates in their order, one point less each."""

    def answer(self, request: PrerankRequest) -> Answer:
        ids = request.keys[: request.k]
        items = [{"id": i, "score": -n} for n, i in enumerate(request.shown(ids))]
        read = OnlineRead(as_inputs([Request()]), 0, 0, None, ())
        body = {"items": items, "model_version": "1"}
        return Answer(body, read, candidates=len(request.keys), ids=ids, run_id="run")


@pytest.fixture
def loop(places: Places, ingested: Ingested) -> Iterator[tuple[Home, HttpApi, ServedLog]]:
    """A home whose log has prices, the routes of its deployment, and what these write down."""
    frame = day(0).assign(retriever_score=0.5, l2_score=1.5)
    _, home = ingested(*places(frame), candidate_features=["price"])
    config = ServeConfig(home=str(home.root), clock="replay")
    log = ServedLog(home, LogConfig(share=1.0, items=100, days=None))
    engine: Any = Ranks(limits_of(home, config))
    yield home, HttpApi(config, engine, no_writers, log=log), log
    log.close()


def test_what_callers_send_joins_the_log(loop: tuple[Home, HttpApi, ServedLog]) -> None:
    home, api, log = loop
    candidates = [
        {"id": 4, "score": 2.5, "features": {"price": 7.5}},
        {"id": 2},
        {"id": 3, "features": {"price": None}},
    ]
    asked = {"user_id": "u7", "query": "red", "request_id": "r", "candidates": candidates}
    at = {"time": "2024-03-05T10:00:00Z"}
    clicked = {"user_id": "u7", "item_id": 4, "action": "click", "request_id": "r"}
    events = {"events": [clicked | {"event_time": "2024-03-05T10:00:09Z"}]}
    for path, body in (("/v1/prerank", asked | at), ("/v1/events", events)):
        answer = asyncio.run(call(api, path, whole(orjson.dumps(body)), LOCAL))
        assert answer.status_code == 200, bytes(answer.body)
    log.close()
    found = ingest_served(home, datetime.now(UTC).date())
    assert found is not None
    assert found.ingested is not None
    assert found.ingested.manifest.rows["out"] == 4
    served = events_of(home)
    served = served[served["request_id"] == "r"]
    clicks = served["action"] == "click"
    np.testing.assert_array_equal(served["candidate_price"][~clicks], [7.5, NAN, NAN])
    np.testing.assert_array_equal(served["candidate_price"][clicks], [7.5])
    # A full ranker comes after this one.
    assert served["l2_score"].isna().all()
    assert LogManifest.load(home).full_ranker
    np.testing.assert_array_equal(given_of(home)["r"], [[2.5, 7.5], [NAN, NAN], [NAN, NAN]])
