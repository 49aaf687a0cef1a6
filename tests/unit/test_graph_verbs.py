"""`prerank graph` and `prerank embed`, on a log of two groups of users with tastes of their own."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.growing_log import DAY, START, Log

from prerank import cli
from prerank.core.feature_sets import tables_of_log
from prerank.core.graphs import GRAPH, Graphs, cutoff_of, read_vectors
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.features.graph_table import TABLE
from prerank.registry.embedding import EMBEDDING, EMBEDDING_CUTOFF, register_embedding

SHOES, LAMPS = [1, 2, 3], [11, 12, 13]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = Log(tmp_path_factory.mktemp("graph"), 0, 24)
    tastes = [(f"u{n}", "red shoe", SHOES) for n in range(4)]
    tastes += [(f"v{n}", "lamp", LAMPS) for n in range(4)]
    rows = [
        {"user_id": user, "query": query, "item_id": item}
        for user, query, items in tastes
        for item in items
    ]
    drawn = log.drawn(START, START + DAY, len(rows))
    log.add(drawn.assign(action="click", **pd.DataFrame(rows)), 0)
    # Another day makes the first one's end a cutoff.
    log.add(log.drawn(START + DAY, START + 2 * DAY, 1).assign(item_id=1, action="click"), 0)
    log.build()
    ids = [*SHOES, *LAMPS[:2]]
    items = {"item_id": ids, "item_ref": [f"i{i}" for i in ids], "title": [f"No {i}" for i in ids]}
    log.home.items.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(items), log.home.items)
    return log.home.root


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs export PRERANK_HOME; take it back afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def said(work: Path, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    verb, *others = argv
    cli.main([verb, *others, "--workdir", str(work)])
    return capsys.readouterr().out


def refused(
    work: Path, capsys: pytest.CaptureFixture[str], code: int, says: str, *argv: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        said(work, capsys, *argv)
    assert stopped.value.code == code
    assert says in capsys.readouterr().err


def listed(text: str) -> list[str]:
    """What stands beside a number: an item's id and title, or that it left."""
    return re.findall(r"^  \d\.\d{3} +(.*)$", text, re.MULTILINE)


def test_graph_lists_its_snapshots(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(work, capsys, "graph").splitlines()
    # Six items; eight users, two queries and their words led to three each: 24 + 6 + 9 edges.
    assert re.match(r"  2022-01-09 00:00:00 UTC +6 +39 +0\.0 MB$", lines[1]), lines[1]
    assert f"{tables_of_log(Home.at(work)) / GRAPH}" in "".join(lines)


def test_snapshots_are_exported_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(work, capsys, 2, "leave out --item", "graph", "--export", "--item", "i1")
    table = tables_of_log(Home.at(work)) / TABLE
    assert f"{table}: 2 snapshots, 0.0 MB" in said(work, capsys, "graph", "--export")
    assert pq.read_table(table).num_rows == 2 * len(SHOES + LAMPS)
    assert f"{table}: 0 snapshots" in said(work, capsys, "graph", "--export")


def test_neighbours_of_an_item(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(work, capsys, "graph", "--item", "i2")
    assert sorted(listed(out)) == ["i1  No 1", "i3  No 3"]
    assert "  1.000  " in out
    assert listed(said(work, capsys, "graph", "--item", "i11"))[1] in (
        "i12  No 12",
        "an item that left the catalogue",
    )


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [("--item", "i1", SHOES), ("--query", "Red  SHOE", SHOES), ("--user", "v1", LAMPS)],
)
def test_what_is_alike(
    work: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, near: list[int]
) -> None:
    known = {f"i{i}  No {i}" for i in near if i != LAMPS[2]}
    left = {"an item that left the catalogue"} if near == LAMPS else set()
    assert set(listed(said(work, capsys, "embed", option, value))) == known | left


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")
def test_vectors_are_registered_once_and_load_back_equal(
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    import mlflow

    # It would outlive the test.
    request.addfinalizer(lambda: mlflow.set_tracking_uri(""))
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path / 'mlflow.db'}"
    home = Home.at(work)
    assert f"{EMBEDDING} version 1, 6 items\n" in said(work, capsys, "embed", "--register")
    assert "version 1, 6 items: it was there" in said(work, capsys, "embed", "--register")
    graphs = Graphs.of(tables_of_log(home), 0)
    vectors, schema = read_vectors(graphs.files[-1]), LogManifest.load(home).schema
    earlier = register_embedding(home, vectors, cutoff_of(graphs.files[0]), schema)
    assert (earlier[0].number, earlier[1]) == ("2", True)
    loaded = mlflow.pyfunc.load_model(f"models:/{EMBEDDING}/1")
    asked = np.array([*SHOES, 99, *LAMPS])
    assert loaded.predict(asked).tolist() == vectors.of(asked).tolist()
    tags = mlflow.MlflowClient().get_model_version(EMBEDDING, "1").tags
    assert tags[EMBEDDING_CUTOFF] == str(cutoff_of(graphs.files[-1]))
    assert (tags["schema_hash"], tags["items"], tags["dim"]) == (schema.hash(), "6", "64")


def test_nothing_is_like_what_is_unknown(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "like user w9: nothing, as of" in said(work, capsys, "embed", "--user", "w9")


def test_what_cannot_be_looked_up_is_said(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(work, capsys, 2, "--item i9: the catalogue has no such item", "graph", "--item", "i9")
    refused(work, capsys, 2, "--item, --query and --user", "embed")
    refused(work, capsys, 2, "--item, --query", "embed", "--item", "i1", "--query", "lamp")
    refused(work, capsys, 2, "leave out --item", "embed", "--register", "--user", "v1")
    refused(tmp_path, capsys, 4, "prerank ingest", "graph")


def test_a_log_without_a_graph_says_how_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(tmp_path, 0, 24)
    log.manifest = replace(log.manifest, graph=False)
    log.add(log.drawn(START, START + DAY, 5), 0)
    log.build()
    refused(log.home.root, capsys, 4, "add `graph: true` to its mapping", "embed", "--query", "x")
