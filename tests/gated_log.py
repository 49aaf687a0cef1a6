"""A log in which some items are liked, and versions that know it or not; without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tests import online_log
from tests.golden import golden_for
from tests.online_log import DAY, ITEMS, MANIFEST, START
from tests.small_versions import CATALOGUE, build_index

from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.files import read_json, write_json
from prerank.core.home import Home
from prerank.online.materialise import materialise
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import META, Version, load_bundle, save_bundle
from prerank.registry.golden import save_golden
from prerank.registry.registration import register

REQUESTS, SHOWN, DAYS = 600, 10, 30
LIKED = 5
"""Every fifth item is."""
TEST_FROM = START + 10 * DAY
"""A model of this log learned from the requests before."""

Model = Callable[[InteractRank], None]


def log() -> pd.DataFrame:
    """Requests at even distances; liked items are clicked far more often than others."""
    rng = np.random.default_rng(11)
    rows = []
    for n, at in enumerate(np.linspace(START, START + DAYS * DAY - 1, REQUESTS).astype(int)):
        items = rng.choice(ITEMS, SHOWN, replace=False)
        clicked = rng.random(SHOWN) < np.where(items % LIKED == 0, 0.6, 0.05)
        query = " ".join(rng.choice(online_log.WORDS, 2, replace=False))
        asked = {"request_id": f"r{n}", "query": query, "user_id": f"u{n % 40}", "request_time": at}
        for place, item in enumerate(items.tolist(), 1):
            shown = asked | {"item_id": item, "position": place, "event_time": at}
            rows.append(shown | {"action": "impression"})
            if clicked[place - 1]:
                later = {"action": "click", "event_time": at + 1_000_000 * place}
                rows.append(shown | later | {"position": None})
    frame = pd.DataFrame(rows)
    frame["known_time"] = frame["event_time"]
    for name in ("request_time", "event_time", "known_time"):
        frame[name] = pd.to_datetime(frame[name].to_numpy().astype("datetime64[us]"), utc=True)
    frame["position"] = frame["position"].astype("Int32")
    frame["country"], frame["device"] = "de", "tv"
    frame["retriever_rank"] = pd.array([None] * len(frame), "Float32")
    return frame.assign(event_id=np.arange(len(frame)))


def build(home: Home) -> None:
    """Write the log, its catalogue and its features, and bring these online."""
    frame = log()
    days = frame["request_time"].dt.strftime("%Y-%m-%d")
    manifest = replace(
        MANIFEST,
        events=len(frame),
        requests=REQUESTS,
        requests_per_day={str(d): len(set(ids)) for d, ids in frame.groupby(days)["request_id"]},
        last_time=f"{frame['event_time'].max():%Y-%m-%dT%H:%M:%S.%f}Z",
    )
    online_log.build(home, manifest, frame)
    # A folder for each day, where that helper wrote one for all.
    for file in home.events.glob("*/*.parquet"):
        file.unlink()
    for day, rows in frame.groupby(days):
        folder = home.events / f"day={day}"
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), folder / "part-0.parquet")
    home.items.parent.mkdir(parents=True, exist_ok=True)
    CATALOGUE.save(home.catalogue)
    materialise(home, progress=False)


def counts(model: InteractRank) -> None:
    """Rank by how often an item was engaged with."""
    _weigh(model, 1.0)


def counts_reversed(model: InteractRank) -> None:
    """The rarer, the better."""
    _weigh(model, -1.0)


def broken(model: InteractRank) -> None:
    """Scores are no numbers."""
    with torch.no_grad():
        model.fusion.bias.fill_(torch.nan)


def _weigh(model: InteractRank, weight: float) -> None:
    with torch.no_grad():
        model.fusion.raw_scale.fill_(-9.0)
        model.fusion.unit_weight.zero_()
        model.fusion.weight.zero_()
        model.fusion.weight[model.schema.cross.index("a:engage:all")] = weight


def save(folder: Path, seed: int, change: Model, test_from: int = TEST_FROM) -> Path:
    """A bundle of an untrained model that was changed, with golden requests."""
    torch.manual_seed(seed)
    config = ModelConfig(width=16, mask_blocks=1, mask_width=16, hidden=(16,))
    model = InteractRank(config, MANIFEST.schema, CATALOGUE).eval()
    change(model)
    save_bundle(folder, model, CATALOGUE, {"splits": {"test_from": test_from}})
    if change is not broken:
        save_golden(folder, golden_for(load_bundle(folder)))
    return folder


@dataclass
class Registry:
    """Registers versions of a home in an MLflow of its own."""

    home: Home
    root: Path
    made: list[Version] = field(default_factory=list)

    def add(self, change: Model = counts, *, index: bool = True, test_from: int = 0) -> Version:
        """Register another version; it becomes the challenger."""
        seed = len(self.made) + 1
        folder = save(self.root / f"bundle-{seed}", seed, change, test_from or TEST_FROM)
        with tracking.job_run(self.home, "train", {}, {}) as run_id:
            pass
        version = register(folder, run_id, {}, {})
        if index:
            build_index(self.home, registry.download(self.home, version), version)
        self.made.append(version)
        return version

    def retag(self, version: Version, **meta: object) -> None:
        """Change what the meta data of a fetched version say."""
        path = self.home.models / version.name / META
        write_json(path, read_json(path) | meta)
