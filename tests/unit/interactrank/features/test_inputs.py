"""Feature inputs: slices, damaged rows, and the statistics of a request alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plain_requests import (
    BY_PREFIX,
    HOUR,
    NOW,
    SCHEMA,
    SEEDS,
    Request,
    as_inputs,
    features,
    offsets,
    random_block,
    random_request,
)

from interactrank.features.engagement import cross_features
from interactrank.features.inputs import HistoryError, check_inputs
from interactrank.features.packed_rows import RowError, pack
from interactrank.features.request_statistics import request_features
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema


@given(st.lists(SEEDS, min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=50)
def test_a_slice_is_the_inputs_of_its_requests(seeds: list[int], data: st.DataObject) -> None:
    requests = [random_request(s) for s in seeds]
    low = data.draw(st.integers(0, len(requests)))
    high = data.draw(st.integers(low, len(requests)))
    whole, alone = as_inputs(requests), as_inputs(requests[low:high])
    part = whole.slice(low, high)
    assert part.blocks is whole.blocks
    for name in (
        "time",
        "key_level",
        "key_offsets",
        "hist_items",
        "hist_actions",
        "hist_times",
        "hist_queries",
        "hist_offsets",
        "query",
        "tokens",
    ):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    chosen = requests[low:high]
    ids = np.array([c for r in chosen for c in r.candidates], np.int64)
    born = np.array([r.created.get(c, 0) for r in chosen for c in r.candidates], np.int64)
    x = cross_features(SCHEMA, part, ids, offsets([len(r.candidates) for r in chosen]), born)
    assert (x == features(chosen)).all()


def widen(block: bytes) -> bytes:
    return block + bytes(8)


def other_columns(_: bytes) -> bytes:
    level = BY_PREFIX["q"]
    schema = FeatureSchema(("view", "click", "other"), ("view",), ("engagement",))
    columns = schema.columns(level)
    return pack(np.array([1]), np.ones((1, len(columns))), columns, level)


@pytest.mark.parametrize(
    "damage",
    [
        widen,
        other_columns,
        lambda b: b[:-8],
        lambda b: b[:8],
        lambda b: bytes([b[0] + 1]) + b[1:],
        lambda b: b[:8] + bytes([b[8] ^ 1]) + b[9:],
        lambda b: b[:4] + bytes([b[4] + 1]) + b[5:],
        lambda b: b[:7] + b"\xff" + b[8:],
    ],
)
def test_a_damaged_row_is_refused(damage: Callable[[bytes], bytes]) -> None:
    level = BY_PREFIX["q"]
    columns = SCHEMA.columns(level)
    good = pack(np.arange(3), np.ones((3, len(columns))), columns, level)
    assert features([Request({"q:x": good}, candidates=[1])]).any()
    with pytest.raises(RowError, match="level 'q'"):
        features([Request({"q:y": good[:-1] + b"\0", "q:x": damage(good)}, candidates=[1])])


def test_a_row_of_another_level_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(RowError, match="level 'q'"):
        features([Request({"q:x": random_block(rng, BY_PREFIX["t"])}, candidates=[1])])


def test_request_statistics() -> None:
    level = BY_PREFIX["q"]
    columns = SCHEMA.columns(level)
    counts = np.zeros((3, len(columns)))
    counts[:, columns.index("engage:all")] = 4.0, 5.0, 0.0
    counts[:, columns.index("engage:30d")] = 2.0, 1.0, 0.0
    counts[:, columns.index("engage:7d")] = 1.0, 0.0, 0.0
    counts[:, columns.index("view:all")] = 50.0, 0.0, 3.0
    block = pack(np.array([1, 2, 3]), counts, columns, level)
    history = [(1, 1, NOW - HOUR * (300 - i), 5) for i in range(120)]
    found = request_features(
        SCHEMA,
        as_inputs(
            [
                Request({"q:x": block}, history, tokens=3),
                Request({"q:x": None}, [], tokens=0),
                Request(),
            ]
        ),
    )
    first = dict(zip(REQUEST_NUMERIC, found[0].tolist(), strict=True))
    assert first == pytest.approx(
        {
            "query:log_total": math.log1p(9),
            "query:log_distinct": math.log1p(3),
            "query:recent_share": 3 / 9,
            "query:sparsity": 3 / 12,
            "query:log_tokens": math.log1p(3),
            "user:log_history": math.log1p(100),
            "user:log_minutes_since_last": math.log1p(181 * 60),
            "user:repeat_share": 0.99,
        },
        rel=1e-5,
    )
    np.testing.assert_allclose(found[1], [0, 0, 0, 1, 0, 0, np.nan, np.nan])
    np.testing.assert_allclose(found[2, [0, 3, 5, 6, 7]], [0, 1, 0, np.nan, np.nan])


@given(st.lists(st.lists(st.integers(0, 5), max_size=130), min_size=1, max_size=6))
def test_repeat_share_counts_the_returns_among_the_last_hundred(histories: list[list[int]]) -> None:
    requests = [
        Request(history=[(item, 1, NOW - HOUR, 0) for item in items]) for items in histories
    ]
    found = request_features(SCHEMA, as_inputs(requests))[
        :, REQUEST_NUMERIC.index("user:repeat_share")
    ]
    last = [items[-100:] for items in histories]
    expected = [1 - len(set(i)) / len(i) if i else np.nan for i in last]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_inputs_are_gone_over_once_for_a_schema_and_others_again() -> None:
    inputs = as_inputs([Request(history=[(7, 1, NOW - HOUR, 5)])])
    check_inputs(SCHEMA, inputs)
    # Nobody writes into inputs: it shows here whether they are looked at.
    inputs.hist_times[0] = NOW + 1
    check_inputs(SCHEMA, inputs)
    for schema, other in (
        (SCHEMA, replace(inputs)),
        (SCHEMA, inputs.slice(0, 1)),
        (replace(SCHEMA, retriever=("score",)), inputs),
    ):
        with pytest.raises(HistoryError, match="between 0 and the request's"):
            check_inputs(schema, other)


def test_inputs_that_are_refused_are_refused_again() -> None:
    inputs = as_inputs([Request(history=[(7, 1, NOW + 1, 5)])])
    for _ in range(2):
        with pytest.raises(HistoryError):
            check_inputs(SCHEMA, inputs)
