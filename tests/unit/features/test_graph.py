"""Snapshots of the item graph: what they hold, when they are made, and which a request takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from tests.growing_log import DAY, START, Log
from tests.plain_requests import Request, as_inputs

from interactrank.features.alike import user_vectors
from interactrank.features.inputs import check_inputs
from interactrank.features.item_vectors import widened
from interactrank.features.near import NO_SNAPSHOT
from interactrank.features.neighbours import CODES, Neighbours
from interactrank.features.schema import NEIGHBOURS, VECTOR_WIDTH
from interactrank.features.text import tokens
from prerank.core.errors import DamagedError
from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.graphs import GRAPH, Graphs, graph_file, read_graph, read_vectors, write_graph
from prerank.core.home import Home
from prerank.core.trust import Flags
from prerank.features import graph
from prerank.features.graph import LONGEST_STEP, due

SCHEMA = Log.manifest.schema
Snapshots = dict[int, bytes]


def snapshots(home: Home) -> Snapshots:
    """Bytes of each snapshot, by cutoff in microseconds."""
    files = sorted((tables_of_log(home) / GRAPH).glob("*.arrow"))
    return {int(file.stem): file.read_bytes() for file in files}


def grown(root: Path, seed: int, flags: int = 0) -> tuple[Log, list[Snapshots]]:
    """A log that grew in steps, with late events; and the snapshots after each step."""
    log = Log(root, seed, 6)
    rng, found = np.random.default_rng(seed), []
    for step in range(5):
        published = log.published() or START
        if flags:
            log.flag(flags, published - 5 * DAY, published + 5 * DAY)
        log.grow(int(rng.choice([1, 2, 9])) if step else 5, busy=6.0, late=2.0)
        found.append(snapshots(log.home))
    return log, found


@pytest.mark.parametrize(("seed", "flags"), [(0, 0), (1, 3)])
def test_days_one_by_one_make_the_snapshots_of_one_build(
    tmp_path: Path, seed: int, flags: int
) -> None:
    log, steps = grown(tmp_path / "log", seed, flags)
    assert len(steps[-1]) > len(steps[0]) > 2
    whole = log.anew(tmp_path / "whole")
    assert snapshots(whole) == steps[-1]
    told, told_of_whole = (manifest_of_log(home)["graph"] for home in (log.home, whole))
    assert told == told_of_whole
    assert [one["cutoff_us"] for one in told["snapshots"]] == sorted(steps[-1])


def test_what_was_published_stays(tmp_path: Path) -> None:
    """Whatever becomes known later: the past of a snapshot is what was known before its cutoff."""
    _, steps = grown(tmp_path / "log", 2, flags=3)
    for before, after in pairwise(steps):
        assert {cutoff: after[cutoff] for cutoff in before} == before


def test_a_snapshot_is_a_recount_of_what_was_known(tmp_path: Path) -> None:
    log, steps = grown(tmp_path / "log", 3, flags=4)
    events = pd.concat(log.batches)
    for cutoff in steps[-1]:
        found = read_graph(graph_file(tables_of_log(log.home), cutoff))
        known = events[(events["known_time"] < cutoff) & events["action"].isin(SCHEMA.engagements)]
        weights = Flags.load(log.home).as_of(cutoff)
        relations = recounted_edges(known, weights)
        expected = walked(relations)
        ids = found.ids.tolist()
        assert ids == sorted(set(known["item_id"]))
        for at, item in enumerate(ids):
            rows, codes = found.rows[at], found.codes[at]
            near = {
                ids[r]: found.scale[at] * c / CODES
                for r, c in zip(rows, codes, strict=True)
                if r >= 0
            }
            assert near == pytest.approx(expected.get(item, {}), rel=1e-3, abs=1e-5)
        vectors = read_vectors(graph_file(tables_of_log(log.home), cutoff))
        assert vectors.ids.tolist() == ids
        units = widened(vectors.bits)
        assert units @ units.T == pytest.approx(alike(relations, ids), abs=0.02)


Edges = dict[str, dict[int, float]]


def recounted_edges(events: pd.DataFrame, weights: dict[str, float]) -> list[Edges]:
    """Weights of users', queries' and words' edges by plain loops."""
    relations: list[Edges] = [{}, {}, {}]
    for row in events.to_dict("records"):
        words = dict.fromkeys(tokens(row["query"]))
        weight = round(1e3 * weights.get(row["user_id"], 1.0)) / 1e3
        for edges, keys in zip(relations, ([row["user_id"]], [row["query"]], words), strict=True):
            for key in keys:
                of_key = edges.setdefault(key, {})
                of_key[row["item_id"]] = of_key.get(row["item_id"], 0.0) + weight
    return [
        {k: {i: min(w, 3.0) for i, w in own.items() if w} for k, own in edges.items()}
        for edges in relations
    ]


def alike(relations: list[Edges], ids: list[int]) -> NDArray[np.float64]:
    """Cosines of all pairs of items, from whole matrices. The log has fewer items than columns."""
    assert len(ids) <= VECTOR_WIDTH
    parts = []
    for edges in relations:
        a = np.array([[own.get(i, 0.0) for i in ids] for own in edges.values()])
        smooth = a.sum(0) ** 0.75
        with np.errstate(divide="ignore", invalid="ignore"):
            information = np.log(a * smooth.sum() / (a.sum(1, keepdims=True) * smooth))
        parts.append(np.where(a > 0, np.maximum(information, 0.0), 0.0))
    _, s, v = np.linalg.svd(np.concatenate(parts))
    vectors = v[: len(s)].T * np.where(s > 1e-3, s, 0.0) ** 0.5
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.where(length > 1e-3, vectors / np.maximum(length, 1e-9), 0.0)
    found: NDArray[np.float64] = units @ units.T
    return found


