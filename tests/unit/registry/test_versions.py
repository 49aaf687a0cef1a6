"""Promotion looks first whether a version's features are there; no MLflow server, no Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.online_log import mark_online

from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.errors import NotReadyError, StateError
from prerank.core.home import Home, write_json
from prerank.registry import versions as registry
from prerank.registry.bundle import META, load_bundle, save_bundle
from prerank.registry.index import VECTORS, SliceTask, encode_task, write_index

PLAIN = FeatureSchema(("impression", "click", "save"), ("impression",), ("engagement",))
RICH = replace(PLAIN, segments=("country",), retriever=("rank",))
CATALOGUE = Catalogue.build(
    np.arange(3), ["a", "b", "c"], [""] * 3, np.zeros((3, 0), np.float32), np.zeros(3, np.int64)
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    model = InteractRank(ModelConfig(mask_width=8, hidden=(8,)), RICH, CATALOGUE)
    save_bundle(home.root / "models" / "3", model, CATALOGUE, {})
    return home


def indexed(home: Home) -> None:
    """Version 3's item index, as `prerank index` builds it in one task."""
    out, bundle = home.index / "3", home.root / "models" / "3"
    out.mkdir(parents=True)
    encode_task(SliceTask(bundle, 0, len(CATALOGUE), 0, out / "part"))
    write_index(out, load_bundle(bundle), "3", 0, [out / "part"])


def promoted(home: Home, online: FeatureSchema, patch: pytest.MonkeyPatch) -> list[Any]:
    """Aliases set by promoting version 3 when the features of ``online`` are materialised."""
    calls: list[Any] = []

    class Client:
        def set_registered_model_alias(self, *args: str) -> None:
            calls.append(args)

    patch.setattr("mlflow.MlflowClient", Client)
    mark_online(home, online)
    registry.promote(home, "3")
    return calls


def test_a_version_whose_features_are_online_is_promoted(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(home)
    assert promoted(home, RICH, monkeypatch) == [("prerank", "champion", "3")]


def test_a_version_without_an_index_is_refused_with_the_remedy(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotReadyError, match="prerank index --version 3"):
        promoted(home, RICH, monkeypatch)
    indexed(home)
    vectors = home.index / "3" / VECTORS
    vectors.write_bytes(vectors.read_bytes()[::-1])
    with pytest.raises(StateError, match="does not match its checksum"):
        promoted(home, RICH, monkeypatch)


def test_a_version_whose_features_are_not_online_is_refused_by_name(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(home)
    with pytest.raises(StateError, match="not materialised") as caught:
        promoted(home, PLAIN, monkeypatch)
    for name in ("s:engage:30d", "s:engage:all", "retriever:log_rank", "retriever:absent"):
        assert name in str(caught.value)
    with pytest.raises(StateError, match="same names, other layout"):
        promoted(home, replace(RICH, segments=("device",)), monkeypatch)


def test_a_model_that_names_a_feature_its_schema_lacks_is_refused_by_name(home: Home) -> None:
    folder = home.root / "models" / "3"
    meta = json.loads((folder / META).read_text())
    meta["cross_features"].append("q:purchase:7d")
    meta["schema_hash"] = "0" * 16
    write_json(folder / META, meta)
    with pytest.raises(StateError, match="without q:purchase:7d"):
        load_bundle(folder)
