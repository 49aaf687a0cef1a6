"""Limits of several deployments, bodies, and any JSON: for tests of what a caller may send."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st

from interactrank.features.schema import FeatureSchema
from prerank.core.ids import ItemIds
from prerank.serving.api import Limits, PrerankRequest, RequestError, parse_json

SCHEMA = FeatureSchema(("impression", "click", "save"), ("impression",), ("engagement", "save"))
WALL = Limits(ItemIds("integer"), SCHEMA, max_candidates=10)
REPLAY = Limits(ItemIds("integer"), SCHEMA, replay=True)
RETRIEVED = Limits(ItemIds("integer"), replace(SCHEMA, retriever=("score", "rank")))
PRICED = Limits(
    ItemIds("integer"),
    replace(SCHEMA, retriever=("score",), candidate_features=("price", "d.km")),
    max_candidates=10,
)
SEGMENTED = Limits(ItemIds("integer"), replace(SCHEMA, segments=("country", "device")))
STRINGS = Limits(ItemIds("string", 7), SCHEMA)
NOW = 1_700_000_000_000_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
GOOD: dict[str, Any] = {"user_id": "ann", "query": " Red  SHOES ", "candidates": [3, 1, 2]}


def parsed(limits: Limits = WALL, **changes: Any) -> PrerankRequest:
    """GOOD with changes, as it is read."""
    return parse_json(orjson.dumps({**GOOD, **changes}), limits, NOW)


def refused(limits: Limits = WALL, **changes: Any) -> RequestError:
    """How GOOD with changes is refused."""
    with pytest.raises(RequestError) as caught:
        parsed(limits, **changes)
    return caught.value
