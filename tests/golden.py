"""Golden requests of a small model version, made without a log."""

from __future__ import annotations

import numpy as np
from tests.plain_requests import DAY, NOW, Request, as_inputs

from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS
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
    return golden_of(bundle, [QUERY] * requests, as_inputs(asked), sent, NOW)
