"""Invariants 4 and 6: what is read online is what was joined offline, in O(1) keys.

The log is made here and its feature tables are built without Ray, by the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from interactrank.batch import collate
from interactrank.catalogue import Catalogue
from interactrank.engagement import cross_features
from interactrank.inputs import request_features
from interactrank.model import InteractRank, ModelConfig
from interactrank.schema import HISTORY_TTL_DAYS, MAX_BYTES_PER_REQUEST, MAX_KEYS_PER_REQUEST
from interactrank.scorer import Scorer
from interactrank.text import engagement_keys
from prerank import features
from prerank.answers import Loaded
from prerank.api import Limits, named, parse_json
from prerank.bundle import Bundle
from prerank.engine import Engine, ServeConfig
from prerank.errors import NotReadyError, StateError
from prerank.events import Event, HistoryWriter
from prerank.examples import Candidates, offline_inputs, request_arrays
from prerank.features import FeatureConfig, build_features, schema_of
from prerank.home import Home, write_json
from prerank.ids import ItemIds
from prerank.index import encode_slice
from prerank.ingest_known import VERSION
from prerank.online import OnlineFeatures
from prerank.registry import Wanted
from prerank.store import REDIS_ENV, apply, materialise, materialised_path

DAY = 86_400_000_000
START = 1_600_000_000_000_000
DAYS, EVENTS, USERS, ITEMS = 40, 6_000, 80, 150
UNTIL = START + 30 * DAY + 12_345_678
WORDS = ["red", "blue", "shoe", "shoes", "lamp", "wooden", "table", "running", "kids", "garden"]
MANIFEST = {
    "actions": ["impression", "click", "save"],
    "passive": ["impression"],
    "heads": {"engagement": ["click", "save"]},
    "head_order": ["engagement"],
    "segments": ["country", "device"],
    "retriever": ["rank"],
    "numeric": [],
    "version": VERSION,
    "events": EVENTS,
    "last_time": np.datetime_as_string(np.datetime64(START + DAYS * DAY, "us")),
    "fingerprint": "one",
    "ids": "integer",
    "hash_seed": 0,
}


def log() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 4), replace=False)) for _ in range(60)]
    time = np.sort(rng.integers(START, START + DAYS * DAY, EVENTS))
    # Items follow the query, so that rows have something to say.
    query = rng.integers(0, len(texts), EVENTS)
    stamp = pd.to_datetime(time.astype("datetime64[us]"), utc=True)
    return pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, USERS, EVENTS)],
            "query": [texts[q] for q in query],
            "item_id": (query * 7 + rng.integers(0, 12, EVENTS)) % ITEMS,
            "action": rng.choice(MANIFEST["actions"], EVENTS, p=[0.3, 0.5, 0.2]),
            "event_time": stamp,
            "known_time": stamp,
            "country": rng.choice(["de", "us", ""], EVENTS, p=[0.3, 0.6, 0.1]),
            "device": rng.choice(["mobile", "tv"], EVENTS),
            "event_id": rng.integers(-(2**62), 2**62, EVENTS),
        }
    )


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    return log()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, events: pd.DataFrame) -> Home:
    """A home with features, and nothing online yet."""
    home = Home.at(tmp_path_factory.mktemp("parity") / "home")
    write_json(home.manifest, MANIFEST)
    folder = home.events / "day=all"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pandas(events, preserve_index=False), folder / "part-0.parquet")

    def serially(
        function: Callable[[dict[str, Any]], dict[str, Any]],
        pieces: Sequence[dict[str, Any]],
        name: str,
    ) -> list[dict[str, Any]]:
        return [function(piece) for piece in pieces]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "ray_map", serially)
        build_features(home, FeatureConfig(lag_minutes=20))
    return home


def beside(built: Home, root: Path) -> Home:
    """A home with the same features and an online state of its own."""
    home = Home.at(root / "home")
    home.root.mkdir(parents=True)
    (home.root / "features").symlink_to(built.features)
    write_json(home.manifest, MANIFEST)
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, built: Home, online_store: str) -> Home:
    home = beside(built, tmp_path_factory.mktemp(online_store))
    materialise(home, UNTIL, progress=False)
    return home


@pytest.fixture(scope="module")
def online(home: Home) -> OnlineFeatures:
    return OnlineFeatures(home)


@pytest.fixture(scope="module")
def requests(events: pd.DataFrame) -> pd.DataFrame:
    """Sixty of the log's own searches, just after what is online; some of nobody, for nothing."""
    sample = events.sample(60, random_state=3).reset_index(drop=True)
    sample["context"] = sample[["country", "device"]].to_dict("records")
    sample = sample[["query", "user_id", "context"]]
    sample.loc[:1, "user_id"] = "nobody"
    sample.loc[2:3, "query"] = "zzz qqq"
    return sample


