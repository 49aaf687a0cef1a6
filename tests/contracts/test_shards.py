"""An index in shards answers as one process does, to the last digit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.test_sweep import IDS, PRICED, WEIGHTS, scorer_of
from tests.local_shards import parts_of, shards_of
from tests.plain_requests import NOW, SEEDS, as_inputs, random_request

from interactrank.features.item_vectors import ItemVectors, narrowed
from interactrank.features.near import Near
from interactrank.features.schema import VECTOR_WIDTH
from interactrank.model.scorer import Scorer
from prerank.core.errors import NotReadyError
from prerank.core.ids import ItemIds
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.registry.bundle import Version
from prerank.registry.versions import Wanted
from prerank.serving.answer import Loaded, answer
from prerank.serving.api import Limits, PrerankRequest

LIMITS = Limits(ItemIds("integer"), PRICED)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """Half of its items are alike, so that ids alone tell them apart."""
    found = scorer_of("default", PRICED, torch.bfloat16)
    vectors, created = found.vectors.clone(), found.created.copy()
    vectors[::2], created[::2] = vectors[0], 0
    catalogue = replace(found.catalogue, created=created)
    return Scorer(found.model, catalogue, found.items.ids, vectors)


class Store:
    """Holds the features of one request."""

    def __init__(self, seed: int) -> None:
        self.inputs = as_inputs([random_request(seed)])

    def read(self, *_: Any) -> OnlineRead:
        return OnlineRead(self.inputs, 2, 0, None, ())


@st.composite
def requests(draw: st.DrawFn) -> PrerankRequest:
    """Rankings of every kind; some candidates are unknown, none may be left."""
    rng = np.random.default_rng(draw(SEEDS))
    keys = rng.permutation(np.append(IDS, [77, 78, -5]))[: draw(st.integers(0, 70))]
    whole = draw(st.booleans())
    told = None
    if not whole and draw(st.booleans()):
        told = (rng.random((len(keys), 4)) * [4, 900, 50, 8]).astype(np.float32)
        told[rng.random(told.shape) < 0.3] = np.nan
    return PrerankRequest(
        request_id="r",
        user_id="u",
        query="red shoe",
        keys=keys[:0] if whole else keys,
        originals=None,
        k=draw(st.integers(1, 80)),
        time_us=NOW,
        weights=WEIGHTS,
        explain=draw(st.booleans()),
        whole=whole,
        exclude=rng.choice(IDS, draw(st.integers(0, 9))),
        exclude_engaged=draw(st.booleans()),
        retriever_features=told,
    )


@settings(max_examples=40)
@given(requests(), SEEDS, st.sampled_from([2, 3, 7]))
def test_shards_answer_as_one_process_does(
    scorer: Scorer, request: PrerankRequest, seed: int, shards: int
) -> None:
    features = cast(OnlineFeatures, Store(seed))
    loaded = Loaded(Wanted("champion", Version("1", "run")), scorer, LIMITS, features)
    alone = answer(request, loaded)
    shared = answer(request, replace(loaded, shards=shards_of(parts_of(scorer, shards))))
    assert orjson.dumps(shared.body) == orjson.dumps(alone.body)
    assert (shared.candidates, shared.unknown) == (alone.candidates, alone.unknown)
    assert shared.missing == ()


def test_the_item_touched_last_counts_in_shards_that_do_not_hold_it(scorer: Scorer) -> None:
    """Where the others stand in the list is seen from its rank, wherever it is scored."""
    history = [(int(IDS[3]), 1, NOW - 60_000_000, 0)]
    store = Store(0)
    store.inputs = as_inputs([replace(random_request(0), history=history)])
    told = np.full((len(IDS), 4), 1, np.float32)
    told[:, 1] = np.arange(len(IDS))
    request = PrerankRequest(
        request_id="r",
        user_id="u",
        query="red shoe",
        keys=IDS,
        originals=None,
        k=len(IDS),
        time_us=NOW,
        weights=WEIGHTS,
        explain=True,
        retriever_features=told,
    )
    features = cast(OnlineFeatures, store)
    loaded = Loaded(Wanted("champion", Version("1", "run")), scorer, LIMITS, features)
    alone = answer(request, loaded)
    shared = answer(request, replace(loaded, shards=shards_of(parts_of(scorer, 3))))
    assert orjson.dumps(shared.body) == orjson.dumps(alone.body)
    # All but the anchor stand before or behind it, in whichever shard.
    assert orjson.dumps(shared.body).count(b"anchor:log_") == len(IDS) - 1


def test_shards_compare_with_the_vectors_that_they_map_themselves() -> None:
    whole = scorer_of("default", replace(PRICED, graph=True), torch.float32)
    drawn = np.random.default_rng(1).standard_normal((len(IDS) + 2, VECTOR_WIDTH))
    units = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    known = {7: ItemVectors(IDS[::-1].copy(), narrowed(units[2:]))}
    near = Near.nothing(1)._replace(
        user_vectors=units[:1], query_vectors=units[1:2], near_cutoffs=np.array([7])
    )
    store = Store(0)
    store.inputs = replace(store.inputs, **near._asdict(), snapshots=known)
    request = PrerankRequest(
        request_id="r",
        user_id="u",
        query="red shoe",
        keys=IDS[:0],
        originals=None,
        k=len(IDS),
        time_us=NOW,
        weights=WEIGHTS,
        explain=True,
        whole=True,
    )
    features = cast(OnlineFeatures, store)
    limits = Limits(ItemIds("integer"), whole.schema)
    loaded = Loaded(Wanted("champion", Version("1", "run")), whole, limits, features)
    alone = answer(request, loaded)
    shared = answer(request, replace(loaded, shards=shards_of(parts_of(whole, 3, known))))
    assert orjson.dumps(shared.body) == orjson.dumps(alone.body)
    assert orjson.dumps(shared.body).count(b"cosine:user") == len(IDS)
    # Shards that lack the snapshot are missing; they do not answer without cosines.
    with pytest.raises(NotReadyError, match="no shard of the index answered"):
        answer(request, replace(loaded, shards=shards_of(parts_of(whole, 3))))


def test_the_scores_are_not_all_different(scorer: Scorer) -> None:
    inputs = as_inputs([random_request(3)])
    scores = scorer.score("red shoe", inputs, None, WEIGHTS).scores
    assert len(np.unique(scores)) < len(scores), "no tie: the order of ids is not tested"
