"""A small catalogue, requests of every awkward kind, and untrained models: for contract tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interactrank.features.batch import Batch, RequestArrays, collate, item_inputs
from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.features.text import ragged
from interactrank.model.architectures import build
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.model.inttower import IntTowerConfig

SCHEMA = FeatureSchema(
    ("view", "click", "save"),
    ("view",),
    ("engagement", "save"),
    ("price", "rating"),
    segments=("country", "device"),
    retriever=("score", "rank"),
    candidate_features=("offer",),
)
CONTEXT = {"country": "de", "device": ""}
HOUR = 3_600_000_000
NOW = 1_600_000_000_000_000
N_ITEMS = 30
UNTRAINED = 1029
"""An item of the catalogue that no training request engaged."""
# Widths as shipped: in much narrower towers a dying mask block lets LayerNorm blow rounding up.
SHIPPED = ModelConfig()
VARIANTS = {
    "default": SHIPPED,
    "no-cross": replace(SHIPPED, cross=False),
    "no-history": replace(SHIPPED, history=False),
    "two-tower": replace(SHIPPED, cross=False, history=False),
    "ungated": replace(SHIPPED, gated=False),
    "no-top_items": replace(SHIPPED, top_items=False),
    "linear-g": replace(SHIPPED, fusion_hidden=0),
}
BASELINES = {"inttower": IntTowerConfig()}
QUERIES = ["red shoe", "blue canvas bag", "", "winter boots for men", "shoe"]


def catalogue(**changes: Any) -> Catalogue:
    rng = np.random.default_rng(1)
    words = ["red", "blue", "shoe", "bag", "boots", "winter", "canvas"]
    numeric = rng.random((N_ITEMS, 2)).astype(np.float32) * 50
    numeric[rng.random(numeric.shape) < 0.2] = np.nan
    embedding = rng.normal(size=(N_ITEMS, 3)).astype(np.float32) * 20
    embedding[rng.random(N_ITEMS) < 0.2] = np.nan
    born = NOW - rng.integers(1, 99, N_ITEMS) * HOUR
    values: dict[str, Any] = {
        "ids": np.arange(1000, 1000 + N_ITEMS),
        "titles": [" ".join(rng.choice(words, 3)) if i != 7 else "" for i in range(N_ITEMS)],
        "categories": [["", "a", "b"][i % 3] for i in range(N_ITEMS)],
        "numeric": numeric,
        "created": np.where(rng.random(N_ITEMS) < 0.3, 0, born),
        "embedding": embedding,
    }
    return Catalogue.build(**(values | changes))


CATALOGUE = catalogue()
TABLE = CATALOGUE.table()


def arrays(seed: int = 0) -> RequestArrays:
    rng = np.random.default_rng(seed)
    b = len(QUERIES)
    text, text_offsets = ragged(QUERIES)
    history = np.array([3, 0, 130, 1, 40])
    sizes = np.array([12, 1, 5, 20, 8])
    n, events = int(sizes.sum()), int(history.sum())
    # 2000 stands in no catalogue.
    pool = np.append(CATALOGUE.ids, 2000)
    request = rng.normal(size=(b, len(REQUEST_NUMERIC))).astype(np.float32)
    request[1, 6] = np.nan
    top_items = np.array([2, 20, 0, 1, 5])
    best = int(top_items.sum())
    return RequestArrays(
        time=NOW + np.arange(b) * HOUR,
        text=text,
        text_offsets=text_offsets,
        hist_items=rng.choice(pool, events),
        hist_actions=rng.integers(0, 3, events),
        hist_times=NOW - np.sort(rng.integers(0, 3000 * HOUR, events))[::-1],
        hist_offsets=np.concatenate(([0], np.cumsum(history))),
        top_items=rng.choice(pool, best),
        top_items_counts=rng.integers(1, 50, best).astype(np.float32),
        top_items_offsets=np.concatenate(([0], np.cumsum(top_items))),
        request=request,
        candidates=np.concatenate([rng.choice(pool, s, replace=False) for s in sizes]),
        offsets=np.concatenate(([0], np.cumsum(sizes))),
        x=some_absent(rng.random((n, len(SCHEMA.cross))).astype(np.float32), SCHEMA),
        labels=rng.integers(0, 4, n),
        weights=rng.random(n).astype(np.float32),
        log_q=-rng.random(n).astype(np.float32),
        segments=rng.integers(0, 9, (b, 2)),
    )


def some_absent(x: Any, schema: FeatureSchema) -> Any:
    """``x`` [n, X] of numbers from 0 to 1, with a third of the candidate features absent."""
    for at in range(len(schema.cross) - 2 * len(schema.candidate_features), len(schema.cross), 2):
        x[:, at + 1] = x[:, at + 1] < 0.3
        x[:, at] *= 1 - x[:, at + 1]
    return x


def requests_of(source: RequestArrays, chosen: list[int]) -> RequestArrays:
    """Some requests of a batch, in the order given."""

    def cut(values: NDArray[Any], bounds: NDArray[np.int64]) -> NDArray[Any]:
        return np.concatenate([values[bounds[b] : bounds[b + 1]] for b in chosen])

    def bounds(of: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate(([0], np.cumsum(np.diff(of)[chosen])))

    s = source
    return RequestArrays(
        time=s.time[chosen],
        text=cut(s.text, s.text_offsets),
        text_offsets=bounds(s.text_offsets),
        request=s.request[chosen],
        segments=s.segments[chosen],
        hist_offsets=bounds(s.hist_offsets),
        offsets=bounds(s.offsets),
        top_items_offsets=bounds(s.top_items_offsets),
        **{f: cut(getattr(s, f), s.top_items_offsets) for f in ("top_items", "top_items_counts")},
        **{
            f: cut(getattr(s, f), s.hist_offsets)
            for f in ("hist_items", "hist_actions", "hist_times")
        },
        **{
            f: cut(getattr(s, f), s.offsets)
            for f in ("candidates", "x", "labels", "weights", "log_q")
        },
    )


def batch(source: RequestArrays, of: Catalogue = CATALOGUE) -> Batch:
    return collate(source, of, of.table(), len(SCHEMA.heads))


def new_model(
    config: ModelConfig, of: Catalogue = CATALOGUE, schema: FeatureSchema = SCHEMA
) -> InteractRank:
    torch.manual_seed(3)
    model = build(config, schema, of)
    model.trained[1:] = True
    model.trained[UNTRAINED - 1000 + 1] = False
    model.fusion.bias.data = torch.tensor([0.3, -0.7])
    model.fusion.slope.copy_(torch.tensor([0.8, 1.5]))
    model.fusion.shift.copy_(torch.tensor([-0.2, 0.4]))
    if config.cross:
        rng = torch.Generator().manual_seed(0)
        statistics = torch.randn(100, len(REQUEST_NUMERIC), generator=rng)
        x = some_absent(torch.rand(100, len(schema.cross), generator=rng), schema)
        model.fusion.fit(x, statistics)
        if model.fusion.gate is not None:
            torch.nn.init.normal_(model.fusion.gate.weight, std=0.1)
        assert model.query_tower.numeric is not None
        model.query_tower.numeric.fit(torch.randn(100, len(REQUEST_NUMERIC), generator=rng))
    return model.eval()


def item_vectors(
    model: InteractRank,
    of: Catalogue,
    text: bool = True,
    cat: bool = True,
    rows: NDArray[np.int64] | None = None,
) -> torch.Tensor:
    rows = np.arange(len(of) + 1) if rows is None else rows
    n = len(rows)
    return model.encode_items(
        item_inputs(of, rows, np.full(n, text), np.full(n, cat), np.full(n, True))
    )


def close(a: torch.Tensor, b: torch.Tensor, within: float = 1e-5) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=within)
