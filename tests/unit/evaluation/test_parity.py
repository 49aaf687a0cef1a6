"""Items that training knows otherwise are not compared, but stay in the requests that name them."""

from __future__ import annotations

import numpy as np

from prerank.evaluation.live import Asked
from prerank.evaluation.parity import _answered_without, _rows_without
from prerank.evaluation.training_side import BY_CANDIDATE

ADDED = np.array([8, 99])


def test_added_items_leave_answer_and_expectation_alike() -> None:
    expected = {"ids": np.array([3, 8, 5]), "x": np.arange(6).reshape(3, 2), "scale": 2.0}
    expected |= {name: np.arange(3.0) for name in ("cross_score", "dot", "score")}
    answer = {"items": [{"id": "5"}, {"id": "8"}, {"id": "3"}], "degraded": []}
    asked = Asked("q", "u", np.array([3, 8, 5]), None, answer)

    kept, answered = _rows_without(expected, ADDED), _answered_without(asked, ADDED)
    assert kept["ids"].tolist() == [3, 5]
    assert {int(item["id"]) for item in answered.answer["items"]} == {3, 5}
    assert kept["x"].tolist() == [[0, 1], [4, 5]]
    assert {len(kept[name]) for name in BY_CANDIDATE} == {2}
    assert kept["scale"] == 2.0
    # What was asked is as it was: an item that is left out may be what others stand next to.
    assert answered.candidates.tolist() == [3, 8, 5]
