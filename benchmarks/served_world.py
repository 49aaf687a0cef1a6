"""A synthetic home that can be deployed: catalogue, model, index, and features in Redis.

Rows and histories are as long as a busy log's (``scorer_world``). The model was never trained, and
the registry is away: what is served is the version that was served last. What the plain service
reads is the same rows, under keys of their own in the same Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from redis import Redis
from scorer_world import DAY, NOW, SCHEMA, SHARE, candidates, zipf

from interactrank.features.catalogue import Catalogue
from interactrank.features.packed_rows import pack
from interactrank.features.schema import HISTORY_LENGTH, LEVELS, REQUEST_NUMERIC
from interactrank.features.searches import Searches, level_code
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.feature_sets import described
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.manifest import VERSION as LOG_VERSION
from prerank.core.manifest import LogManifest
from prerank.online.history import History, HistoryTable
from prerank.online.materialise import of_store
from prerank.online.merging import OnlineHistories
from prerank.online.sentinel import Sentinel, write_sentinel
from prerank.online.store import apply, online_name
from prerank.registry.bundle import Version, load_bundle, save_bundle
from prerank.registry.index import write_index

VERSION = Version("1", "benchmark")
WORDS = ("red", "canvas", "shoes", "garden", "lamp", "wooden", "table", "running", "kids", "winter")
QUERIES = [" ".join(WORDS[(i + j * (1 + i % 3)) % 10] for j in range(3)) for i in range(16)]
USERS = [f"u{i}" for i in range(64)]
K = 100
ROWS_PER_WRITE = 64


class Asked(NamedTuple):
    """A request of the benchmark."""

    query: str
    user: str
    candidates: NDArray[np.int64]


def build(home: Home, items: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Make ``home`` ready to be deployed, with the Redis that the environment names; its ids."""
    ids = np.sort(np.unique(rng.integers(0, 1 << 50, items + items // 100 + 10))[:items])
    _log(home)
    model_and_index(home, ids, rng)
    _online(home, ids, rng)
    return ids


def _log(home: Home) -> None:
    stamp = np.datetime_as_string(np.datetime64(NOW, "us")) + "Z"
    LogManifest(
        version=LOG_VERSION,
        dataset="benchmark",
        ids="integer",
        hash_seed=0,
        actions=SCHEMA.actions,
        passive=SCHEMA.passive,
        heads=dict.fromkeys(SCHEMA.heads, ("click",)),
        head_order=SCHEMA.heads,
        weights={},
        weight_order=(),
        segments=(),
        retriever=(),
        numeric=(),
        embedding=(),
        valid_from={},
        label_window_hours=24.0,
        single_time=True,
        has_impressions=True,
        mapping={},
        rows={},
        events=0,
        late=0,
        requests=0,
        requests_per_day={},
        users=len(USERS),
        queries=len(QUERIES),
        items=0,
        items_absent=0,
        first_time=stamp,
        last_time=stamp,
        fingerprint="benchmark",
        warnings=(),
        notices=(),
    ).save(home)
    # A replica warms itself with the log's last requests.
    at = pd.to_datetime(np.full(len(QUERIES), NOW, "datetime64[us]"), utc=True)
    last = pa.table({"query": QUERIES, "user_id": USERS[: len(QUERIES)], "request_time": at})
    folder = home.events / "day=2023-11-14"
    folder.mkdir(parents=True)
    pq.write_table(last, folder / "part-0.parquet")


def model_and_index(home: Home, ids: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Write a model that was never trained, and an index of random vectors of the items ``ids``."""
    n = len(ids)
    created = NOW - rng.integers(1, 2000 * DAY, n)
    created[rng.random(n) < 0.1] = 0
    none, always = np.zeros((n, 0), np.float32), np.zeros(1, np.int64)
    catalogue = Catalogue(
        ids=ids,
        text=np.zeros(0, np.int32),
        offsets=np.zeros(n + 1, np.int64),
        category=np.zeros(n, np.int64),
        numeric=none,
        created=created,
        text_from=always,
        category_from=always,
        embedding=none,
        embedding_from=always,
    )
    torch.manual_seed(0)
    model = InteractRank(ModelConfig(), SCHEMA, catalogue).eval()
    model.fusion.fit(torch.rand(500, len(SCHEMA.cross)), torch.randn(500, len(REQUEST_NUMERIC)))
    folder, out = home.models / VERSION.name, home.index / VERSION.name
    save_bundle(folder, model, catalogue, {})
    out.mkdir(parents=True)
    part = out / "part"
    with part.open("wb") as file:
        for size in [1 << 18] * (n >> 18) + [n % (1 << 18)]:
            drawn = torch.nn.functional.normalize(torch.randn(size, model.config.width), dim=1)
            file.write(drawn.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    write_index(out, load_bundle(folder), VERSION, NOW, [part])
    served = {"alias": "champion", "version": VERSION.number, "run_id": VERSION.run_id}
    write_json(home.models / "served.json", served)


def _online(home: Home, ids: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Write what ``prerank materialise`` would write of feature tables with these rows."""
    about = described(SCHEMA) | {"fingerprint": "benchmark"}
    tables = home.features_of(SCHEMA.hash())
    for table in about["views"]:
        (tables / table).mkdir(parents=True)
    write_json(tables / "manifest.json", about | {"last_cutoff_us": NOW - 1, "log_id": home.log_id})
    state = {
        **of_store(SCHEMA, f"prerank_{home.id}"),
        **about,
        "until_us": NOW - 1,
        "cutoff_us": NOW - 1,
        "epoch": "benchmark",
        "probes": {"keys": [], "users": []},
    }
    write_json(home.materialised_of(SCHEMA.hash()), state)
    store = apply(home)
    keys = sorted({key for query in QUERIES for key in Searches.one(query, {}).keys[0]})
    rows = {key: row for key in keys if (row := _row(key, ids, rng))}
    stamp = pd.Timestamp(NOW - 1, unit="us", tz="UTC")
    for at in range(0, len(rows), ROWS_PER_WRITE):
        some = list(rows.items())[at : at + ROWS_PER_WRITE]
        frame = pd.DataFrame(some, columns=["engagement_key", "row"]).assign(event_timestamp=stamp)
        store.write_to_online_store(SCHEMA.engagement_view, frame)
    past = {user: _history(ids, rng) for user in USERS}
    OnlineHistories(home, store, HistoryTable.of(SCHEMA), exclusive=True).merge_histories(past)
    write_sentinel(
        store,
        SCHEMA.engagement_view,
        Sentinel("benchmark", True, NOW - 1, SCHEMA.hash(), "benchmark"),
    )
    host, port = online_name().split("-")[1:3]
    with Redis(host, int(port)) as plain:
        plain.mset({f"row:{key}": row for key, row in rows.items()})
        plain.mset({f"history:{u}": np.stack(h.columns).tobytes() for u, h in past.items()})


def _row(key: str, ids: NDArray[np.int64], rng: np.random.Generator) -> bytes:
    level = LEVELS[level_code(key)]
    held = np.sort(ids[zipf(int(SHARE[level.prefix] * level.cap), len(ids), rng)])
    columns = SCHEMA.columns(level)
    counts = rng.geometric(0.2, (len(held), len(columns))).astype(np.float64)
    return pack(held, counts, columns, level)


def _history(ids: NDArray[np.int64], rng: np.random.Generator) -> History:
    items = ids[zipf(HISTORY_LENGTH, len(ids), rng)]
    n = len(items)
    times = np.sort(NOW - rng.integers(1, 90 * DAY, n))
    code = SCHEMA.history_codes["click"]
    none = np.zeros(n, np.int64)
    return History(items, np.full(n, code), times, rng.integers(-(2**62), 2**62, n), none)


def asked(n: int, ids: NDArray[np.int64], count: int, rng: np.random.Generator) -> list[Asked]:
    """``count`` requests of ``n`` candidates; the candidates differ from request to request."""
    return [
        Asked(QUERIES[i % len(QUERIES)], USERS[i % len(USERS)], candidates(n, ids, rng))
        for i in range(count)
    ]


def as_http(requests: Sequence[Asked], form: str, folder: Path) -> list[str]:
    """Write requests as files, "JSON" or "int64"; both services take them as they stand."""
    found = []
    for i, request in enumerate(requests):
        fields = {"user_id": request.user, "query": request.query, "k": K, "time": NOW}
        if form == "JSON":
            path, kind = "/v1/prerank", "application/json"
            body = orjson.dumps(fields | {"candidates": request.candidates.tolist()})
        else:
            path, kind = f"/v1/prerank?{urlencode(fields)}", "application/octet-stream"
            body = request.candidates.astype("<i8").tobytes()
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}"]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        file = folder / f"{form}-{len(request.candidates)}-{i}.http"
        file.write_bytes(head.encode() + body)
        found.append(str(file))
    return found
