"""Invariants 4 and 6: what is read online is what was joined offline, in O(1) keys.

The log is made here and its feature tables are built without Ray, by the same functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
import torch
from tests import online_log
from tests.online_log import (
    CANDIDATES,
    DAY,
    ITEMS,
    MANIFEST,
    UNTIL,
    as_table,
    beside,
    crosses,
)

from interactrank.features.batch import collate
from interactrank.features.catalogue import Catalogue
from interactrank.features.request_statistics import request_features
from interactrank.features.schema import (
    HISTORY_TTL_DAYS,
    MAX_BYTES_PER_REQUEST,
    MAX_KEYS_PER_REQUEST,
)
from interactrank.features.text import engagement_keys
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.model.scorer import Scorer
from prerank.core.home import Home
from prerank.core.ids import ItemIds
from prerank.dataset.candidates import Candidates
from prerank.dataset.examples import request_arrays
from prerank.features.offline import offline_inputs
from prerank.online.history import Event
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.online.store import apply
from prerank.online.values import RedisValues, SqliteValues
from prerank.online.writer import HistoryWriter
from prerank.registry.bundle import Bundle, Version
from prerank.registry.index import encode
from prerank.registry.versions import Wanted
from prerank.serving.answer import Loaded
from prerank.serving.api import Limits, named, parse_json
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, built: Home, online_store: str) -> Home:
    home = beside(built, tmp_path_factory.mktemp(online_store))
    materialise(home, UNTIL, progress=False)
    return home


@pytest.fixture(scope="module")
def online(home: Home) -> OnlineFeatures:
    # The time-out is not what is tested here, and the machine may be busy.
    return OnlineFeatures(home, MANIFEST.schema, timeout_s=10.0)


def test_online_features_equal_offline_ones(
    home: Home, online: OnlineFeatures, requests: pd.DataFrame
) -> None:
    schema, filled = MANIFEST.schema, 0
    of_request = [i for i, name in enumerate(schema.cross) if name.startswith(("q:", "user:"))]
    segmented, of_segment = 0, schema.cross.index("s:engage:all")
    exposed, of_exposure = 0, [schema.cross.index(name) for name in schema.exposure_cross]
    near, of_graph = 0, [schema.cross.index(name) for name in schema.graph_cross]
    for query, user, context in requests.itertuples(index=False):
        there = offline_inputs(home, as_table(query, user, context, UNTIL))
        here = online.read(query, user, UNTIL, context)
        assert here.degraded == ()
        x = crosses(here.inputs)
        np.testing.assert_allclose(x, crosses(there), atol=1e-6)
        np.testing.assert_allclose(
            request_features(schema, here.inputs), request_features(schema, there), atol=1e-6
        )
        for name in (
            "hist_items",
            "hist_actions",
            "hist_times",
            "hist_queries",
            "query",
            "key_level",
            "tokens",
            "time",
            "segments",
            "near_items",
            "near_user",
            "near_query",
            "near_offsets",
            "user_vectors",
            "query_vectors",
            "near_cutoffs",
        ):
            np.testing.assert_array_equal(getattr(here.inputs, name), getattr(there, name))
        filled += bool((x[:, of_request] != 0).any())
        segmented += bool(x[:, of_segment].any())
        exposed += bool(x[:, of_exposure].any(axis=0).all())
        near += bool(x[:, of_graph].any(axis=0).all())
    assert min(filled, segmented, exposed, near) >= 0.9 * len(requests), (
        "the comparison compared nothing"
    )


def test_another_context_changes_the_segmented_features_alone(
    online: OnlineFeatures, requests: pd.DataFrame
) -> None:
    cross, changed = MANIFEST.schema.cross, set()
    for query, user, _ in requests.itertuples(index=False):
        one, other = (
            crosses(online.read(query, user, UNTIL, {"country": c, "device": "tv"}).inputs)
            for c in ("de", "us")
        )
        changed |= {c for c, differs in zip(cross, (one != other).any(0), strict=True) if differs}
    assert changed == {"s:engage:30d", "s:engage:all"}


def served_by(home: Home, online: OnlineFeatures) -> tuple[Engine, InteractRank, Catalogue]:
    """An engine with an untrained model, whose context embeddings are large enough to matter."""
    schema = MANIFEST.schema
    catalogue = online_log.catalogue()
    torch.manual_seed(0)
    model = InteractRank(ModelConfig(), schema, catalogue).eval()
    for table in model.query_tower.segments:
        torch.nn.init.normal_(table.get_parameter("weight"), std=3.0)
    bundle = Bundle(model, schema, catalogue, {}, "")
    vectors = encode(bundle, catalogue, np.arange(ITEMS), UNTIL)
    limits = Limits(ItemIds("integer"), schema, replay=True)
    engine = Engine(ServeConfig(home=str(home.root), clock="replay"))
    scorer = Scorer(model, catalogue, CANDIDATES, vectors)
    wanted = Wanted("champion", Version("1", "run"))
    engine.serve(Loaded(wanted, scorer, limits, online))
    return engine, model, catalogue


def test_served_scores_and_features_are_the_offline_ones(
    home: Home, online: OnlineFeatures, requests: pd.DataFrame
) -> None:
    engine, model, catalogue = served_by(home, online)
    schema, table, none = model.schema, catalogue.table(), np.zeros(ITEMS, np.int64)
    ranks = np.where(CANDIDATES % 3, CANDIDATES % 7, np.nan)
    moved = 0
    for query, user, context in requests.head(15).itertuples(index=False):
        chosen = [
            {"id": int(i), "rank": None if np.isnan(r) else int(r)}
            for i, r in zip(CANDIDATES, ranks, strict=True)
        ]
        body = {
            "user_id": user,
            "query": query,
            "context": context,
            "candidates": chosen,
            "k": ITEMS,
            "time": UNTIL,
            "explain": True,
        }

        def answered(body: dict[str, Any]) -> dict[int, dict[str, Any]]:
            asked = parse_json(orjson.dumps(body), engine.limits(), 0)
            return {item["id"]: item for item in engine.answer(asked).body["items"]}

        served, plain = answered(body), answered(body | {"context": {}})
        candidates = Candidates(
            CANDIDATES,
            np.array([0, ITEMS]),
            none,
            none.astype(np.float32),
            none.astype(np.float32),
            none[:1],
            ranks[:, None].astype(np.float32),
        )
        inputs = offline_inputs(home, as_table(query, user, context, UNTIL))
        arrays = request_arrays(schema, [query], inputs, candidates, catalogue, table)
        with torch.inference_mode():
            logits = model(collate(arrays, catalogue, table, 1)).logits[:, 0].numpy()
        scores = np.array([served[i]["score"] for i in CANDIDATES.tolist()])
        with torch.inference_mode():
            coefficients = model.fusion.coefficients(torch.from_numpy(arrays.request))
            of = torch.zeros(len(arrays.x), dtype=torch.int64)
            cross_scores = model.fusion.cross_score(
                torch.from_numpy(arrays.x), coefficients, of
            ).numpy()
        within = 2e-2 * coefficients.scale.item()
        assert np.abs(scores - logits).max() <= within
        np.testing.assert_allclose(
            [served[i]["cross_score"] for i in CANDIDATES.tolist()],
            cross_scores,
            rtol=1e-5,
            atol=1e-5,
        )
        for i, x in zip(CANDIDATES.tolist(), arrays.x, strict=True):
            assert served[i]["features"] == pytest.approx(named(schema.cross, x), abs=1e-6)
        without = np.array([plain[i]["score"] for i in CANDIDATES.tolist()])
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
    times = [UNTIL + 10, UNTIL + 20]
    with HistoryWriter(home, online.store, MANIFEST.schema) as writer:
        writer.write([Event("newcomer", n, "click", t, n) for n, t in enumerate(times)])

    def seen(now: int) -> list[int]:
        return online.read("red shoe", "newcomer", now).inputs.hist_times.tolist()

    assert seen(UNTIL + 10) == []
    assert seen(UNTIL + 11) == times[:1]
    assert seen(UNTIL + 21) == times


def test_a_history_ends_with_its_ttl_to_the_microsecond(online: OnlineFeatures, home: Home) -> None:
    last = UNTIL - 5 * DAY
    with HistoryWriter(home, online.store, MANIFEST.schema) as writer:
        writer.write([Event("old hand", 1, "click", last, 1)])
    end = last + 1 + HISTORY_TTL_DAYS * DAY
    assert len(online.read("red", "old hand", end).inputs.hist_items) == 1
    assert len(online.read("red", "old hand", end + 1).inputs.hist_items) == 0


def test_a_store_that_fails_leaves_the_features_out(
    online: OnlineFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (RedisValues, SqliteValues):
        monkeypatch.setattr(kind, "read", lambda *_: 1 / 0)
    read = online.read("red shoe", "u1", UNTIL)
    assert read.degraded == ("engagement", "user_history")
    counted = [n.startswith(("q:", "s:", "t:", "g:", "a:", "user:")) for n in MANIFEST.schema.cross]
    assert not crosses(read.inputs)[:, counted].any()


def test_feasts_own_retrieval_finds_the_same_rows(home: Home, requests: pd.DataFrame) -> None:
    store, view = apply(home), MANIFEST.schema.engagement_view
    for query, user, context in requests.head(8).itertuples(index=False):
        ours = offline_inputs(home, as_table(query, user, context, UNTIL))
        keys = engagement_keys(query, context)
        stamp = pd.to_datetime([UNTIL] * len(keys), unit="us", utc=True).as_unit("us")
        asked = pd.DataFrame({"engagement_key": keys, "event_timestamp": stamp})
        found = store.get_historical_features(asked, [f"{view}:row"]).to_df()
        rows = dict(zip(found["engagement_key"], found["row"], strict=True))
        for key, block in zip(keys, ours.key_block, strict=True):
            start = ours.block_start[block]
            own = ours.blocks[start : start + ours.block_size[block]].tobytes()
            assert rows[key] is None if block < 0 else rows[key] == own
