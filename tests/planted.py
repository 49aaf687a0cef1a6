"""Training batches with a signal planted in one place, and a model small enough to find it fast."""

from __future__ import annotations

import numpy as np
import torch

from interactrank.features.batch import Batch, RequestArrays, collate
from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.features.text import ragged
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig, Trainer

SCHEMA = FeatureSchema(("click",), (), ("engagement",))
COLOURS = ["red", "blue", "green", "white", "black", "brown"]
KINDS = ["shoe", "bag", "coat", "hat", "sock"]
TITLES = [f"{c} {k}" for c in COLOURS for k in KINDS]
N_ITEMS, SHOWN = len(TITLES), 8
SMALL = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=24, hidden=(24,))
FAST = TrainConfig(learning_rate=1e-2, warmup_steps=5)
CHANCE = float(np.mean(1 / np.arange(1, SHOWN + 1)))


def catalogue(titles: list[str]) -> Catalogue:
    return Catalogue.build(
        np.arange(N_ITEMS),
        titles,
        [""] * N_ITEMS,
        np.zeros((N_ITEMS, 0), np.float32),
        np.zeros(N_ITEMS, np.int64),
    )


NAMED, NAMELESS = catalogue(TITLES), catalogue([""] * N_ITEMS)


def batch(seed: int, signal: str, of: Catalogue = NAMED, requests: int = 40) -> Batch:
    """One positive a request: by a cross feature, by the query's words, or by the item itself."""
    rng = np.random.default_rng(seed)
    candidates = np.stack([rng.choice(N_ITEMS, SHOWN, replace=False) for _ in range(requests)])
    x = rng.random((requests, SHOWN, len(SCHEMA.cross))).astype(np.float32)
    best = rng.integers(0, SHOWN, requests)
    if signal == "cross":
        best = x[:, :, 4].argmax(1)
    elif signal == "item":
        # A fixed order of the items that nothing but their ids can tell.
        best = ((candidates * 7) % N_ITEMS).argmax(1)
    labels = np.zeros((requests, SHOWN), np.int64)
    if signal != "none":
        labels[np.arange(requests), best] = 1
    at = candidates[np.arange(requests), best]
    queries = [TITLES[i] if signal == "text" else "gift" for i in at]
    text, text_offsets = ragged(queries)
    n, none = requests * SHOWN, np.zeros(0, np.int64)
    arrays = RequestArrays(
        time=np.arange(requests),
        text=text,
        text_offsets=text_offsets,
        hist_items=none,
        hist_actions=none,
        hist_times=none,
        hist_offsets=np.zeros(requests + 1, np.int64),
        top_items=none,
        top_items_counts=none.astype(np.float32),
        top_items_offsets=np.zeros(requests + 1, np.int64),
        request=rng.normal(size=(requests, len(REQUEST_NUMERIC))).astype(np.float32),
        candidates=candidates.reshape(-1),
        offsets=np.arange(requests + 1) * SHOWN,
        x=x.reshape(n, -1),
        labels=labels.reshape(-1),
        weights=np.ones(n, np.float32),
        log_q=np.zeros(n, np.float32),
    )
    return collate(arrays, of, of.table(), len(SCHEMA.heads))


def parameters(of: Trainer) -> list[torch.Tensor]:
    return [v.clone() for v in of.model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
