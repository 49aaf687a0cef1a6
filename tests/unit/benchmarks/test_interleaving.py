"""benchmarks/interleaving.py: what differs is found by both ways, what is equal by none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prerank.online_tests.results import LEAST_USERS

FOLDER = Path(__file__).parents[3] / "benchmarks"
REQUESTS = 8_000


@pytest.fixture
def interleaving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import interleaving

    yield interleaving
    sys.modules.pop("interleaving", None)


def test_interleaving_needs_a_tenth_of_the_requests_of_an_ab_test(interleaving: Any) -> None:
    assert interleaving.compared("demo", 1.8, 0, REQUESTS).times_fewer > 10


def test_both_find_a_large_difference(interleaving: Any) -> None:
    found = interleaving.compared("demo", 3.5, 0, REQUESTS)
    assert found.better > found.worse
    assert found.ab is not None
    assert found.drafts is not None
    assert found.drafts < found.ab


def test_of_equal_rankers_neither_is_better(interleaving: Any) -> None:
    board = interleaving.Board("demo", 1, REQUESTS)
    one, other = board.ranked(1.0), board.ranked(1.0)
    for looks in (
        interleaving.ab_test(board, one, other, 1),
        interleaving.interleaving(board, one, other),
    ):
        assert looks.users[-1] >= LEAST_USERS
        assert looks.first(1_000, either=True) is None


def test_a_page_has_what_was_retrieved_and_clicks_are_on_items(interleaving: Any) -> None:
    board = interleaving.Board("demo", 1, 200)
    order = board.ranked(1.0)
    assert np.array_equal(np.sort(order, axis=1), np.arange(order.shape[1])[None].repeat(200, 0))
    shown = np.take_along_axis(board.items, order, axis=1) >= 0
    assert not (board.clicks(order) & ~shown).any()
