"""The compiled hashing of texts gives what its definition gives, for any text whatever."""

from __future__ import annotations

import sys
import unicodedata
import zlib
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interactrank.features import text_hash
from interactrank.features.catalogue import CATEGORY_BUCKETS, Catalogue
from interactrank.features.text import (
    MAX_TEXT_FEATURES,
    normalise,
    ragged,
    ragged_reference,
    text_features,
)

# Halves of surrogate pairs too, which `st.text()` alone leaves out.
ANY = st.text(st.characters(exclude_categories=()))
# Few letters make words, pairs and pieces that come again.
REPEATING = st.text("abAB_ 1é\u0301Σσİß漢𠀀\n\x00\ud800-", max_size=60)
MANY_WORDS = st.lists(st.text("abcé漢𠀀", min_size=1, max_size=5), max_size=80).map(" ".join)
TEXTS = st.lists(st.one_of(ANY, REPEATING, MANY_WORDS), max_size=8)

HARD = [
    "",
    " ",
    "\n",
    "\x00",
    "\x1c\x85\u2028",
    "?!",
    "_",
    "a",
    "a a a",
    "A a Á á",
    "the cat the hat",
    # Lower case that depends on what is near, that is longer, or that undoes composition.
    "ΑΣ",
    "Σ",
    "ΑΣ.",
    "ΑΣ Σ ΣΑ",
    "Α",
    "İstanbul",
    "straße STRASSE ẞ",
    "ǅ ǆ",
    # A mark at a beginning must not join the end of the text before.
    "e",
    "\u0301",
    "caf\u0065\u0301 café",
    "한글 \u1112\u1161\u11ab",
    "\u1161",
    "हिन्दी",
    "ﷺ",
    "ﬁ Ⅷ ㎏ ᴮ ²①",
    # One to four bytes in UTF-8, at both ends of each length.
    "\x7f\x80 \u07ff\u0800 \uffff\U00010000 \U0010ffff",
    "𠀀𠀀 𝔘𝔫𝔦 漢字 ж",
    "👩‍👩‍👧 emoji",
    "a\ud800b",
    "\udfff",
    "\ud83d\ude00x",
    "<a> <<b>> g <a",
    "w x",
    "b a b",
    "a b b a",
    # More features than are kept, in words, in pairs, and in one word alone.
    " ".join(f"w{i}" for i in range(97)),
    " ".join(f"w{i}" for i in range(50)),
    " ".join(f"w{i}" for i in range(48)),
    "".join(chr(0x4E00 + i) for i in range(97)),
    " ".join(f"word{i}" for i in range(20_000)),
    "x" * 100_000,
    "ab " * 50_000,
    "é" * 5000 + " z",
]


def assert_same(texts: Iterable[str]) -> None:
    texts = list(texts)
    (values, offsets), (wanted, wanted_offsets) = ragged(texts), ragged_reference(texts)
    assert values.dtype == np.dtype(np.int32)
    assert offsets.dtype == np.dtype(np.int64)
    np.testing.assert_array_equal(offsets, wanted_offsets)
    np.testing.assert_array_equal(values, wanted)


@settings(deadline=None, max_examples=500)
@given(TEXTS)
@example(["ΑΣ", "Α", "e", "\u0301"])
def test_the_compiled_form_is_the_definition(texts: list[str]) -> None:
    assert_same(texts)


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_a_hard_text_alone(text: str) -> None:
    assert_same([text])


def test_hard_texts_beside_each_other() -> None:
    assert_same(HARD)
    assert_same(reversed(HARD))
    assert max(len(text_features(t)) for t in HARD) == MAX_TEXT_FEATURES


@pytest.mark.compiled
def test_every_code_point() -> None:
    every = [chr(c) for c in range(sys.maxunicode + 1)]
    assert_same(" ".join(every[at : at + 16]) for at in range(0, len(every), 16))
    assert_same("".join(every[at : at + 50]) for at in range(0, 0x10000, 50))


@given(st.text(st.characters(max_codepoint=0x7F)))
def test_ascii_needs_no_composition(text: str) -> None:
    # Both forms skip it, so their being equal would not show a mistake.
    composed = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    assert normalise(text) == " ".join(composed.split())


def test_white_space_is_no_word_character() -> None:
    # Why the texts need not be squeezed before they are hashed.
    is_word = text_hash.word_characters()
    assert not any(is_word[c] for c in range(sys.maxunicode + 1) if chr(c).isspace())
    # And why half a surrogate pair, which has no UTF-8, raises nothing.
    assert not is_word[0xD800:0xE000].any()
    assert ragged(["a\ud800b"])[0].tolist() == ragged(["a b"])[0].tolist()


@pytest.mark.compiled
def test_many_words_in_one_bucket_stay_apart() -> None:
    # Words whose features are all alike never reach the cap, so that all of them must be kept.
    found: list[str] = []
    bucket = text_features("q0")[0]
    for i in range(4_000_000):
        if 1 + zlib.crc32(b"w q%d" % i) % (text_hash.TEXT_BUCKETS - 1) == bucket:
            found.append(f"q{i}")
    assert len(found) > 100
    assert_same([" ".join(found), " ".join(found[::-1])])


def test_words_are_told_apart_by_more_than_their_hash() -> None:
    codes = np.frombuffer("abc ab cd ab abcd ".encode(text_hash._CODES), np.int32)
    bounds = [(0, 3), (4, 6), (7, 9), (10, 12), (13, 17)]
    words, slots = np.zeros((5, 5), np.int64), np.full(16, -1, np.int32)
    words[:, :2], words[:, 2] = bounds, 5
    found = [text_hash._is_new(codes, words, w, slots, 15) for w in range(5)]
    assert found == [True, True, True, False, True]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7])
def test_texts_come_in_chunks_and_from_any_iterable(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_hash, "CHUNK", 3)
    texts = [f"Text {i} ΑΣ" if i % 3 else "" for i in range(count)]
    assert_same(texts)
    values, offsets = ragged(t for t in texts)
    assert values.tolist() == ragged(texts)[0].tolist()
    assert len(offsets) == count + 1


@pytest.mark.compiled
def test_the_kernel_is_compiled_once_for_all_inputs() -> None:
    # A second compilation would be seconds that a request waits for.
    for texts in ([], [""], ["a"], ["漢"], ["a\ud800"], HARD):
        ragged(texts)
    assert len(text_hash._hash_all.signatures) == 1


def test_normalised_text_has_the_features_of_the_text() -> None:
    whole = [t for t in HARD if len(t) < 1000]
    for got, wanted in zip(ragged(map(normalise, whole)), ragged(whole), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_catalogue_hashes_each_category_as_one() -> None:
    names = ["shoes", "", "hats", "shoes", "hüte", ""]
    n = len(names)
    numbers, created = np.zeros((n, 0), np.float32), np.zeros(n, np.int64)
    made = Catalogue.build(np.arange(n), ["Title"] * n, names, numbers, created)
    assert made.category.dtype == np.int64
    assert made.category.tolist() == [
        1 + zlib.crc32(c.encode()) % (CATEGORY_BUCKETS - 1) if c else 0 for c in names
    ]
