"""Towers that are carried over: item by item, and nothing of the fusion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from tests.online_log import MANIFEST

from interactrank.features.catalogue import Catalogue
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.registry.bundle import Bundle
from prerank.training.warm import begin_warm, unlike

CONFIG = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=8, hidden=(8,))
SCHEMA = MANIFEST.schema


def catalogue(ids: list[int]) -> Catalogue:
    n = len(ids)
    numeric = np.zeros((n, len(SCHEMA.item_numeric)), np.float32)
    return Catalogue.build(
        np.array(ids), [f"item {i}" for i in ids], [""] * n, numeric, np.zeros(n, np.int64)
    )


def model(items: Catalogue, seed: int) -> InteractRank:
    torch.manual_seed(seed)
    made = InteractRank(CONFIG, SCHEMA, items)
    made.trained[1:] = torch.rand(len(items)) > 0.5
    return made


def test_items_keep_their_vectors_wherever_they_stand() -> None:
    old, new = catalogue([10, 20, 30, 40]), catalogue([5, 20, 25, 40, 50])
    before, after, fresh = model(old, 1), model(new, 2), model(new, 2)
    carried = begin_warm(after, new, Bundle(before, SCHEMA, old, {}, ""))
    assert carried == 2
    for item, row, was in ((20, 2, 2), (40, 4, 4)):
        assert torch.equal(after.ids.weight[row], before.ids.weight[was]), item
        assert after.trained[row] == before.trained[was]
    for row in (1, 3, 5):
        assert torch.equal(after.ids.weight[row], fresh.ids.weight[row])
    assert torch.equal(after.ids.weight[0], before.ids.weight[0])


def test_the_towers_are_those_of_before_and_the_fusion_is_new() -> None:
    items = catalogue([1, 2, 3])
    before, after, fresh = model(items, 1), model(items, 2), model(items, 2)
    begin_warm(after, items, Bundle(before, SCHEMA, items, {}, ""))
    old, new = before.state_dict(), fresh.state_dict()
    moved = [name for name in new if not torch.equal(old[name], new[name])]
    assert any(name.startswith("fusion.") for name in moved)
    assert any(name.startswith("query_tower.") for name in moved)
    for name, value in after.state_dict().items():
        of = new if name.startswith("fusion.") else old
        assert torch.equal(value, of[name]), name


def test_another_model_or_other_features_are_not_carried_over() -> None:
    meta = {"model": CONFIG.to_dict(), "schema_hash": SCHEMA.hash()}
    assert unlike(SCHEMA, CONFIG, meta) == ""
    assert "model" in unlike(SCHEMA, replace(CONFIG, hidden=(16,)), meta)
    assert "features" in unlike(SCHEMA, CONFIG, meta | {"schema_hash": "0"})
    assert "architecture" in unlike(SCHEMA, CONFIG, meta | {"architecture": "inttower"})
