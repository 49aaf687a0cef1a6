"""Item vectors as files of an MLflow version; test_graph_verbs has one that is registered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.online_log import MANIFEST

from interactrank.features.item_vectors import ItemVectors, narrowed
from interactrank.features.neighbours import Neighbours
from interactrank.features.schema import NEIGHBOURS, VECTOR_WIDTH
from prerank.core.errors import DamagedError
from prerank.core.files import write_json
from prerank.core.graphs import graph_file, write_graph
from prerank.core.home import Home
from prerank.core.times import HOUR_US
from prerank.registry.embedding import (
    EMBEDDING_CUTOFF,
    META,
    VECTORS,
    last_snapshot_us,
    load_embedding,
    save_embedding,
)

SCHEMA = replace(MANIFEST.schema, graph=True)
CUTOFF = 500 * HOUR_US


def vectors(seed: int, n: int = 5) -> ItemVectors:
    drawn = np.random.default_rng(seed).standard_normal((n, VECTOR_WIDTH)).astype(np.float32)
    return ItemVectors(np.arange(n, dtype=np.int64) * 7 - 3, narrowed(drawn))


def test_vectors_are_read_back_without_a_pickle(tmp_path: Path) -> None:
    meta = save_embedding(tmp_path, vectors(1), CUTOFF, SCHEMA)
    found, read = load_embedding(tmp_path)
    assert found.ids.tolist() == vectors(1).ids.tolist()
    assert found.bits.tolist() == vectors(1).bits.tolist()
    assert read == meta
    assert (read[EMBEDDING_CUTOFF], read["schema_hash"]) == (CUTOFF, SCHEMA.hash())
    assert (read["items"], read["dim"]) == (5, VECTOR_WIDTH)
    assert {path.name for path in tmp_path.iterdir()} == {VECTORS, META}


def test_other_vectors_than_the_meta_data_names_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_embedding(tmp_path, vectors(1), CUTOFF, SCHEMA)
    save_embedding(other, vectors(2), CUTOFF, SCHEMA)
    (tmp_path / META).write_bytes((other / META).read_bytes())
    with pytest.raises(DamagedError, match=r"vectors.safetensors is damaged"):
        load_embedding(tmp_path)


def test_a_ranker_names_the_last_snapshot_that_its_requests_took(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    tables = home.features_of(SCHEMA.hash())
    write_json(tables / "manifest.json", {"lag_minutes": 60})
    none = np.zeros(0, np.int64)
    empty = Neighbours(
        none,
        np.zeros((0, NEIGHBOURS), np.int32),
        np.zeros((0, NEIGHBOURS), np.uint16),
        none.astype(np.float32),
    )
    (tables / "graph").mkdir()
    for cutoff in (CUTOFF, CUTOFF + 24 * HOUR_US):
        write_graph(graph_file(tables, cutoff), empty, np.zeros((0, VECTOR_WIDTH), np.uint16))
    published = CUTOFF + HOUR_US
    assert last_snapshot_us(home, SCHEMA, published) == 0
    assert last_snapshot_us(home, SCHEMA, published + 1) == CUTOFF
    assert last_snapshot_us(home, SCHEMA, published + 24 * HOUR_US + 1) == CUTOFF + 24 * HOUR_US
    assert last_snapshot_us(home, replace(SCHEMA, graph=False), published + 1) == 0
