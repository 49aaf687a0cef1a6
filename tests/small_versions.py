"""Versions of untrained models over the log of ``tests.online_log``, and their indexes."""

from __future__ import annotations

from pathlib import Path

import torch
from tests import online_log
from tests.golden import golden_for
from tests.online_log import MANIFEST, UNTIL

from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.home import Home
from prerank.registry.bundle import Version, load_bundle, save_bundle
from prerank.registry.golden import save_golden
from prerank.registry.index import SliceTask, encode_task, write_index

CATALOGUE = online_log.catalogue()


def save_model(
    folder: Path, seed: int, schema: FeatureSchema = MANIFEST.schema, *, golden: bool = True
) -> Path:
    """An untrained model, another for each seed, with golden requests or as before there were."""
    torch.manual_seed(seed)
    config = ModelConfig(width=16, mask_blocks=1, mask_width=16, hidden=(16,))
    save_bundle(folder, InteractRank(config, schema, CATALOGUE).eval(), CATALOGUE, {})
    if golden:
        save_golden(folder, golden_for(load_bundle(folder)))
    return folder


def build_index(home: Home, bundle: Path, version: Version) -> None:
    """As `prerank index` does, in this process."""
    out = home.index / version.name
    out.mkdir(parents=True)
    loaded = load_bundle(bundle)
    encode_task(SliceTask(bundle, 0, len(loaded.catalogue), UNTIL, out / "part"))
    write_index(out, loaded, version, UNTIL, [out / "part"])
