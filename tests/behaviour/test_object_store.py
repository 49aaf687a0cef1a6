"""A home in an object store has the tables of a local one, on whichever nodes they are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.object_stores import Nodes, nodes, without_mtime

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset import build as dataset
from prerank.dataset.build import build_training_set
from prerank.features import build as features
from prerank.features.build import build_features
from prerank.ingest import run as ingesting
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest

MAPPING = LogMapping(segments=("country",))
NAMES = ("events", "items", "features", "training_set")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Nodes]:
    with nodes(tmp_path) as made:
        yield made


@pytest.fixture
def logs(tmp_path: Path, tiny_log: pd.DataFrame, tiny_items: pd.DataFrame) -> tuple[Path, Path]:
    """Folder of the log's earlier days and of its last ones, each with the catalogue beside it."""
    days = tiny_log["request_time"].dt.floor("D")
    last = sorted(days.unique())[-2:]
    parts = (tmp_path / "log" / name for name in ("earlier", "later"))
    rows = (tiny_log[~days.isin(last)], tiny_log[days.isin(last)])
    for part, own in zip((earlier := next(parts), later := next(parts)), rows, strict=True):
        part.mkdir(parents=True)
        # Several files, so that there are several tasks.
        for at in range(2):
            own.iloc[at::2].to_parquet(part / f"{at}.parquet")
    tiny_items.to_parquet(tmp_path / "log" / "items.parquet")
    return earlier, later


def in_process(patch: pytest.MonkeyPatch, spread: Callable[..., list[Any]]) -> None:
    """Have stages work with ``spread`` in place of Ray's, however small the log is."""
    for module in (ingesting, features, dataset):
        patch.setattr(module, "ray_map", spread)
    patch.setattr(ingesting, "cluster_cpus", lambda: 4)
    patch.setattr(ingesting, "SMALL_PIECE", 500)
    patch.setattr(ingesting, "SMALL_BUCKET", 500)
    patch.setattr(features, "INLINE_ROWS", 0)


def serially(function: Callable[[Any], Any], tasks: Any, _: str) -> list[Any]:
    return [function(task) for task in tasks]


def tables(home: Home) -> dict[str, dict[str, bytes]]:
    """Every table of the home, without the names that differ from home to home."""
    home.look()
    home.fetch(home.log, home.features, home.training_set)
    folders = (home.events, home.items.parent, home.features, home.training_set)
    found = dict(zip(NAMES, map(without_mtime, folders), strict=True))
    for name, files in found.items():
        for path, data in files.items():
            if path.endswith("manifest.json"):
                said = json.loads(data)
                found[name][path] = json.dumps(
                    {k: v for k, v in said.items() if k not in ("log_id", "tables")}
                ).encode()
    return found


def add(home: Home, log: Path) -> None:
    ingest(log, log.parent / "items.parquet", home, changed_name(log))
    build_features(home)


def changed_name(log: Path) -> LogMapping:
    return MAPPING.model_copy(update={"name": "log"})


def test_tables_are_those_of_a_local_home(
    store: Nodes, logs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log grows, on another node than the one that began; tasks run on two further nodes."""
    earlier, later = logs
    local = Home.at(tmp_path / "local")
    in_process(monkeypatch, serially)
    add(local, earlier)
    add(local, later)
    build_training_set(local)
    in_process(monkeypatch, store.map_over("one", "two"))
    with store.node("a") as home:
        add(home, earlier)
    with store.node("b") as home:
        add(home, later)
        build_training_set(home)
    with store.node("c") as home:
        found, expected = tables(home), tables(local)
        for name in NAMES:
            assert found[name].keys() == expected[name].keys(), name
            assert found[name] == expected[name], name
        assert LogManifest.load(home).fingerprint == LogManifest.load(local).fingerprint
    left = [name for name in store.objects() if name.startswith("tmp/")]
    assert not left, "what tasks handed to each other stays"
    for node in ("one", "two"):
        staged = [p for p in (tmp_path / node).rglob("*") if ".partial" in str(p) and p.is_file()]
        assert not staged, "a node keeps what was only being written"


def test_a_refused_log_leaves_the_one_of_before(
    store: Nodes, logs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prerank.core.errors import DataError

    in_process(monkeypatch, serially)
    with store.node("a") as home:
        add(home, logs[0])
        before = LogManifest.load(home).fingerprint
        bad = pd.read_parquet(logs[1] / "0.parquet").assign(item_id=None)
        bad.to_parquet(tmp_path / "bad.parquet")
        with pytest.raises(DataError):
            ingest(
                tmp_path / "bad.parquet",
                logs[0].parent / "items.parquet",
                home,
                changed_name(logs[0]),
            )
    with store.node("b") as home:
        assert LogManifest.load(home).fingerprint == before