def walked(relations: list[Edges]) -> dict[int, dict[int, float]]:
    """The walk by plain loops. The log has fewer items than neighbours are kept."""
    found: dict[int, dict[int, float]] = {}
    for capped in relations:
        of_item: dict[int, float] = {}
        for own in capped.values():
            for i, weight in own.items():
                of_item[i] = of_item.get(i, 0.0) + weight
        for own in capped.values():
            for i, j in product(own, own):
                if i != j:
                    near = found.setdefault(i, {})
                    step = own[i] / of_item[i] * own[j] / sum(own.values())
                    near[j] = near.get(j, 0.0) + step
    return found


def test_a_key_and_an_item_keep_their_heaviest_and_latest_edges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "ITEMS_OF_KEY", 2)
    log = Log(tmp_path, 0, 24)
    times = START + np.arange(1, 6)
    events = log.drawn(START, START + DAY, 5).assign(
        user_id="u1", query="", action="click", item_id=[1, 1, 2, 3, 4], event_time=times
    )
    log.add(events, 0)
    log.build()
    found = read_graph(graph_file(tables_of_log(log.home), START + DAY))
    row = found.rows[found.ids.tolist().index(2)]
    # Item 1 was engaged twice, and item 4 last; the empty query led to all, too.
    assert found.ids[row[row >= 0]].tolist() == [1, 4]


def test_snapshots_are_seldom_once_a_log_is_old() -> None:
    days = [cutoff // DAY for cutoff in due(0, 0, 2_000 * DAY)]
    assert days[:7] == [1, 2, 3, 4, 5, 6, 7]
    assert np.diff(days).max() == LONGEST_STEP
    assert len(days) < 90
    for until in (0, 1, 30, 31, 32, 1_000):
        known = due(0, 0, until * DAY)
        assert known + due(0, until * DAY, 2_000 * DAY) == [day * DAY for day in days]


def test_a_request_takes_the_latest_snapshot_that_was_published_by_then(tmp_path: Path) -> None:
    log = Log(tmp_path, 4, 24, lag=30)
    log.grow(6, busy=20.0, late=0.0)
    tables, lag_us = tables_of_log(log.home), 30 * 60_000_000
    graphs = Graphs.of(tables, 30)
    cutoffs = sorted(snapshots(log.home))
    times = [
        cutoffs[0] + lag_us - 1,
        cutoffs[0] + lag_us,
        cutoffs[1] + lag_us - 1,
        cutoffs[-1] + DAY,
    ]
    history = [(item, 1, START + at, 5) for at, item in enumerate(range(-3, 9))]
    requests = [Request(history=history, time=int(time)) for time in times]
    inputs = as_inputs(requests)
    found = graphs.with_near(SCHEMA, inputs)
    check_inputs(SCHEMA, found)
    bounds = found.near_offsets
    for b, at in enumerate([None, cutoffs[0], cutoffs[0], cutoffs[-1]]):
        items = found.near_items[bounds[b] : bounds[b + 1]]
        if at is None:
            assert not len(items)
            continue
        near = read_graph(graph_file(tables, at)).near(SCHEMA, inputs.slice(b, b + 1))
        assert len(items)
        assert items.tolist() == near.near_items.tolist()
        own = found.near_user[bounds[b] : bounds[b + 1]]
        assert own.tolist() == near.near_user.tolist()
        vectors = read_vectors(graph_file(tables, at))
        assert found.near_cutoffs[b] == at
        assert found.snapshots[at].bits.tolist() == vectors.bits.tolist()
        (user,) = user_vectors(vectors, inputs.slice(b, b + 1))
        assert user.any()
        assert found.user_vectors[b].tolist() == user.tolist()
    assert found.near_cutoffs[0] == NO_SNAPSHOT
    assert not found.user_vectors[0].any()
    assert {*found.snapshots} == {cutoffs[0], cutoffs[-1]}
    # A reader that is behind takes what it has.
    behind = graphs.published_by(cutoffs[0] + lag_us).with_near(SCHEMA, inputs.slice(3, 4))
    assert behind.near_items.tolist() == found.near_items[bounds[1] : bounds[2]].tolist()


def test_a_schema_without_a_graph_asks_for_nothing(tmp_path: Path) -> None:
    inputs = as_inputs([Request()])
    assert Graphs.of(tmp_path, 0).with_near(replace(SCHEMA, graph=False), inputs) is inputs


def no_graph(path: Path) -> None:
    path.write_bytes(b"no graph")


def a_neighbour_that_is_not_there(path: Path) -> None:
    rows = np.full((2, NEIGHBOURS), 2, np.int32)
    codes = np.ones((2, NEIGHBOURS), np.uint16)
    graph = Neighbours(np.array([1, 2]), rows, codes, np.ones(2, np.float32))
    write_graph(path, graph, np.zeros((2, VECTOR_WIDTH), np.uint16))


@pytest.mark.parametrize("damage", [no_graph, a_neighbour_that_is_not_there])
def test_a_damaged_snapshot_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = graph_file(tmp_path, 5)
    path.parent.mkdir()
    damage(path)
    with pytest.raises(DamagedError, match=r"graph/0+5.arrow is damaged: .*prerank features"):
        read_graph(path)
