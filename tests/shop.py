"""A small shop that people can look at: real words, searches that follow them, two model versions.

Everything is real but the training: the log's feature tables are built without Ray, its features
are online in SQLite, its versions are registered in MLflow and have an index each. The weights are
set by hand, so that rankings follow the counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mlflow import MlflowClient
from tests import online_log
from tests.golden import golden_for
from tests.small_versions import build_index

from interactrank.features.batch import RequestArrays
from interactrank.features.catalogue import Catalogue
from interactrank.features.engagement import cross_features
from interactrank.features.request_statistics import request_features
from interactrank.features.schema import FeatureSchema
from interactrank.features.text import normalise
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.evaluation.baselines import suite
from prerank.features.config import FeatureConfig
from prerank.online.materialise import materialise
from prerank.online.reader import OnlineFeatures
from prerank.registry.bundle import Version, load_bundle, save_bundle
from prerank.registry.golden import save_golden
from prerank.registry.versions import CHAMPION, MODEL_NAME

DAY, DAYS, REQUESTS, SHOWN = 86_400_000_000, 12, 700, 12
START = 1_700_000_000_000_000 // DAY * DAY
UNTIL = START + DAYS * DAY
ADJECTIVES = ["Red", "Blue", "Wooden", "Folding", "Small", "Large"]
NOUNS = [
    "garden chair",
    "garden table",
    "desk lamp",
    "floor lamp",
    "running shoe",
    "walking shoe",
    "wall clock",
    "bookshelf",
    "flower pot",
    "umbrella",
]
MARKUP = "<script>window.hacked = true</script><img src=x onerror='window.hacked=true'> umbrella"
"""A title that is markup, and a query."""
TITLES = [
    *(f"{a} {n}" for a, n in product(ADJECTIVES, NOUNS)),
    MARKUP,
    "Chair “" + 12 * "very " + "long”",
]
QUERIES = [
    *NOUNS,
    "lamp",
    "shoe",
    "garden",
    "red lamp",
    "blue garden chair",
    "wooden table",
    "small shoe",
    "large umbrella",
    normalise(MARKUP),
]
USERS = [f"user-{n:02}" for n in range(40)]
IDS = np.arange(100, 100 + len(TITLES), dtype=np.int64)
MANIFEST: LogManifest = replace(
    online_log.MANIFEST,
    dataset="a small shop",
    retriever=(),
    graph=False,
    exposure=False,
    items=len(TITLES),
    users=len(USERS),
    queries=len(QUERIES),
    requests=REQUESTS,
    first_time=np.datetime_as_string(np.datetime64(START, "us")) + "Z",
    last_time=np.datetime_as_string(np.datetime64(UNTIL, "us")) + "Z",
    fingerprint="shop",
)
CATALOGUE = Catalogue.build(
    IDS,
    TITLES,
    [""] * len(IDS),
    np.zeros((len(IDS), 0), np.float32),
    START - np.arange(len(IDS)) * DAY,
)


def log() -> pd.DataFrame:
    """Searches that show what shares a word with them, and are engaged with the more of these."""
    rng = np.random.default_rng(11)
    words = [set(normalise(title).split()) for title in TITLES]
    # Some items are liked more than others, whatever the query.
    liked = rng.gamma(1.0, 1.0, len(TITLES))
    rows = []
    for number in range(REQUESTS):
        query = QUERIES[min(int(rng.exponential(6.0)), len(QUERIES) - 1)]
        shared = np.array([len(own & set(query.split())) for own in words])
        shown = np.argsort(-(shared + rng.random(len(TITLES))))[:SHOWN]
        at = START + int(rng.integers(0, DAYS * DAY - DAY))
        base = {
            "request_id": f"r{number:05}",
            "user_id": USERS[int(rng.integers(0, len(USERS)))],
            "query": query,
            "country": str(rng.choice(["de", "us", ""])),
            "device": str(rng.choice(["phone", "desktop"])),
        }
        for place, item in enumerate(shown):
            chance = 0.5 * liked[item] * shared[item] / (1 + place) / len(query.split())
            acts = ["impression"] + ["click"] * int(rng.random() < chance)
            acts += ["save"] * int(len(acts) > 1 and rng.random() < 0.3)
            rows += [
                base
                | {"position": place + 1, "item_id": IDS[item], "action": act, "at": at + 1000 * n}
                for n, act in enumerate(acts)
            ]
    frame = pd.DataFrame(rows)
    moment = pd.to_datetime(frame.pop("at").to_numpy().astype("datetime64[us]"), utc=True)
    frame["position"] = frame["position"].astype("Int32")
    for column in ("request_time", "event_time", "known_time"):
        frame[column] = moment
    frame["event_id"] = np.arange(len(frame))
    return frame


def build(root: Path) -> Home:
    """The shop's home, with its features online and no model."""
    home = Home.at(root)
    home.create()
    events = log()
    daily = FeatureConfig(cadence_hours=24)
    online_log.build(home, replace(MANIFEST, events=len(events)), events, daily)
    home.items.parent.mkdir(parents=True)
    CATALOGUE.save(home.catalogue)
    created = pa.array(CATALOGUE.created, pa.timestamp("us", tz="UTC"))
    items = {
        "item_id": IDS,
        "item_ref": [str(i) for i in IDS],
        "title": TITLES,
        "category": [title.split()[-1] for title in TITLES],
        "created_at": created,
    }
    pq.write_table(pa.table(items), home.items)
    materialise(home, UNTIL, progress=False)
    return home


