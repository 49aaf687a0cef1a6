"""A small log whose feature tables are built without Ray, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from interactrank.features.catalogue import Catalogue
from interactrank.features.engagement import cross_features
from interactrank.features.schema import FeatureSchema
from prerank.core.feature_sets import described
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.manifest import VERSION, LogManifest
from prerank.features import build as features
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.ingest.publish import new_log
from prerank.online.materialise import of_store
from prerank.online.sentinel import Sentinel, write_sentinel
from prerank.online.store import apply

EPOCH = "0123456789abcdef"
DAY = 86_400_000_000
START = 1_600_000_000_000_000
DAYS, EVENTS, USERS, ITEMS = 40, 6_000, 80, 150
UNTIL = START + 30 * DAY + 12_345_678
WORDS = ["red", "blue", "shoe", "shoes", "lamp", "wooden", "table", "running", "kids", "garden"]
MANIFEST = LogManifest(
    version=VERSION,
    dataset="online",
    ids="integer",
    hash_seed=0,
    actions=("impression", "click", "save"),
    passive=("impression",),
    heads={"engagement": ("click", "save")},
    head_order=("engagement",),
    weights={},
    weight_order=(),
    segments=("country", "device"),
    retriever=("rank",),
    numeric=(),
    embedding=(),
    valid_from={},
    label_window_hours=24.0,
    single_time=True,
    has_impressions=True,
    mapping={},
    rows={},
    events=EVENTS,
    late=0,
    requests=EVENTS,
    requests_per_day={},
    users=USERS,
    queries=60,
    items=ITEMS,
    items_absent=0,
    first_time=np.datetime_as_string(np.datetime64(START, "us")) + "Z",
    last_time=np.datetime_as_string(np.datetime64(START + DAYS * DAY, "us")) + "Z",
    fingerprint="one",
    warnings=(),
    notices=(),
    exposure=True,
    graph=True,
)


def log() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 4), replace=False)) for _ in range(60)]
    time = np.sort(rng.integers(START, START + DAYS * DAY, EVENTS))
    # Items follow the query, so that rows have something to say.
    query = rng.integers(0, len(texts), EVENTS)
    stamp = pd.to_datetime(time.astype("datetime64[us]"), utc=True)
    # So few that some items are shown and engaged in the same one.
    request = [f"{q}-{day}" for q, day in zip(query, time // (3 * DAY), strict=True)]
    position = pd.array(rng.integers(1, 9, EVENTS), "Int32")
    return pd.DataFrame(
        {
            "request_id": request,
            "position": position,
            "user_id": [f"u{n}" for n in rng.integers(0, USERS, EVENTS)],
            "query": [texts[q] for q in query],
            "item_id": (query * 7 + rng.integers(0, 12, EVENTS)) % ITEMS,
            "action": rng.choice(MANIFEST.actions, EVENTS, p=[0.3, 0.5, 0.2]),
            "request_time": stamp,
            "event_time": stamp,
            "known_time": stamp,
            "country": rng.choice(["de", "us", ""], EVENTS, p=[0.3, 0.6, 0.1]),
            "device": rng.choice(["mobile", "tv"], EVENTS),
            "event_id": rng.integers(-(2**62), 2**62, EVENTS),
        }
    )


def build(
    home: Home,
    manifest: LogManifest = MANIFEST,
    events: pd.DataFrame | None = None,
    config: FeatureConfig | None = None,
) -> None:
    """Write a log, by default this one, and build its features, without Ray."""
    manifest.save(home)
    folder = home.events / f"day={MANIFEST.first_time[:10]}"
    folder.mkdir(parents=True, exist_ok=True)
    frame = log() if events is None else events
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "part-0.parquet")

    def serially(function: Callable[[Any], Any], tasks: Sequence[Any], name: str) -> list[Any]:
        return [function(task) for task in tasks]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "ray_map", serially)
        build_features(home, config or FeatureConfig(lag_minutes=20))


def catalogue() -> Catalogue:
    """The log's items: a title each, and nothing else."""
    return Catalogue.build(
        CANDIDATES,
        [f"item {i}" for i in CANDIDATES],
        [""] * ITEMS,
        np.zeros((ITEMS, 0), np.float32),
        np.zeros(ITEMS, np.int64),
    )


def beside(built: Home, root: Path) -> Home:
    """A home with the same features and an online state of its own."""
    home = Home.at(root / "home")
    home.root.mkdir(parents=True)
    (home.root / "features").symlink_to(built.features)
    MANIFEST.save(home)
    return home


def start_over(home: Home, manifest: LogManifest = MANIFEST) -> None:
    """Put another log in place of the home's, as ``prerank ingest --replace`` does."""
    with new_log(home, starts_over=True) as new:
        manifest.save(new)


def empty_tables(home: Home, schema: FeatureSchema) -> None:
    """Feature tables of a schema without a row: enough for ``prerank.online.store.apply``."""
    folder = home.features_of(schema.hash())
    about = described(schema)
    for table in about["views"]:
        (folder / table).mkdir(parents=True)
    write_json(folder / "manifest.json", about | {"last_cutoff_us": 0, "log_id": home.log_id})


def mark_online(home: Home, schema: FeatureSchema) -> None:
    """Write down that a schema is online, as materialising its empty tables does."""
    state = of_store(schema, f"prerank_{home.id}") | {"until_us": 0, "epoch": EPOCH}
    write_json(home.materialised_of(schema.hash()), state)


def filled(home: Home, *schemas: FeatureSchema) -> FeatureStore:
    """The store of a home in which these schemas' empty tables were materialised."""
    for schema in schemas:
        mark_online(home, schema)
    store = apply(home)
    for schema in schemas:
        write_sentinel(
            store,
            schema.engagement_view,
            Sentinel(EPOCH, filled=True, until_us=0, schema_hash=schema.hash(), fingerprint="one"),
        )
    return store


def searches() -> pd.DataFrame:
    """Sixty of the log's own searches, just after what is online; some of nobody, for nothing."""
    sample = log().sample(60, random_state=3).reset_index(drop=True)
    contexts: Any = sample[["country", "device"]].to_dict("records")
    sample["context"] = contexts
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
    schema = MANIFEST.schema
    none = np.zeros(ITEMS, np.int64)
    return cross_features(schema, inputs, CANDIDATES, np.array([0, ITEMS]), none)
