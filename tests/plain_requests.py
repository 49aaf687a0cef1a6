"""Requests in plain Python, random ones too, and their feature inputs and cross features."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from interactrank.features.engagement import cross_features
from interactrank.features.inputs import FeatureInputs
from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS, FeatureSchema, Level
from interactrank.features.searches import level_code

SCHEMA = FeatureSchema(
    ("view", "click", "save"), ("view",), ("engagement", "save"), segments=("country", "device")
)
EXPOSED = replace(SCHEMA, exposure=True)
HOUR, DAY = 3_600_000_000, 24 * 3_600_000_000
NOW = 1_600_000_000_000_000
BY_PREFIX = {level.prefix: level for level in LEVELS}


@dataclass
class Request:
    """One request in plain Python: blocks by key, candidates with a birth, and events oldest first:
    (item, action, time, code of their query).
    """

    rows: dict[str, bytes | None] = field(default_factory=dict)
    history: list[tuple[int, int, int, int]] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    created: dict[int, int] = field(default_factory=dict)
    tokens: int = 1
    time: int = NOW
    query: int = 5


def offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)))


def as_inputs(requests: list[Request]) -> FeatureInputs:
    distinct = list(dict.fromkeys(b for r in requests for b in r.rows.values() if b is not None))
    keys = [(k, b) for r in requests for k, b in r.rows.items()]
    events = np.array([e for r in requests for e in r.history], np.int64).reshape(-1, 4)
    sizes = [len(b) for b in distinct]
    return FeatureInputs(
        time=np.array([r.time for r in requests], np.int64),
        blocks=np.frombuffer(b"".join(distinct), np.uint8),
        block_start=offsets(sizes)[:-1],
        block_size=np.array(sizes, np.int64),
        key_block=np.array([-1 if b is None else distinct.index(b) for _, b in keys], np.int64),
        key_level=np.array([level_code(k) for k, _ in keys], np.int64),
        key_offsets=offsets([len(r.rows) for r in requests]),
        hist_items=events[:, 0].copy(),
        hist_actions=events[:, 1].copy(),
        hist_times=events[:, 2].copy(),
        hist_queries=events[:, 3].copy(),
        hist_offsets=offsets([len(r.history) for r in requests]),
        query=np.array([r.query for r in requests], np.int64),
        tokens=np.array([r.tokens for r in requests], np.int64),
    )


def features(requests: list[Request], schema: FeatureSchema = SCHEMA) -> NDArray[np.float32]:
    return cross_features(
        schema,
        as_inputs(requests),
        np.array([c for r in requests for c in r.candidates], np.int64),
        offsets([len(r.candidates) for r in requests]),
        np.array([r.created.get(c, 0) for r in requests for c in r.candidates], np.int64),
    )


ITEMS = [*range(-4, 14), 2**62, -(2**62)]


def random_block(
    rng: np.random.Generator, level: Level, cap: int | None = None, schema: FeatureSchema = SCHEMA
) -> bytes:
    columns = schema.columns(level)
    ids = np.sort(rng.choice(np.array(ITEMS), rng.integers(0, 12), replace=False)).astype(np.int64)
    counts = rng.integers(0, 40, (len(ids), len(columns))) * rng.integers(0, 2, len(columns))
    small = replace(level, cap=cap or int(rng.integers(1, 12)))
    return pack(ids, counts.astype(float), columns, small)


def random_request(seed: int, schema: FeatureSchema = SCHEMA) -> Request:
    rng = np.random.default_rng(seed)
    keys = [
        "q:ab",
        "s:country=de|ab",
        "s:device=tv|ab",
        "c:ab",
        *(f"t:{i}" for i in range(rng.integers(0, 4))),
        *(f"g:{i}" for i in range(rng.integers(0, 5))),
        "a:",
    ]
    rows = {
        k: random_block(rng, BY_PREFIX[k[0]], schema=schema) if rng.random() < 0.8 else None
        for k in keys
    }
    span = rng.choice([HOUR, 90 * DAY])  # in this session, or long ago
    times = NOW - np.sort(rng.integers(0, span, rng.choice([0, 3, 20, 130])))[::-1]
    history = [
        (int(rng.choice(ITEMS)), int(rng.integers(1, 3)), int(t), int(rng.choice([0, 5, 9])))
        for t in times
    ]
    candidates = [int(i) for i in rng.permutation([*ITEMS, 99, 100])[: rng.integers(0, 20)]]
    births = [0, NOW - 30 * DAY, NOW - 30 * DAY + 1, NOW - 3 * DAY, NOW, NOW + DAY]
    born = {c: int(rng.choice(births)) for c in candidates}
    return Request(
        rows, history, candidates, born, int(rng.integers(0, 6)), query=int(rng.choice([0, 5]))
    )


SEEDS = st.integers(0, 2**32 - 1)