CANDIDATES = np.arange(ITEMS, dtype=np.int64)


def as_table(query: str, user: str, context: dict[str, str], time: int) -> pa.Table:
    stamp = pa.array([time], pa.timestamp("us", tz="UTC"))
    return pa.table(
        {"query": [query], "user_id": [user], "request_time": stamp, "context": [context]}
    )


def crosses(inputs: Any) -> np.ndarray:
    schema = schema_of(MANIFEST)
    none = np.zeros(ITEMS, np.int64)
    return cross_features(schema, inputs, CANDIDATES, np.array([0, ITEMS]), none)


def test_online_features_equal_offline_ones(
    home: Home, online: OnlineFeatures, requests: pd.DataFrame
) -> None:
    schema, filled = schema_of(MANIFEST), 0
    of_request = [i for i, name in enumerate(schema.cross) if name.startswith(("q:", "user:"))]
    segmented, of_segment = 0, schema.cross.index("s:engage:all")
    for query, user, context in requests.itertuples(index=False):
        there = offline_inputs(home, as_table(query, user, context, UNTIL))
        here = online.read(query, user, UNTIL, context)
        assert here.degraded == ()
        x = crosses(here.inputs)
        np.testing.assert_allclose(x, crosses(there), atol=1e-6)
        np.testing.assert_allclose(
            request_features(schema, here.inputs), request_features(schema, there), atol=1e-6
        )
        for name in ("hist_items", "hist_actions", "hist_times", "key_level", "tokens", "time",
                     "segments"):  # fmt: skip
            np.testing.assert_array_equal(getattr(here.inputs, name), getattr(there, name))
        filled += bool((x[:, of_request] != 0).any())
        segmented += bool(x[:, of_segment].any())
    assert min(filled, segmented) >= 0.9 * len(requests), "the comparison compared nothing"


def test_another_context_changes_the_segmented_features_alone(
    online: OnlineFeatures, requests: pd.DataFrame
) -> None:
    cross, changed = schema_of(MANIFEST).cross, set()
    for query, user, _ in requests.itertuples(index=False):
        one, other = (
            crosses(online.read(query, user, UNTIL, {"country": c, "device": "tv"}).inputs)
            for c in ("de", "us")
        )
        changed |= {c for c, differs in zip(cross, (one != other).any(0), strict=True) if differs}
    assert changed == {"s:engage:30d", "s:engage:all"}


def served_by(home: Home, online: OnlineFeatures) -> tuple[Engine, InteractRank, Catalogue]:
    """An engine with an untrained model, whose context embeddings are large enough to matter."""
    schema = schema_of(MANIFEST)
    catalogue = Catalogue.build(CANDIDATES, [f"item {i}" for i in CANDIDATES], [""] * ITEMS,
                                np.zeros((ITEMS, 0), np.float32),
                                np.zeros(ITEMS, np.int64))  # fmt: skip
    torch.manual_seed(0)
    model = InteractRank(ModelConfig(), schema, catalogue).eval()
    for table in model.query_tower.segments:
        torch.nn.init.normal_(table.weight, std=3.0)
    vectors = encode_slice(Bundle(model, schema, catalogue, {}), 0, ITEMS, UNTIL)
    limits = Limits(ItemIds("integer"), schema, replay=True)
    engine = Engine(ServeConfig(home=str(home.root), clock="replay"))
    scorer = Scorer(model, catalogue, CANDIDATES, vectors)
    engine._features = online
    engine._loaded = Loaded(Wanted("champion", "1"), scorer, limits, schema.hash())
    return engine, model, catalogue


