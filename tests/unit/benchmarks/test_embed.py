"""benchmarks/embed.py: its estimates are the platform's, its encoder learns what it is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from interactrank.features.batch import RequestArrays
from interactrank.features.catalogue import Catalogue
from interactrank.features.item_vectors import ItemVectors, narrowed
from interactrank.features.neighbours import CODES, Neighbours
from interactrank.features.schema import NEIGHBOURS
from prerank.evaluation.baselines.samples import expected_mrr

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of the benchmark, which lie beside each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import embed_encoder
    import embed_measures

    yield SimpleNamespace(**{**vars(embed_measures), **vars(embed_encoder)})
    for name in ("embed_encoder", "embed_measures", "printed"):
        sys.modules.pop(name, None)


def requests(rng: np.random.Generator, count: int, items: int) -> RequestArrays:
    """Requests with eight candidates each, one or two of them engaged, drawn with some Q."""
    none = np.zeros(0, np.int64)
    offsets = np.arange(count + 1) * 8
    labels = np.zeros((count, 8), np.int64)
    labels[:, 0], labels[::3, 1] = 1, 1
    log_q = np.log(rng.uniform(0.1, 1.0, (count, 8)))
    log_q[labels > 0] = 0.0
    return RequestArrays(
        time=np.zeros(count, np.int64),
        text=none.astype(np.int32),
        text_offsets=np.zeros(count + 1, np.int64),
        hist_items=none,
        hist_actions=none,
        hist_times=none,
        hist_offsets=np.zeros(count + 1, np.int64),
        top_items=none,
        top_items_counts=none.astype(np.float32),
        top_items_offsets=np.zeros(count + 1, np.int64),
        request=np.zeros((count, 1), np.float32),
        candidates=np.concatenate([rng.choice(items, 8, replace=False) for _ in range(count)]),
        offsets=offsets,
        x=np.zeros((count * 8, 1), np.float32),
        labels=labels.reshape(-1),
        log_q=log_q.reshape(-1).astype(np.float32),
    )


def test_the_mean_of_requests_is_the_platforms_estimate(bench: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = requests(rng, 60, 40)
    scores = rng.integers(0, 5, len(arrays.candidates)).astype(np.float64)
    found = bench.per_request(scores, arrays, 40)
    assert np.nanmean(found["mrr"]) == pytest.approx(expected_mrr(scores, arrays))


def test_recall_is_counted_among_the_whole_catalogue(bench: Any) -> None:
    rng = np.random.default_rng(1)
    arrays = requests(rng, 20, 300)
    vectors = ItemVectors(np.arange(250), narrowed(rng.standard_normal((250, 4), np.float32)))
    of = {"user": rng.standard_normal((20, 4), np.float32)}
    found = bench.retrieved(vectors, arrays, of)["recall@100"]
    for r in range(20):
        order = np.argsort(-(vectors.of(np.arange(250)) @ of["user"][r]))[:100]
        own = slice(8 * r, 8 * r + 8)
        wanted = arrays.candidates[own][arrays.labels[own] > 0]
        # An item without a vector is not found.
        assert found[r] == pytest.approx(np.isin(wanted, order).mean())


def test_an_encoder_learns_which_queries_lead_to_which_items(bench: Any) -> None:
    titles = [f"red {n}" for n in range(8)] + [f"lamp {n}" for n in range(8)] + ["lamp new"]
    catalogue = Catalogue.build(
        np.arange(17), titles, [""] * 17, np.zeros((17, 0), np.float32), np.zeros(17, np.int64)
    )
    rows = np.full((16, NEIGHBOURS), -1, np.int32)
    rows[:, 0] = [n ^ 1 for n in range(16)]
    codes = np.where(rows >= 0, CODES, 0).astype(np.uint16)
    graph = Neighbours(np.arange(16), rows, codes, np.ones(16, np.float32))
    items = np.tile(np.arange(16), 8)
    # Texts alone do not tell: nobody who wants lamps says so.
    queries = [f"{'shoe' if item < 8 else 'light'} {n % 3}" for n, item in enumerate(items)]
    edges = bench.Edges.of(queries, items, graph, catalogue)
    torch.set_num_threads(1)
    encoder = bench.trained(catalogue, edges, 12, lambda _: 1.0 + torch.rand(()).item(), size=32)
    with torch.no_grad():
        asked = encoder.queries(edges.queries, np.arange(len(edges.queries.offsets) - 1)).numpy()
        made = encoder.items(np.arange(1, 18)).numpy()
    light = [query.startswith("light") for query in np.unique(queries)]
    best = np.argsort(-(asked @ made[:16].T), axis=1)[:, :8]
    assert ((best >= 8) == np.array(light)[:, None]).mean() > 0.9
    # An item that nobody engaged goes by its title.
    new = asked @ made[16]
    assert new[light].min() > new[~np.array(light)].max()
