"""A file of items that join the catalogue is read as ingest reads the catalogue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.online_log import MANIFEST

from interactrank.features.catalogue import Catalogue
from prerank.core.errors import ConfigError, DataError, StateError
from prerank.core.home import Home
from prerank.core.ids import ItemIds
from prerank.ingest.additions import read_items

MAPPING: dict[str, Any] = {
    "items": {"item_id": "sku", "title": "name", "numeric": ["price"]},
    "valid_from": {"title": "2020-01-01T00:00:00Z"},
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    replace(MANIFEST, mapping=MAPPING, numeric=("price",)).save(home)
    return home


def file(home: Home, **columns: list[Any]) -> Path:
    path = home.root.parent / "new.parquet"
    frame = {"sku": [5, 3], "name": ["Red Shoe", None], "price": [9, None]} | columns
    pd.DataFrame(frame).to_parquet(path)
    return path


def test_items_are_read_by_the_mapping_of_the_log(home: Home) -> None:
    found, remarks = read_items(file(home), home)
    expected = Catalogue.build(
        np.array([3, 5]),
        ["", "Red Shoe"],
        ["", ""],
        np.array([[np.nan], [9.0]], np.float32),
        np.zeros(2, np.int64),
        text_from=1_577_836_800_000_000,
    )
    assert not found.differs(expected).any()
    assert found.text_from == expected.text_from
    assert found.ids.tolist() == [3, 5]
    assert remarks == ()
    assert len(read_items(file(home).parent, home)[0]) == 2


def test_what_ingest_warns_of_is_said(home: Home) -> None:
    _, remarks = read_items(file(home, sku=[5, None]), home)
    assert remarks == ("1 catalogue rows without an item id were left out",)


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"sku": ["5", "x3"]}, DataError, "the item id 'x3', but this log's ids are integers"),
        ({"sku": [None, None]}, DataError, "holds no item with an id in 'sku'"),
        ({"sku": [5, 5]}, DataError, "'5' stands twice"),
        ({"price": ["a", "b"]}, ConfigError, "'price' .* is not numeric"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(
    home: Home, columns: dict[str, list[Any]], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        read_items(file(home, **columns), home)


def test_a_file_without_the_mapped_column_is_refused(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pd.DataFrame({"id": [1]}).to_parquet(path)
    with pytest.raises(ConfigError, match="'sku'"):
        read_items(path, home)
    with pytest.raises(ConfigError, match="does not exist"):
        read_items(tmp_path / "none.parquet", home)
    with pytest.raises(StateError, match="prerank ingest"):
        read_items(path, Home.at(tmp_path / "empty"))


def test_text_ids_become_the_keys_that_the_log_has(home: Home) -> None:
    ids = ItemIds("string", 7)
    manifest = replace(MANIFEST, mapping=MAPPING, numeric=("price",), ids="string", hash_seed=7)
    manifest.save(home)
    home.items.parent.mkdir(parents=True)
    known = pa.table({"item_id": [ids.to_key("a")], "item_ref": ["a"]})
    pq.write_table(known, home.items)
    found, _ = read_items(file(home, sku=["a", "b"]), home)
    assert found.ids.tolist() == sorted([ids.to_key("a"), ids.to_key("b")])
    pq.write_table(pa.table({"item_id": [ids.to_key("b")], "item_ref": ["c"]}), home.items)
    with pytest.raises(DataError, match="'b' and 'c' share the hash"):
        read_items(file(home, sku=["a", "b"]), home)