def test_served_scores_and_features_are_the_offline_ones(
    home: Home, online: OnlineFeatures, requests: pd.DataFrame
) -> None:
    engine, model, catalogue = served_by(home, online)
    schema, table, none = model.schema, catalogue.table(), np.zeros(ITEMS, np.int64)
    ranks = np.where(CANDIDATES % 3, CANDIDATES % 7, np.nan)
    moved = 0
    for query, user, context in requests.head(15).itertuples(index=False):
        chosen = [{"id": int(i), "rank": None if np.isnan(r) else int(r)}
                  for i, r in zip(CANDIDATES, ranks, strict=True)]  # fmt: skip
        body = {"user_id": user, "query": query, "context": context, "candidates": chosen,
                "k": ITEMS, "time": UNTIL, "explain": True}  # fmt: skip

        def answered(body: dict[str, Any]) -> dict[int, dict[str, Any]]:
            asked = parse_json(orjson.dumps(body), engine.limits(), 0)
            return {item["id"]: item for item in engine.answer(asked).body["items"]}

        served, plain = answered(body), answered(body | {"context": {}})
        candidates = Candidates(CANDIDATES, np.array([0, ITEMS]), none, none.astype(np.float32),
                                none.astype(np.float32), none[:1],
                                ranks[:, None].astype(np.float32))  # fmt: skip
        inputs = offline_inputs(home, as_table(query, user, context, UNTIL))
        arrays = request_arrays(schema, [query], inputs, candidates, catalogue, table)
        with torch.inference_mode():
            logits = model(collate(arrays, catalogue, table, 1)).logits[:, 0].numpy()
        scores = np.array([served[i]["score"] for i in CANDIDATES])
        with torch.inference_mode():
            coefficients = model.fusion.coefficients(torch.from_numpy(arrays.request))
            of = torch.zeros(len(arrays.x), dtype=torch.int64)
            priors = model.fusion.prior(torch.from_numpy(arrays.x), coefficients, of).numpy()
        within = 2e-2 * coefficients.scale.item()
        assert np.abs(scores - logits).max() <= within
        np.testing.assert_allclose(
            [served[i]["prior"] for i in CANDIDATES], priors, rtol=1e-5, atol=1e-5
        )
        for i, x in zip(CANDIDATES, arrays.x, strict=True):
            assert served[i]["features"] == pytest.approx(named(schema.cross, x), abs=1e-6)
        without = np.array([plain[i]["score"] for i in CANDIDATES])
        moved += bool(np.abs(without - logits).max() > 2 * within)
    assert moved >= 10, "the context did not matter to any score"


def test_what_is_read_depends_on_the_query_alone_and_stays_in_budget(
    online: OnlineFeatures, requests: pd.DataFrame
) -> None:
    long = " ".join(f"word{i}longer" for i in range(80))
    for query in [*requests["query"], long]:
        context = {"country": "de", "device": "tv"}
        read = online.read(query, "u1", UNTIL, context)
        assert read.keys == len(engagement_keys(query)) + 1 + len(context)
        assert read.keys <= MAX_KEYS_PER_REQUEST
        assert read.bytes <= MAX_BYTES_PER_REQUEST
    assert online.read(long, "u1", UNTIL).keys > 20


def test_the_cutoff_is_the_last_snapshot_that_was_published(online: OnlineFeatures) -> None:
    hour, lag = 3_600_000_000, 20 * 60_000_000
    assert online.cutoff_us() == (UNTIL - lag) // hour * hour


def test_events_at_or_after_the_request_are_not_seen(online: OnlineFeatures, home: Home) -> None:
    writer = HistoryWriter(home, online.store, schema_of(MANIFEST))
    times = [UNTIL + 10, UNTIL + 20]
    writer.write([Event("newcomer", n, "click", t, n) for n, t in enumerate(times)])

    def seen(now: int) -> list[int]:
        return online.read("red shoe", "newcomer", now).inputs.hist_times.tolist()

    assert seen(UNTIL + 10) == []
    assert seen(UNTIL + 11) == times[:1]
    assert seen(UNTIL + 21) == times


