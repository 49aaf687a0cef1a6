"""Searches: a request says the same alone and among others, and inputs are made in one way."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from interactrank.features.inputs import FeatureInputs, Histories, KeyRows
from interactrank.features.schema import LEVELS
from interactrank.features.searches import Searches
from interactrank.features.text import engagement_keys, query_code, segment_bucket, tokens

ROOT = Path(__file__).parents[4]
ASKED = [
    ("red shoe", {"country": "de", "device": ""}),
    ("", {"country": "", "device": ""}),
    ("red shoe", {"country": "us", "device": "tv"}),
]
CODE = np.array([2, 0, 1, 0, 2])


def inputs_of(searches: Searches) -> FeatureInputs:
    keys, requests = len(searches.request_keys()), len(searches.code)
    nothing = np.zeros(0, np.int64)
    rows = KeyRows(np.zeros(0, np.uint8), nothing, nothing, np.full(keys, -1))
    histories = Histories(nothing, nothing, nothing, nothing, np.zeros(requests + 1, np.int64))
    return FeatureInputs.of(searches, np.arange(requests), rows, histories)


def test_a_request_among_others_says_what_it_says_alone() -> None:
    queries, contexts = zip(*ASKED, strict=True)
    whole = inputs_of(Searches(queries, contexts, CODE))
    for at, search in enumerate(CODE):
        alone, own = inputs_of(Searches.one(*ASKED[search])), whole.slice(at, at + 1)
        for name in ("key_level", "key_offsets", "query", "tokens", "segments"):
            np.testing.assert_array_equal(getattr(own, name), getattr(alone, name))


@pytest.mark.parametrize(("query", "context"), ASKED)
def test_what_a_text_says(query: str, context: dict[str, str]) -> None:
    one = Searches.one(query, context)
    assert one.request_keys() == engagement_keys(query, context)
    assert [LEVELS[level].prefix for level in one.key_levels()] == [
        key.split(":")[0] for key in one.request_keys()
    ]
    assert one.query_codes().tolist() == [query_code(query)]
    assert one.token_counts().tolist() == [len(tokens(query))]
    assert one.segments().tolist() == [[segment_bucket(v) for v in context.values()]]


def test_no_request_has_no_key() -> None:
    none = Searches([], [], np.zeros(0, np.int64))
    assert inputs_of(none).key_offsets.tolist() == [0]
    assert none.segments().shape == (0, 0)


def test_inputs_are_put_together_in_one_place() -> None:
    sources = [*ROOT.glob("interactrank/**/*.py"), *ROOT.glob("platform/**/*.py")]
    makers = {path.stem for path in sources if "FeatureInputs.of(" in path.read_text()}
    assert makers == {"offline", "reader"}
    assert [p for p in sources if re.search(r"\bFeatureInputs\(", p.read_text())] == []
