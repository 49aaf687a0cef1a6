"""Names are found as they are typed: those that begin with it, then those of which a word does."""

from __future__ import annotations

from prerank.playground.names import Names

NAMES = Names(["red shoe", "shoe rack", "Blue SHOE", "horseshoe", "lamp", ""])


def test_the_beginning_counts_more_than_the_inside_and_what_matters_more_comes_first() -> None:
    assert NAMES.find("sho", 10) == [1, 0, 2, 3]
    assert NAMES.find("  SHOE ", 2) == [1, 0]
    assert NAMES.find("e sh", 10) == [2]


def test_with_nothing_typed_the_first_names_are_told() -> None:
    assert NAMES.find("   ", 3) == [0, 1, 2]
    assert Names([]).find("", 3) == Names([]).find("a", 3) == []


def test_no_text_is_found_across_two_names_and_none_is_too_long() -> None:
    assert NAMES.find("shoe shoe", 10) == []
    assert NAMES.find("shoe\nshoe", 10) == []
    assert NAMES.find("red shoe" + "x" * 100_000, 10) == []
