"""The feed for Vespa, from a home: ids as the log has them, and nothing half written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from prerank.core.errors import NotReadyError, StateError
from prerank.core.home import Home
from prerank.core.ids import ItemIds
from prerank.registry.bundle import Version, load_bundle, save_bundle
from prerank.registry.delta import Delta, save_delta
from prerank.registry.index import SliceTask, encode, encode_task, load_index, write_index
from prerank.registry.vespa import write_feed

IDS = ItemIds("string", 7)
TEXTS = ["a/b", "größe", "c"]
THREE = Version("3", "0c7bb1a7e1b24e62")
SCHEMA = FeatureSchema(("impression", "click"), ("impression",), ("engagement",))
SMALL = ModelConfig(width=8, text_width=8, id_width=8, mask_blocks=1, mask_width=8, hidden=(8,))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Version 3 and its index, on a log with text ids."""
    home = Home.at(tmp_path / "home")
    by_key = sorted((IDS.to_key(text), text) for text in TEXTS)
    keys, texts = [key for key, _ in by_key], [text for _, text in by_key]
    home.items.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item_id": keys, "item_ref": texts}), home.items)
    born = np.array([0, 1_700_000_000_500_000, 1_600_000_000_000_000])
    catalogue = Catalogue.build(np.array(keys), texts, [""] * 3, np.zeros((3, 0), np.float32), born)
    bundle = home.models / THREE.name
    save_bundle(bundle, InteractRank(SMALL, SCHEMA, catalogue), catalogue, {})
    out = home.index / THREE.name
    out.mkdir(parents=True)
    encode_task(SliceTask(bundle, 0, 3, 0, out / "part"))
    write_index(out, load_bundle(bundle), THREE, 0, [out / "part"])
    return home


def test_a_feed_has_each_item_with_its_vector_and_age(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "items.jsonl"
    out.write_text("of before")
    assert write_feed(home, home.models / THREE.name, THREE, out) == (3, 8)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    index = load_index(home, THREE, load_bundle(home.models / THREE.name).digest)
    texts, born = list[str](), list[float | None]()
    for at, row in enumerate(rows):
        fields = {name: change["assign"] for name, change in row["fields"].items()}
        texts.append(fields["item_id"])
        born.append(fields.get("created"))
        # Other fields of a document, such as the text that is searched, are not touched.
        assert (row["update"], row["create"]) == (f"id:prerank:item::{texts[-1]}", True)
        assert fields["item_key"] == {"cells": {str(IDS.to_key(fields["item_id"])): 1.0}}
        assert fields["key"] == index.ids[at]
        vector = np.array(fields["item_vector"]["values"], np.float32)
        assert vector.tolist() == index.vectors[at].float().tolist()
    assert sorted(texts) == sorted(TEXTS)
    assert born == [None, 1_700_000_000.5, 1.6e9]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "home", out]


def test_items_that_were_added_are_in_the_feed(home: Home, tmp_path: Path) -> None:
    changed, new = IDS.to_key("c"), IDS.to_key("d")
    ids = np.sort(np.array([changed, new]))
    none = np.zeros((2, 0), np.float32)
    added = Catalogue.build(ids, ["lamp"] * 2, [""] * 2, none, np.full(2, 1_500_000_000_000_000))
    bundle = load_bundle(home.models / THREE.name)
    vectors = encode(bundle, added, np.arange(2), 0)
    save_delta(home.index / THREE.name, Delta(added, vectors))
    out = tmp_path / "items.jsonl"
    with pytest.raises(StateError, match="prerank add-items"):
        write_feed(home, home.models / THREE.name, THREE, out)
    refs = {IDS.to_key(text): text for text in [*TEXTS, "d"]}
    pq.write_table(pa.table({"item_id": list(refs), "item_ref": list(refs.values())}), home.items)
    assert write_feed(home, home.models / THREE.name, THREE, out) == (4, 8)
    rows = [json.loads(line)["fields"] for line in out.read_text().splitlines()]
    for row in rows:
        key = row["key"]["assign"]
        assert row["item_id"]["assign"] == refs[key]
        if key in ids:
            at = int(np.searchsorted(ids, key))
            values = np.array(row["item_vector"]["assign"]["values"], np.float32)
            assert values.tolist() == vectors[at].float().tolist()
            assert row["created"]["assign"] == 1.5e9


def test_a_catalogue_of_another_log_is_refused_and_the_file_stays(
    home: Home, tmp_path: Path
) -> None:
    out = tmp_path / "items.jsonl"
    out.write_text("of before")
    pq.write_table(pq.read_table(home.items).slice(0, 1), home.items)
    with pytest.raises(StateError, match="2 items of the index are not in the catalogue"):
        write_feed(home, home.models / THREE.name, THREE, out)
    assert out.read_text() == "of before"


def test_a_version_without_an_index_says_how_to_make_it(home: Home, tmp_path: Path) -> None:
    bundle = home.models / THREE.name
    with pytest.raises(NotReadyError, match="prerank index --version 4"):
        write_feed(home, bundle, Version("4", "1" * 16), tmp_path / "items.jsonl")
