"""What a user did last decides what they want next: the sequence tells it, and counts cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from interactrank.features.batch import Batch, RequestArrays, collate
from interactrank.features.catalogue import Catalogue
from interactrank.features.inputs import HOUR_US
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.features.text import ragged
from interactrank.metrics.ranking import mean
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.training.stacking import hold_out, measure, refit
from interactrank.training.trainer import TrainConfig, Trainer

ITEMS, STEPS, SHOWN, EVENTS, REQUESTS = 40, 4, 8, 3, 64
SCHEMA = FeatureSchema(("view", "click"), ("view",), ("engagement",))
MODEL = ModelConfig(width=16, text_width=8, id_width=8, mask_blocks=1, mask_width=32, hidden=(32,))
TRAIN = TrainConfig(epochs=1, batch_requests=REQUESTS, warmup_steps=10)
CATALOGUE = Catalogue.build(
    np.arange(ITEMS),
    ["pin"] * ITEMS,
    [""] * ITEMS,
    np.zeros((ITEMS, 0), np.float32),
    np.arange(ITEMS),
)


def batch(rng: np.random.Generator) -> Batch:
    """Requests that want the one shown item whose step follows that of the item touched last.

    Items stand on their number's remainder; no text, count or statistic says anything.
    """
    history = rng.integers(ITEMS, size=(REQUESTS, EVENTS))
    wanted = (history[:, -1] + 1) % STEPS
    others = rng.integers(ITEMS, size=(REQUESTS, SHOWN))
    others += (others % STEPS == wanted[:, None]) * (1 - STEPS * (others == ITEMS - 1))
    others[:, 0] = wanted + STEPS * rng.integers(ITEMS // STEPS, size=REQUESTS)
    labels = np.zeros((REQUESTS, SHOWN), np.int64)
    labels[:, 0] = 1
    text, offsets = ragged(["pin"] * REQUESTS)
    now = np.full(REQUESTS, 1_000_000 * HOUR_US, np.int64)
    minutes = np.arange(EVENTS, 0, -1) * np.int64(HOUR_US / 60)
    arrays = RequestArrays(
        time=now,
        text=text,
        text_offsets=offsets,
        hist_items=history.ravel(),
        hist_actions=np.ones(history.size, np.int64),
        hist_times=(now[:, None] - minutes).ravel(),
        hist_offsets=np.arange(REQUESTS + 1) * EVENTS,
        top_items=np.zeros(0, np.int64),
        top_items_counts=np.zeros(0, np.float32),
        top_items_offsets=np.zeros(REQUESTS + 1, np.int64),
        request=np.zeros((REQUESTS, len(REQUEST_NUMERIC)), np.float32),
        candidates=others.ravel(),
        offsets=np.arange(REQUESTS + 1) * SHOWN,
        x=np.zeros((REQUESTS * SHOWN, len(SCHEMA.cross)), np.float32),
        labels=labels.ravel(),
        weights=np.ones(labels.size, np.float32),
        log_q=np.zeros(labels.size, np.float32),
    )
    return collate(arrays, CATALOGUE, CATALOGUE.table(), len(SCHEMA.heads))


def mrr(config: ModelConfig) -> float:
    """MRR of requests to come, of a model and fusion that learned from others."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    train, held, later = ([batch(rng) for _ in range(n)] for n in (300, 8, 8))
    trainer = Trainer(InteractRank(config, SCHEMA, CATALOGUE), TRAIN, len(train))
    trainer.epoch(0, train, ())
    fusion = trainer.model.fusion
    refit(fusion, hold_out(trainer.model, held), TRAIN.loss)
    return mean(np.concatenate(measure(fusion, hold_out(trainer.model, later))))


def test_what_follows_the_item_touched_last_is_learned_from_the_sequence() -> None:
    by_chance = float((1 / np.arange(1, SHOWN + 1)).mean())
    assert mrr(replace(MODEL, history=False)) < by_chance + 0.05
    assert mrr(MODEL) > by_chance + 0.2
