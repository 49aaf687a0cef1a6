"""Makes a version's golden requests (``prerank.registry.golden``) from the validation split."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs
from prerank.core.errors import StateError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.candidates import Candidates, sampled_candidates, shown_candidates
from prerank.dataset.requests import event_days, requests_between
from prerank.evaluation.training_side import training_side
from prerank.features.offline import offline_inputs
from prerank.registry.bundle import Bundle
from prerank.registry.golden import Golden, tolerance_of
from prerank.serving.fields import weights_of

REQUESTS = 32
CANDIDATES, SHOWN = 200, 100
"""Of a request, and how many of them at most are the log's; the others are drawn."""


def golden_requests(home: Home, bundle: Bundle, seed: int = 0) -> Golden:
    """Score requests of the validation split as training does.

    Args:
        home: with the training set, the features and the catalogue of the version.
        bundle: the version.
        seed: of what is drawn.

    Raises:
        StateError: there is no training set, or its validation split is empty.
        DamagedError: a feature table is.
    """
    home, rng = home.pin(), np.random.default_rng(seed)
    manifest = LogManifest.load(home)
    requests = _sample(home, manifest, rng)
    inputs, queries = offline_inputs(home, requests), requests["query"].to_pylist()
    table = bundle.catalogue.table()
    if manifest.has_impressions:
        found = shown_candidates(requests)
    else:
        found = sampled_candidates(bundle.schema, requests, inputs, table)
    sent = _with_others(found, table, len(bundle.schema.given), rng)
    # The index is built as of the log's end.
    return golden_of(bundle, queries, inputs, sent, manifest.last_us)


Sent = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Distinct candidates of a request, all of the catalogue, and what the caller gave [n, R]."""


def golden_of(
    bundle: Bundle,
    queries: list[str],
    inputs: FeatureInputs,
    sent: list[Sent],
    as_of_us: int,
) -> Golden:
    """Score requests as training does, and note what scores them.

    Args:
        bundle: the version.
        queries: normalised, of B requests.
        inputs: of the B requests.
        sent: candidates of each request.
        as_of_us: when the index looks at its items, microseconds since 1970.
    """
    expected = training_side(bundle, queries, inputs, sent, as_of_us)
    lengths = [len(ids) for ids, _ in sent]
    return Golden(
        queries=tuple(queries),
        inputs=inputs,
        candidates=np.concatenate([ids for ids, _ in sent]),
        offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64))),
        retriever_features=np.concatenate([told for _, told in sent]),
        weights=weights_of(None, bundle.schema),
        scores=np.concatenate([of["score"] for of in expected]),
        tolerance=np.array([tolerance_of(of["scale"], of["slope"]) for of in expected], np.float32),
    )


def _sample(home: Home, manifest: LogManifest, rng: np.random.Generator) -> pa.Table:
    """Requests of the validation split's latest days."""
    made = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    low, high = (made["splits"][name] for name in ("validation_from", "test_from"))
    tables: list[pa.Table] = []
    for files in reversed(event_days(home, low, high)):
        tables.append(requests_between(files, manifest, low, high))
        if sum(t.num_rows for t in tables) >= REQUESTS:
            break
    if not sum(t.num_rows for t in tables):
        raise StateError("the validation split holds no request. Run `prerank training-set`.")
    requests = pa.concat_tables(tables)
    chosen = rng.permutation(requests.num_rows)[:REQUESTS]
    return requests.take(pa.array(np.sort(chosen)))


def _with_others(
    found: Candidates, catalogue: IdTable, told: int, rng: np.random.Generator
) -> list[Sent]:
    """Candidates of each request, and items at random: most of these stand in no row of it."""
    known, said = catalogue.rows(found.ids) >= 0, found.retriever_features
    sent = []
    for low, high in pairwise(found.offsets):
        own = low + np.flatnonzero(known[low:high])[:SHOWN]
        ids = found.ids[own]
        drawn = catalogue.ids[rng.integers(0, len(catalogue), CANDIDATES)]
        others = rng.permutation(np.setdiff1d(drawn, ids))[: CANDIDATES - len(ids)]
        features = np.full((len(ids) + len(others), told), np.nan, np.float32)
        if said is not None:
            features[: len(ids)] = said[own]
        sent.append((np.concatenate((ids, others)), features))
    return sent
