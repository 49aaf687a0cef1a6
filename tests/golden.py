"""Golden requests of a small model version, made without a log."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.plain_requests import DAY, NOW, Request, as_inputs

from interactrank.features.item_vectors import ItemVectors, narrowed
from interactrank.features.near import Near
from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS, VECTOR_WIDTH
from prerank.evaluation.golden import Sent, golden_of
from prerank.registry.bundle import Bundle
from prerank.registry.golden import Golden

REQUESTS = 6
QUERY = "red shoe"


def golden_for(bundle: Bundle, requests: int = REQUESTS) -> Golden:
    """Requests with a packed row and a history each, over the whole catalogue."""
    schema, ids = bundle.schema, bundle.catalogue.ids
    (level, *_), rng = LEVELS, np.random.default_rng(0)
    columns = schema.columns(level)
    asked, sent = list[Request](), list[Sent]()
    for _ in range(requests):
        counted = np.sort(rng.choice(ids, 3, replace=False))
        counts = rng.integers(1, 9, (len(counted), len(columns))).astype(float)
        past = (int(rng.choice(ids)), min(schema.history_codes.values()), NOW - DAY, 5)
        asked.append(Request({f"q:{QUERY}": pack(counted, counts, columns, level)}, [past]))
        told = np.full((len(ids), len(schema.given)), np.nan, np.float32)
        sent.append((rng.permutation(ids), told))
    inputs = as_inputs(asked)
    if schema.graph:
        units = rng.standard_normal((2 * requests + len(ids), VECTOR_WIDTH)).astype(np.float32)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        near = Near.nothing(requests)._replace(
            user_vectors=units[:requests],
            query_vectors=units[requests : 2 * requests],
            near_cutoffs=np.full(requests, DAY),
        )
        # One is known that is no candidate: it is not kept.
        known = ItemVectors(np.append(ids[1:], -9), narrowed(units[2 * requests :]))
        inputs = replace(inputs, **near._asdict(), snapshots={DAY: known})
    return golden_of(bundle, [QUERY] * requests, inputs, sent, NOW)
