"""Promotion looks first whether a version's features are there; no MLflow server, no Ray."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from tests.online_log import mark_online

from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.errors import NotReadyError, RegistryAwayError, StateError
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.registry import versions as registry
from prerank.registry.bundle import META, WEIGHTS, Version, digest_of, load_bundle, save_bundle
from prerank.registry.index import (
    VECTORS,
    SliceTask,
    encode_task,
    index_meta,
    load_index,
    write_index,
)
from prerank.registry.registration import name_index

PLAIN = FeatureSchema(("impression", "click", "save"), ("impression",), ("engagement",))
RICH = replace(PLAIN, segments=("country",), retriever=("rank",))
THREE = Version("3", "0c7bb1a7e1b24e62")
CATALOGUE = Catalogue.build(
    np.arange(3), ["a", "b", "c"], [""] * 3, np.zeros((3, 0), np.float32), np.zeros(3, np.int64)
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    save_bundle(home.models / THREE.name, new_model(), CATALOGUE, {})
    return home


def new_model() -> InteractRank:
    """Another one at each call."""
    return InteractRank(ModelConfig(mask_width=8, hidden=(8,)), RICH, CATALOGUE)


def indexed(home: Home) -> None:
    """Version 3's item index, as `prerank index` builds it in one task."""
    out, bundle = home.index / THREE.name, home.models / THREE.name
    out.mkdir(parents=True)
    encode_task(SliceTask(bundle, 0, len(CATALOGUE), 0, out / "part"))
    write_index(out, load_bundle(bundle), THREE, 0, [out / "part"])


def promoted(home: Home, online: FeatureSchema, patch: pytest.MonkeyPatch) -> list[Any]:
    """Aliases set by promoting version 3 when the features of ``online`` are materialised."""
    calls: list[Any] = []

    class Client:
        def set_registered_model_alias(self, *args: str) -> None:
            calls.append(args)

    patch.setattr("mlflow.MlflowClient", Client)
    mark_online(home, online)
    registry.promote(home, THREE)
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
    vectors = home.index / THREE.name / VECTORS
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
    folder = home.models / THREE.name
    meta = json.loads((folder / META).read_text())
    meta["cross_features"].append("q:purchase:7d")
    meta["schema_hash"] = "0" * 16
    write_json(folder / META, meta)
    with pytest.raises(StateError, match="without q:purchase:7d"):
        load_bundle(folder)


def test_an_index_of_other_weights_is_refused_with_the_remedy(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(home)
    save_bundle(home.models / THREE.name, new_model(), CATALOGUE, {})
    with pytest.raises(StateError, match=r"other weights.*prerank index --version 3"):
        promoted(home, RICH, monkeypatch)
    digest = load_bundle(home.models / THREE.name).digest
    with pytest.raises(StateError, match=r"other weights.*prerank index --version 3"):
        load_index(home, THREE, digest)


def test_an_index_of_a_release_that_named_no_weights_is_refused_with_the_remedy(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(home)
    path = home.index / THREE.name / "index.json"
    meta = json.loads(path.read_text())
    del meta["weights_sha256"]
    write_json(path, meta)
    with pytest.raises(StateError, match=r"other weights.*prerank index --version 3"):
        promoted(home, RICH, monkeypatch)


def test_a_registered_version_and_its_index_name_each_others_digest(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags: list[Any] = []

    class Client:
        def set_model_version_tag(self, *args: str) -> None:
            tags.append(args)

    monkeypatch.setattr("mlflow.MlflowClient", Client)
    indexed(home)
    meta = index_meta(home, THREE)
    assert meta["weights_sha256"] == digest_of(home.models / THREE.name / WEIGHTS)
    name_index(THREE, meta)
    digest = digest_of(home.index / THREE.name / VECTORS)
    assert tags == [("prerank", "3", "index_sha256", digest)]


def test_a_registry_that_is_away_is_named_when_it_is_told_of_an_index(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        tracking_uri = "http://made.up"

        def set_model_version_tag(self, *args: str) -> None:
            raise MlflowException("no route to host")

    monkeypatch.setattr("mlflow.MlflowClient", Client)
    indexed(home)
    with pytest.raises(RegistryAwayError, match=r"made.up cannot be told the index.*no route"):
        name_index(THREE, index_meta(home, THREE))


def test_a_version_and_its_index_are_read_without_a_pickle(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(home)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pickle is read")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert load_index(home, THREE, load_bundle(home.models / THREE.name).digest).ids.size == 3


def test_damaged_weights_are_refused_with_the_remedy(home: Home) -> None:
    weights = home.models / THREE.name / WEIGHTS
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(StateError, match=r"checksum.*Remove .*models/3-0c7bb1a7: it is then down"):
        load_bundle(weights.parent)


def test_whether_a_version_can_be_served_is_seen_without_reading_weights_or_vectors(
    home: Home,
) -> None:
    indexed(home)
    (home.models / THREE.name / WEIGHTS).unlink()
    (home.index / THREE.name / VECTORS).unlink()
    mark_online(home, RICH)
    assert registry.servable(home, THREE) == home.models / THREE.name
    home.materialised_of(RICH.hash()).unlink()
    mark_online(home, PLAIN)
    with pytest.raises(StateError, match="not materialised"):
        registry.servable(home, THREE)


@pytest.mark.parametrize("held", ["", '{"alias": "champion", "version": "3"}'])
def test_what_was_served_last_counts_only_if_it_says_whose_version_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    def away(alias: str) -> None:
        raise RegistryAwayError("MLflow cannot be asked")

    monkeypatch.setattr(registry, "alias_version", away)
    served = registry.Promoted(home)
    served.remember(registry.Wanted("champion", THREE))
    assert registry.Promoted(home).wanted().version == THREE
    (home.models / "served.json").write_text(held)
    with pytest.raises(RegistryAwayError):
        registry.Promoted(home).wanted()
