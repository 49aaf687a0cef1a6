"""The last columns of x: where a candidate stands from what the user touched last."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.plain_requests import HOUR, NOW, SCHEMA, Request, as_inputs

from interactrank.features.engagement import cross_features
from interactrank.features.given import MAX_GIVEN_VALUE, anchor_ranks
from interactrank.features.schema import ANCHOR_CROSS

RANKED = replace(SCHEMA, retriever=("score", "rank"), candidate_features=("price",))
MINUTE = HOUR // 60
TOUCHED = [(3, 1, NOW - 40 * MINUTE, 0), (9, 1, NOW - 2 * MINUTE, 0), (2, 1, NOW - MINUTE, 0)]
IDS = np.array([1, 2, 3, 4, 5])
RANKS = [4, 5, 6, 20, float("nan")]


def given(ranks: list[float]) -> NDArray[np.float32]:
    return np.array([[0.5, rank, 10] for rank in ranks], np.float32)


def columns(
    request: Request,
    ids: NDArray[np.int64] = IDS,
    told: NDArray[np.float32] | None = None,
    anchors: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """ANCHOR_CROSS of candidates."""
    bounds, none = np.array([0, len(ids)]), np.zeros(len(ids), np.int64)
    told = given(RANKS) if told is None else told
    x = cross_features(RANKED, as_inputs([request]), ids, bounds, none, told, anchors)
    return x[:, [RANKED.cross.index(name) for name in ANCHOR_CROSS]]


def test_candidates_stand_before_and_after_the_item_touched_last() -> None:
    expected = [
        [0, 1, 0, np.log(2)],
        [0, 0, 0, 0],
        [1, 0, np.log(2), 0],
        [0, 0, np.log(16), 0],
        [0, 0, 0, 0],  # it has no rank
    ]
    np.testing.assert_allclose(columns(Request(history=TOUCHED)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "history",
    [
        [],
        TOUCHED[:2],  # the last one is no candidate, though an earlier one is
        [(5, 1, NOW - MINUTE, 0)],  # of which the caller says no rank
        [(2, 1, NOW - RANKED.session_gap_us - 1, 0)],  # in an earlier session
    ],
    ids=["no history", "not in the list", "no rank", "long ago"],
)
def test_without_an_anchor_all_stand_alike(history: list[tuple[int, int, int, int]]) -> None:
    assert not columns(Request(history=history)).any()


def test_the_session_lasts_until_its_gap() -> None:
    last = (2, 1, NOW - RANKED.session_gap_us, 0)
    assert (columns(Request(history=[last])) == columns(Request(history=TOUCHED))).all()


def test_the_logs_mapping_says_how_long_that_is() -> None:
    inputs, bounds = as_inputs([Request(history=TOUCHED[:1])]), np.array([0, 1])  # 40 minutes ago
    for gap, expected in ((39, [float("nan")]), (40, [7])):
        schema = replace(RANKED, session_gap_minutes=gap)
        found = anchor_ranks(schema, inputs, np.array([3]), bounds, given([7]))
        np.testing.assert_equal(found.tolist(), expected)


def test_a_candidate_stands_for_itself_once_the_anchor_is_known() -> None:
    """Permuted, alone or among others: the anchor's rank is handed on, not looked for anew."""
    request, order = Request(history=TOUCHED), np.array([3, 0, 4, 2, 1])
    whole = columns(request)
    assert (columns(request, IDS[order], given(RANKS)[order]) == whole[order]).all()
    bounds = np.array([0, len(IDS)])
    anchors = anchor_ranks(RANKED, as_inputs([request]), IDS, bounds, given(RANKS))
    assert anchors.tolist() == [5]
    for at in range(len(IDS)):
        own = slice(at, at + 1)
        assert (columns(request, IDS[own], given(RANKS)[own], anchors) == whole[own]).all()


def test_each_request_of_a_batch_has_its_own_anchor() -> None:
    requests = [Request(history=TOUCHED), Request(), Request(history=[(1, 1, NOW - MINUTE, 0)])]
    bounds = np.arange(0, 16, 5)
    found = anchor_ranks(
        RANKED, as_inputs(requests), np.tile(IDS, 3), bounds, np.tile(given(RANKS), (3, 1))
    )
    np.testing.assert_array_equal(found, np.array([5, np.nan, 4], np.float32))


def test_ranks_beyond_measure_stay_finite() -> None:
    for ranks in ([np.inf, 0, 1], [0, np.inf, np.inf], [MAX_GIVEN_VALUE, 3e38, 0]):
        found = columns(Request(history=TOUCHED), IDS[:3], given(ranks))
        assert np.isfinite(found).all()


def test_a_caller_that_says_nothing_gives_no_anchor() -> None:
    inputs, bounds = as_inputs([Request(history=TOUCHED)]), np.array([0, 5])
    assert np.isnan(anchor_ranks(RANKED, inputs, IDS, bounds, None)).all()
    scored = replace(SCHEMA, retriever=("score",))
    assert np.isnan(anchor_ranks(scored, inputs, IDS, bounds, np.ones((5, 1), np.float32))).all()
