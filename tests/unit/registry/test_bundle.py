"""A model version as files: what is written is read, and what an earlier release wrote is refused.

An earlier release called the configuration's ``top_items`` performing, the buffer ``trained``
known, and the features ``sparse:`` thin.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.samples import BASELINES, CATALOGUE, arrays, batch, new_model

from interactrank.model.config import ModelConfig
from prerank.core.errors import DamagedError, StateError
from prerank.registry.bundle import DIGEST, META, WEIGHTS, digest_of, load_bundle, save_bundle

SMALL = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=8, hidden=(8,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(tmp_path, new_model(SMALL), CATALOGUE, {"run_id": "a"})
    return tmp_path


@pytest.mark.parametrize("config", [SMALL, BASELINES["inttower"]])
def test_a_bundle_is_read_as_it_was_written(config: ModelConfig, tmp_path: Path) -> None:
    model = new_model(config)
    save_bundle(tmp_path, model, CATALOGUE, {"run_id": "a"})
    bundle = load_bundle(tmp_path)
    assert bundle.model.config == config
    assert bundle.schema == model.schema
    assert bundle.meta["run_id"] == "a"
    written, read = model.state_dict(), bundle.model.state_dict()
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in written)
    with torch.no_grad():
        assert torch.equal(bundle.model(batch(arrays())).logits, model(batch(arrays())).logits)


def edit_meta(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    meta = json.loads((folder / META).read_text())
    change(meta)
    (folder / META).write_text(json.dumps(meta))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    edit_meta(folder, lambda m: m.update({DIGEST: digest_of(folder / WEIGHTS)}))


def part_by_its_former_name(folder: Path) -> None:
    edit_meta(folder, lambda m: m["model"].update(performing=m["model"].pop("top_items")))


def buffer_by_its_former_name(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update(known=w.pop("trained")))


def weights_of_another_size(folder: Path) -> None:
    name = "query_tower.sequence.time.weight"
    edit_weights(folder, lambda w: w.update({name: w[name][:-1].clone()}))


def features_by_their_former_names(folder: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        former = [name.replace("sparse:", "thin:") for name in meta["cross_features"]]
        meta.update(cross_features=former, schema_hash="0123456789abcdef")

    edit_meta(folder, change)


def schema_with_a_former_field(folder: Path) -> None:
    edit_meta(folder, lambda m: m["schema"].update(told=m["schema"].pop("retriever")))


def architecture_by_a_former_name(folder: Path) -> None:
    edit_meta(folder, lambda m: m.update(architecture="early"))


@pytest.mark.parametrize(
    ("rewrite", "named"),
    [
        (part_by_its_former_name, "performing"),
        (buffer_by_its_former_name, "known, trained"),
        (weights_of_another_size, "other sizes"),
        (features_by_their_former_names, "without thin:g:engage:all"),
        (schema_with_a_former_field, "told"),
        (architecture_by_a_former_name, "'early'"),
    ],
)
def test_a_version_of_an_earlier_release_is_refused_with_the_remedy(
    folder: Path, rewrite: Callable[[Path], None], named: str
) -> None:
    rewrite(folder)
    with pytest.raises(StateError, match="was trained by an earlier release") as caught:
        load_bundle(folder)
    message = str(caught.value)
    assert named in message
    assert "Train and register it anew, or stay on the release that made it" in message


@pytest.mark.parametrize("held", [b"", b'{"schema": {"acti', b"[1]"])
def test_meta_data_that_are_damaged_are_named_with_the_remedy(folder: Path, held: bytes) -> None:
    (folder / META).write_bytes(held)
    with pytest.raises(DamagedError, match=f"{META} is damaged.*Remove .*downloaded again"):
        load_bundle(folder)
