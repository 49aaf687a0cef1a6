"""Query text: one spelling, a bounded and deterministic set of keys, hashed features."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interactrank.features.packed_rows import row_bytes
from interactrank.features.schema import (
    LEVELS,
    MAX_BYTES_PER_REQUEST,
    MAX_KEYS_PER_REQUEST,
    FeatureSchema,
)
from interactrank.features.text import (
    MAX_TEXT_FEATURES,
    SEGMENT_BUCKETS,
    TEXT_BUCKETS,
    engagement_keys,
    grams,
    normalise,
    ragged,
    segment_bucket,
    segment_key,
    text_features,
)
from interactrank.features.text_hash import WORD

WORDY = st.lists(st.text("abcdefgh0é漢", min_size=1, max_size=12), max_size=40).map(" ".join)
TEXT = st.one_of(st.text(), WORDY)
CONTEXTS = st.dictionaries(st.text(max_size=3), st.text("ab=|% ", max_size=3), max_size=5)
SEARCH = st.tuples(*[st.text("ab=|%", max_size=4)] * 3)
LONG = " ".join(f"word{i}{'x' * (i % 7)}" for i in range(60))


def by_level(keys: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {level.prefix: [] for level in LEVELS}
    for key in keys:
        prefix, rest = key.split(":", 1)
        found[prefix].append(rest)
    return found


@settings(deadline=None)
@given(TEXT)
@example("İstanbul")
@example("ΑΣ Σ")
@example("a¨ ¨b")
@example("ﬁ Ⅷ ㎏ ᴮ")
def test_normalise_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_normalise_is_idempotent_on_every_code_point() -> None:
    every = (chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    wrong = [c for c in every if (n := normalise(f"a{c}B{c}")) != normalise(n)]
    assert not wrong


def test_spellings_that_mean_the_same_are_one() -> None:
    assert normalise("  Caf\u0065\u0301\t LATTE\n") == "café latte" == normalise("ＣＡＦÉ latte")


@settings(deadline=None)
@given(TEXT.map(normalise), CONTEXTS)
@example(LONG, {})
@example("", {"country": "de"})
@example("!!! ???", {"country": "de", "device": ""})
def test_keys_stay_within_every_cap(query: str, context: dict[str, str]) -> None:
    keys = engagement_keys(query, context)
    levels = by_level(keys)
    assert len(keys) <= MAX_KEYS_PER_REQUEST
    assert len(set(keys)) == len(keys)
    assert all(len(levels[level.prefix]) <= level.max_keys for level in LEVELS)
    assert keys[0] == f"q:{query}"
    assert keys[-1] == "a:"
    assert keys == engagement_keys(query, dict(context))
    assert len(levels["s"]) == sum(bool(v) for v in list(context.values())[:3])
    # Whatever the context, the other keys are those of the query alone.
    assert [k for k in keys if not k.startswith("s:")] == engagement_keys(query)


@settings(deadline=None)
@given(SEARCH, SEARCH)
@example(("c", "a|b", "q"), ("c", "a", "b|q"))
@example(("c=a", "b", "q"), ("c", "a=b", "q"))
@example(("c", "%7C", "q"), ("c", "|", "q"))
def test_two_searches_share_a_segment_key_only_if_they_are_one(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (segment_key(*one) == segment_key(*other)) == (one == other)


@settings(deadline=None)
@given(st.text())
def test_a_segments_bucket_is_zero_only_where_it_is_missing(value: str) -> None:
    assert (segment_bucket(value) == 0) == (value == "")
    assert 0 <= segment_bucket(value) < SEGMENT_BUCKETS


@settings(deadline=None)
@given(st.text())
def test_any_text_stays_within_the_budget_of_keys(text: str) -> None:
    assert len(engagement_keys(text)) <= MAX_KEYS_PER_REQUEST


@settings(deadline=None)
@given(st.lists(st.sampled_from(["red", "shoe", "boots", "x", "wide-fit"]), max_size=5))
def test_a_short_query_keeps_all_its_words_and_pieces(words: list[str]) -> None:
    query = " ".join(words)
    levels = by_level(engagement_keys(query))
    compact = query.replace(" ", "").replace("-", "")
    assert set(levels["t"]) == set(query.replace("-", " ").split())
    assert levels["c"] == ([compact] if compact else [])
    marked = f"^{compact}$"
    whole = [marked[i : i + 4] for i in range(max(len(marked) - 3, 1))] if compact else []
    if len(set(whole)) <= 24:
        assert levels["g"] == list(dict.fromkeys(whole))


def test_over_the_cap_the_longest_words_and_spread_pieces_stay() -> None:
    words = "aa b ccccccccccc dddddddd eeeeeee ffffff ggggg hhhh iii jjj"
    assert by_level(engagement_keys(words))["t"] == words.split()[2:]
    # Every piece below is distinct, so evenly spread means every second or third of them.
    compact = "".join(chr(0x4E00 + i) for i in range(60))
    pieces = by_level(engagement_keys(compact))["g"]
    at = [f"^{compact}$".index(p) for p in pieces]
    assert len(at) == 24
    assert at[0] == 0
    assert set(np.diff(at)) == {2, 3}
    assert at[-1] >= 54


def test_keys_and_hashes_are_the_same_in_another_process() -> None:
    code = (
        "from interactrank.features.text import engagement_keys, text_features;"
        f"print(engagement_keys({LONG!r}), text_features({LONG!r}).tolist())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == f"{engagement_keys(LONG)} {text_features(LONG).tolist()}"


def test_the_fullest_request_fits_the_byte_budget() -> None:
    actions, segments = ("view", "click", "save", "long_click"), ("country", "device", "gender")
    schema = FeatureSchema(actions, ("view",), ("engagement",), segments=segments)
    full = by_level(engagement_keys(LONG, dict.fromkeys(segments, "x")))
    assert {p: len(k) for p, k in full.items()} == {lv.prefix: lv.max_keys for lv in LEVELS}
    for of in (schema, replace(schema, exposure=True)):
        total = sum(lv.max_keys * row_bytes(of.cap(lv), len(of.columns(lv))) for lv in LEVELS)
        assert total <= MAX_BYTES_PER_REQUEST


@settings(deadline=None)
@given(st.text("ab^", max_size=12), st.integers(1, 5))
def test_grams_cover_the_word(word: str, size: int) -> None:
    pieces = grams(word, size)
    assert len(set(pieces)) == len(pieces)
    assert set("".join(pieces)) == set(word)
    assert all(p in word and len(p) == min(size, len(word)) for p in pieces)


@settings(deadline=None)
@given(TEXT)
def test_text_features_are_bounded_and_never_the_empty_bucket(text: str) -> None:
    found = text_features(text)
    assert found.dtype == np.int32
    assert len(found) == len(set(found.tolist())) <= MAX_TEXT_FEATURES
    assert all(1 <= v < TEXT_BUCKETS for v in found)
    assert found.tolist() == text_features(normalise(text)).tolist()


def test_text_features_see_order_and_parts_of_words() -> None:
    assert set(text_features("red shoe")) != set(text_features("shoe red"))
    assert len(set(text_features("sneaker")) & set(text_features("sneakers"))) >= 5
    assert len(text_features("")) == len(text_features("?!")) == 0


@settings(deadline=None)
@given(st.lists(TEXT, max_size=6))
def test_ragged_keeps_each_text_apart(texts: list[str]) -> None:
    values, offsets = ragged(texts)
    assert len(offsets) == len(texts) + 1
    assert offsets[0] == 0
    assert offsets[-1] == len(values)
    for i, text in enumerate(texts):
        assert values[offsets[i] : offsets[i + 1]].tolist() == text_features(text).tolist()


def test_words_are_found_in_one_pass() -> None:
    # One repeat of one class, with nothing after it: there is nothing to go back for, so that no
    # query makes the search take longer than its characters.
    assert WORD.pattern == r"\w+"