def add_version(home: Home, seed: int, *, user: float = 0.3, units: int = 16) -> Version:
    """Register another version with an index; it listens to a user's own past as much as told."""
    if not MlflowClient().search_registered_models(f"name = '{MODEL_NAME}'"):
        MlflowClient().create_registered_model(MODEL_NAME)
    with mlflow.start_run() as run:
        made = MlflowClient().create_model_version(MODEL_NAME, str(home.models), run.info.run_id)
    version = Version(str(made.version), run.info.run_id)
    torch.manual_seed(seed)
    config = ModelConfig(width=16, mask_blocks=1, mask_width=16, hidden=(16,), fusion_hidden=units)
    model = InteractRank(config, MANIFEST.schema, CATALOGUE).eval()
    set_weights(home, model, user)
    folder = home.models / version.name
    save_bundle(folder, model, CATALOGUE, {})
    save_golden(folder, golden_for(load_bundle(folder)))
    build_index(home, folder, version)
    return version


def fit_baselines(home: Home, version: Version) -> None:
    """Fit the linear model and the trees beside a version, on what is online now."""
    for name in ("linear", "trees"):
        folder = suite.folder_of(home, name)
        rows = suite.FITTED[name](home, MANIFEST.schema, folder, 1, read_online)
        write_json(folder / suite.HISTORY, {"rows": rows, "run_id": version.run_id})


def read_online(
    home: Home, schema: FeatureSchema, split: str, limit: int, seed: int
) -> RequestArrays:
    """The newest searches over the whole catalogue; of validation, other ones."""
    events = log()
    engaged = events[events["action"].isin(schema.engagements)]
    searches = events.drop_duplicates("request_id").sort_values("request_time")["request_id"]
    chosen = searches.iloc[-40:-20] if split == "train" else searches.iloc[-20:]
    reader = OnlineFeatures(home, schema, timeout_s=10.0)
    context, offsets = dict.fromkeys(schema.segments, ""), np.array([0, len(IDS)])
    found = []
    for id in chosen:
        row = events[events["request_id"] == id].iloc[0]
        inputs = reader.read(row["query"], row["user_id"], UNTIL, context).inputs
        own = engaged[engaged["request_id"] == id]["item_id"]
        found.append(
            RequestArrays.of(
                schema,
                [row["query"]],
                inputs,
                candidates=IDS,
                offsets=offsets,
                x=cross_features(schema, inputs, IDS, offsets, CATALOGUE.created),
                labels=np.isin(IDS, own).astype(np.int64),
            )
        )
    reader.close()
    return merged(found)


def merged(found: list[RequestArrays]) -> RequestArrays:
    """Requests of one each as one; of what a baseline is fitted on."""
    whole = {
        name: np.concatenate([getattr(each, name) for each in found])
        for name in ("candidates", "x", "labels", "request", "time")
    }
    offsets = np.arange(len(found) + 1) * len(IDS)
    log_q = np.zeros(len(found) * len(IDS), np.float32)
    return replace(found[0], **whole, offsets=offsets, log_q=log_q)


def set_weights(home: Home, model: InteractRank, user: float) -> None:
    """Weights that follow the counts, and little of a dot product that nobody trained."""
    schema, offsets = MANIFEST.schema, np.array([0, len(IDS)])
    reader = OnlineFeatures(home, schema, timeout_s=10.0)
    context = dict.fromkeys(schema.segments, "")
    reads = [reader.read(q, u, UNTIL, context).inputs for q, u in zip(QUERIES, USERS, strict=False)]
    reader.close()
    x = np.concatenate([cross_features(schema, r, IDS, offsets, CATALOGUE.created) for r in reads])
    request = np.concatenate([request_features(schema, r) for r in reads])
    fusion = model.fusion
    with torch.no_grad():
        fusion.fit(torch.from_numpy(x), torch.from_numpy(request))
        fusion.raw_scale.fill_(float(torch.tensor(0.02).logit()))
        for at, name in enumerate(schema.cross):
            fusion.weight[at] = user if name.startswith("user:") else 0.05
            if name.startswith("item:"):
                fusion.weight[at] = 0.0


@contextmanager
def registry(folder: Path) -> Iterator[None]:
    """An MLflow registry of its own, in SQLite, which this process and its threads ask."""
    before, uri = os.environ.get("MLFLOW_TRACKING_URI"), f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("shop")
    try:
        yield
    finally:
        mlflow.set_tracking_uri("")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def promote(version: Version) -> None:
    """Make a version the champion."""
    MlflowClient().set_registered_model_alias(MODEL_NAME, CHAMPION, version.number)
