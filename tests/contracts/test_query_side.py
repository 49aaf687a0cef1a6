"""What is recorded of the request's side of a model is the model, number for number."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.test_sweep import WEIGHTS, scorer_of
from tests.plain_requests import SCHEMA, SEEDS, as_inputs, random_request

from interactrank.model.query_side import QuerySide
from interactrank.model.scorer import Scorer

QUERIES = st.sampled_from(["", "red shoe", "a longer query " * 9])


@pytest.fixture(scope="module", params=["default", "ungated", "linear-g", "no-cross"])
def scorers(request: pytest.FixtureRequest) -> tuple[Scorer, Scorer]:
    plain, other = (scorer_of(request.param, SCHEMA, torch.float32) for _ in range(2))
    return plain, other.record()


def numbers(side: QuerySide) -> list[np.ndarray]:
    gate = [getattr(side.coefficients, field.name) for field in fields(side.coefficients)]
    return [np.asarray(v) for v in (side.query, side.request, side.scale, side.constant, *gate)]


@settings(max_examples=40)
@given(SEEDS, QUERIES)
def test_recorded_is_plain(scorers: tuple[Scorer, Scorer], seed: int, query: str) -> None:
    inputs = as_inputs([random_request(seed)])
    plain, recorded = (numbers(s.query_side(query, inputs, WEIGHTS)) for s in scorers)
    for one, other in zip(plain, recorded, strict=True):
        np.testing.assert_array_equal(one, other)
