"""Feast's own ``get_historical_features`` is the specification of our point-in-time join."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import HISTORY_TTL_DAYS, FeatureSchema
from interactrank.features.text import engagement_keys
from prerank.core.feature_sets import tables_of_log
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.features.offline import offline_inputs

US = pd.Timedelta(microseconds=1)
SAMPLED = 150


@pytest.fixture(scope="module")
def store(tiny_world: Home, tmp_path_factory: pytest.TempPathFactory):
    """Feast over the tiny world's tables; its registry lies elsewhere, the world stays as it is."""
    from prerank.online import store

    root = tmp_path_factory.mktemp("feast")
    (root / "features").symlink_to(tiny_world.features)
    return store.apply(Home.at(root))


@pytest.fixture(scope="module")
def asked(tiny_log: pd.DataFrame, tiny_world: Home) -> pd.DataFrame:
    """Requests of the log, some moved onto the very stamps of rows, some far into the future."""
    requests = tiny_log.drop_duplicates("request_id").sample(SAMPLED, random_state=9)
    frame = requests[["query", "user_id", "request_time"]].reset_index(drop=True)
    times = frame["request_time"].copy()
    times[0:60:2] = times[0:60:2].dt.floor("h")
    history = pd.read_parquet(tables_of_log(tiny_world) / "user_history")
    stamps = history.groupby("user_id")["event_timestamp"].max()
    own = frame["user_id"].map(stamps)
    ttl = pd.Timedelta(days=HISTORY_TTL_DAYS)
    for i in range(60, 100):
        if own.notna()[i]:
            # On the stamp, a microsecond before it, and at both sides of the end of its life.
            times[i] = own[i] + (-US, 0 * US, ttl, ttl + US)[i % 4]
    frame["request_time"] = times.astype("datetime64[us, UTC]")
    frame.loc[100:105, "user_id"] = "never seen"
    frame.loc[106:110, "query"] = "a query of nobody"
    contexts: Any = requests[["country", "device"]].to_dict("records")
    frame["context"] = contexts
    return frame


@pytest.fixture(scope="module")
def ours(tiny_world: Home, asked: pd.DataFrame) -> FeatureInputs:
    return offline_inputs(tiny_world, pa.Table.from_pandas(asked))


@pytest.fixture(scope="module")
def schema(tiny_world: Home) -> FeatureSchema:
    return LogManifest.load(tiny_world).schema


def feasts(store, entities: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    found = store.get_historical_features(entities, features).to_df()
    assert len(found) == len(entities), "Feast lost or doubled rows"
    return found.sort_values("n", ignore_index=True)


def test_engagement_rows_equal_feasts(
    store, schema: FeatureSchema, asked: pd.DataFrame, ours: FeatureInputs
) -> None:
    keys = asked.apply(lambda r: engagement_keys(r["query"], r["context"]), axis=1)
    times = asked["request_time"].repeat(keys.map(len).tolist())
    entities = pd.DataFrame({"engagement_key": keys.explode(), "event_timestamp": times})
    entities = entities.reset_index(drop=True).assign(n=np.arange(len(ours.key_block)))
    # Feast drops nothing, but a repeated entity row would come back once.
    distinct = entities.drop_duplicates(["engagement_key", "event_timestamp"])
    found = entities.merge(
        feasts(store, distinct, [f"{schema.engagement_view}:row"]).drop(columns="n"),
        on=["engagement_key", "event_timestamp"],
        how="left",
        validate="many_to_one",
    ).sort_values("n")
    missing = 0
    for k, row in enumerate(found["row"]):
        block = ours.key_block[k]
        if row is None or row is pd.NA or isinstance(row, float):
            assert block < 0, entities.loc[k]
            missing += 1
            continue
        assert block >= 0, entities.loc[k]
        start = ours.block_start[block]
        assert ours.blocks[start : start + ours.block_size[block]].tobytes() == bytes(row)
    assert 0 < missing < 0.5 * len(found)


def test_histories_equal_feasts(
    store, schema: FeatureSchema, asked: pd.DataFrame, ours: FeatureInputs
) -> None:
    entities = pd.DataFrame(
        {
            "user_id": asked["user_id"],
            "event_timestamp": asked["request_time"],
            "n": np.arange(len(asked)),
        }
    )
    names = ("item_ids", "actions", "times", "queries")
    found = feasts(store, entities, [f"{schema.history_view}:{n}" for n in names])
    columns = (ours.hist_items, ours.hist_actions, ours.hist_times, ours.hist_queries)
    mine = dict(zip(names, columns, strict=True))
    lengths = []
    for b, row in enumerate(found.to_dict("records")):
        lo, hi = ours.hist_offsets[b : b + 2]
        for name in names:
            value = row[name]
            theirs = [] if value is None or np.ndim(value) == 0 else list(value)
            assert mine[name][lo:hi].tolist() == theirs, (b, name)
        lengths.append(hi - lo)
    assert lengths.count(0) > 5
    assert max(lengths) > 20
