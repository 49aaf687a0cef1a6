"""Feast's ``get_historical_features`` is the specification of which neighbours a request takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.growing_log import DAY, START, Log

from interactrank.features.neighbours import CODES
from prerank.core.errors import StateError
from prerank.core.feature_sets import tables_of_log
from prerank.core.graphs import Graphs, cutoff_of, read_graph, read_vectors
from prerank.core.home import Home
from prerank.features import graph
from prerank.features.graph_table import TABLE, export_graph

LAG, LOOK_BACK_DAYS = 30, 8
SCHEMA = Log.manifest.schema
LEAVES = 77
"""An item that is engaged on the first day alone."""
Row = tuple[list[int], list[float], list[float]]


def store_of(home: Home) -> Any:
    from prerank.online.store import apply

    return apply(home)


@pytest.fixture(scope="module", autouse=True)
def _short_look_back() -> Iterator[None]:
    """Items leave a graph after days instead of years."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "LOOK_BACK_DAYS", LOOK_BACK_DAYS)
        yield


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log that outlives its graph, with first snapshots that were exported before the last."""
    log = Log(tmp_path_factory.mktemp("graph"), 0, 24, lag=LAG)
    log.add(log.drawn(START, START + DAY, 6).assign(item_id=LEAVES, action="click"), 0)
    log.add(log.drawn(START, START + 5 * DAY, 50), 0)
    log.build()
    assert len(export_graph(log.home)) > 2
    end = START + (LOOK_BACK_DAYS + 12) * DAY
    log.add(log.drawn(end - 14 * DAY, end, 60), log.published())
    log.build()
    export_graph(log.home)
    return log


def of_snapshot(graphs: Graphs, item: int, time: int) -> Row:
    """What a request of a time finds of an item in the files of the snapshots."""
    known = graphs.published_by(time)
    if not len(known.files):
        return [], [], []
    found, vectors = read_graph(known.files[-1]), read_vectors(known.files[-1])
    if item not in found.ids:
        return [], [], []
    at = found.ids.tolist().index(item)
    near = found.rows[at][found.rows[at] >= 0]
    weights = found.scale[at] * found.codes[at][: len(near)].astype(np.float32) / np.float32(CODES)
    return found.ids[near].tolist(), weights.tolist(), vectors.of(np.array([item]))[0].tolist()


def of_feast(row: dict[str, Any]) -> Row:
    lists = (row["neighbours"], row["weights"], row["vector"])
    neighbours, weights, vector = ([] if np.ndim(v) == 0 else list(v) for v in lists)
    return neighbours, weights, vector


def test_rows_equal_what_the_snapshots_hold_at_any_time(log: Log) -> None:
    graphs = Graphs.of(tables_of_log(log.home), LAG)
    published = graphs.published_us
    chosen = np.unique(np.linspace(0, len(published) - 1, 6).astype(int))
    times = [published[0] - DAY, *(published[chosen] - 1), *published[chosen], published[-1] + DAY]
    asked = pd.MultiIndex.from_product(
        [[LEAVES, -3, 0, 5, 8, 999], times], names=["item_id", "time"]
    ).to_frame(index=False)
    entities = asked.assign(event_timestamp=pd.to_datetime(asked["time"], unit="us", utc=True))
    names = [f"{SCHEMA.neighbours_view}:{n}" for n in ("neighbours", "weights", "vector")]
    found = store_of(log.home).get_historical_features(entities, names).to_df()
    assert len(found) == len(asked)
    ended = 0
    for row in found.to_dict("records"):
        theirs = of_feast(row)
        ours = of_snapshot(graphs, row["item_id"], row["time"])
        # A row that ends an item's says so with zeros, where no row at all says nothing.
        ended += not ours[2] and len(theirs[2]) > 0
        assert any(theirs[2]) or not any(ours[2])
        assert (theirs[0], theirs[1]) == (ours[0], ours[1]), row
        assert np.array_equal(theirs[2], ours[2] or np.zeros(len(theirs[2]))), row
    assert ended
    assert found["neighbours"].map(np.size).max() > 5


def test_the_view_is_for_training_alone(log: Log) -> None:
    store = store_of(log.home)
    view = store.get_feature_view(SCHEMA.neighbours_view)
    assert not view.online
    service = store.get_feature_service(f"prerank_{SCHEMA.hash()}")
    read = {projection.name for projection in service.feature_view_projections}
    assert read == {SCHEMA.engagement_view, SCHEMA.history_view}


def test_an_export_goes_on_and_a_build_anew_leaves_none(log: Log, tmp_path: Path) -> None:
    graphs = Graphs.of(tables_of_log(log.home), LAG)
    files = sorted((tables_of_log(log.home) / TABLE).iterdir())
    assert [cutoff_of(file) for file in files] == [cutoff_of(file) for file in graphs.files]
    assert export_graph(log.home) == []
    whole = log.anew(tmp_path)
    assert not (tables_of_log(whole) / TABLE).exists()
    assert len(export_graph(whole)) == len(files)
    again = sorted((tables_of_log(whole) / TABLE).iterdir())
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


def test_a_schema_without_a_graph_has_no_view(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, 24)
    log.manifest = replace(log.manifest, graph=False)
    log.add(log.drawn(START, START + DAY, 5), 0)
    log.build()
    names = {view.name for view in store_of(log.home).list_feature_views()}
    assert names == {log.manifest.schema.engagement_view, log.manifest.schema.history_view}
    with pytest.raises(StateError, match="graph: true"):
        export_graph(log.home)