def test_a_history_ends_with_its_ttl_to_the_microsecond(online: OnlineFeatures, home: Home) -> None:
    last = UNTIL - 5 * DAY
    writer = HistoryWriter(home, online.store, schema_of(MANIFEST))
    writer.write([Event("old hand", 1, "click", last, 1)])
    end = last + 1 + HISTORY_TTL_DAYS * DAY
    assert len(online.read("red", "old hand", end).inputs.hist_items) == 1
    assert len(online.read("red", "old hand", end + 1).inputs.hist_items) == 0


def test_a_store_that_fails_leaves_the_features_out(
    online: OnlineFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online.store, "get_online_features", lambda *args, **kwargs: 1 / 0)
    read = online.read("red shoe", "u1", UNTIL)
    assert read.degraded == ("engagement", "user_history")
    counted = [
        n.startswith(("q:", "s:", "t:", "g:", "a:", "user:")) for n in schema_of(MANIFEST).cross
    ]
    assert not crosses(read.inputs)[:, counted].any()


@pytest.fixture
def another_store(
    request: pytest.FixtureRequest, online_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty store of the same kind: SQLite's is the home's, a Redis server is everybody's."""
    if online_store == "redis":
        monkeypatch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())


def test_materialising_on_brings_what_offline_sees_later(
    tmp_path: Path, built: Home, requests: pd.DataFrame, another_store: None
) -> None:
    later = beside(built, tmp_path)
    steps = (START + 10 * DAY, START + 10 * DAY + 1, START + 33 * DAY)
    for until in steps:
        state = materialise(later, until, progress=False)
        assert state["until_us"] == until
    online = OnlineFeatures(later)
    for query, user, context in requests.head(20).itertuples(index=False):
        there = offline_inputs(later, as_table(query, user, context, steps[-1]))
        here = online.read(query, user, steps[-1], context)
        np.testing.assert_allclose(crosses(here.inputs), crosses(there), atol=1e-6)
    with pytest.raises(StateError, match="cannot forget"):
        materialise(later, steps[0], progress=False)


def test_another_online_store_is_filled_from_the_start(
    request: pytest.FixtureRequest, tmp_path: Path, built: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_redis = request.getfixturevalue("new_redis")
    home = beside(built, tmp_path)
    monkeypatch.delenv(REDIS_ENV, raising=False)
    materialise(home, UNTIL, progress=False)
    monkeypatch.setenv(REDIS_ENV, new_redis())
    materialise(home, UNTIL - 5 * DAY, progress=False)
    read = OnlineFeatures(home).read("red shoe", "u1", UNTIL)
    assert (read.inputs.key_block >= 0).any()
    assert len(read.inputs.hist_items)


def test_feasts_own_retrieval_finds_the_same_rows(home: Home, requests: pd.DataFrame) -> None:
    store = apply(home)
    for query, user, context in requests.head(8).itertuples(index=False):
        ours = offline_inputs(home, as_table(query, user, context, UNTIL))
        keys = engagement_keys(query, context)
        stamp = pd.to_datetime([UNTIL] * len(keys), unit="us", utc=True).as_unit("us")
        asked = pd.DataFrame({"engagement_key": keys, "event_timestamp": stamp})
        found = store.get_historical_features(asked, ["engagement:row"]).to_df()
        rows = dict(zip(found["engagement_key"], found["row"], strict=True))
        for key, block in zip(keys, ours.key_block, strict=True):
            start = ours.block_start[block]
            own = ours.blocks[start : start + ours.block_size[block]].tobytes()
            assert rows[key] is None if block < 0 else rows[key] == own


def test_nothing_applied_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="prerank materialise"):
        OnlineFeatures(Home.at(tmp_path))
    with pytest.raises(StateError, match="prerank features"):
        materialise(Home.at(tmp_path))
    assert not materialised_path(Home.at(tmp_path)).exists()
