"""Query and item text: normalisation, engagement keys, and hashed sub-word features."""

from __future__ import annotations

import itertools
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from interactrank.features.schema import LEVELS
from interactrank.features.text_hash import MAX_TEXT_FEATURES as MAX_TEXT_FEATURES
from interactrank.features.text_hash import TEXT_BUCKETS as TEXT_BUCKETS
from interactrank.features.text_hash import WORD, hashed

GRAM = 4
SEGMENT_BUCKETS = 1 << 10

_MAX_KEYS = {level.prefix: level.max_keys for level in LEVELS}
_ESCAPES = str.maketrans({"%": "%25", "=": "%3D", "|": "%7C"})
NO_CONTEXT: Mapping[str, str] = {}


def _folded(text: str) -> str:
    if text.isascii():  # which NFKC leaves alone
        return text.lower()
    # Lower-casing can undo composition ("İ"), so NFKC runs on both sides of it.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())


def normalise(text: str) -> str:
    """NFKC, lower case, runs of white space squeezed to one blank. Idempotent."""
    return " ".join(_folded(text).split())


def query_code(query: str) -> int:
    """What a history remembers of a normalised query: its CRC-32, 0 for the empty one."""
    return zlib.crc32(query.encode())


def tokens(text: str) -> list[str]:
    """Distinct word tokens of normalised ``text``, in order of first appearance."""
    return list(dict.fromkeys(WORD.findall(text)))


def grams(word: str, size: int = GRAM) -> list[str]:
    """Distinct character n-grams; a shorter word is its own only gram."""
    if len(word) <= size:
        return [word] if word else []
    return list(dict.fromkeys(word[i : i + size] for i in range(len(word) - size + 1)))


def segment_key(column: str, value: str, query: str) -> str:
    """Key of ``query`` among the searchers whose ``column`` is ``value``; unambiguous."""
    return f"s:{column.translate(_ESCAPES)}={value.translate(_ESCAPES)}|{query}"


def segment_bucket(value: str) -> int:
    """Embedding row of a segment's value: in [1, SEGMENT_BUCKETS), 0 for "" (missing)."""
    return 1 + zlib.crc32(value.encode()) % (SEGMENT_BUCKETS - 1) if value else 0


def engagement_keys(query: str, context: Mapping[str, str] = NO_CONTEXT) -> list[str]:
    """Keys whose packed rows serve ``query`` (normalised), in the order q, s…, c, t…, g…, a.

    ``context`` holds the request's value of each segment column, in the schema's order; "" is
    missing and has no key. Segment columns beyond the cap of their level have none either.

    Over the cap of another level the longest tokens and evenly spread grams are kept: length
    stands in for rarity, so that the choice needs no statistics and is the same at any time,
    offline and online.
    """
    words = tokens(query)
    compact = "".join(WORD.findall(query))
    chosen = sorted(words, key=lambda w: (-len(w), w))[: _MAX_KEYS["t"]]
    keys = [f"q:{query}"]
    columns = list(context)[: _MAX_KEYS["s"]]
    keys += [segment_key(c, context[c], query) for c in columns if context[c]]
    if compact:
        keys.append(f"c:{compact}")
    keys += [f"t:{w}" for w in words if w in set(chosen)]
    # Boundary marks tell a word's beginning and end from its middle.
    pieces = grams(f"^{compact}$") if compact else []
    limit = _MAX_KEYS["g"]
    if len(pieces) > limit:
        pieces = [pieces[i * len(pieces) // limit] for i in range(limit)]
    keys += [f"g:{p}" for p in pieces]
    keys.append("a:")
    return keys


def _pieces(text: str) -> Iterator[str]:
    words = tokens(text)
    yield from (f"w {w}" for w in words)
    yield from (f"b {a} {b}" for a, b in itertools.pairwise(words))
    for word in words:
        yield from (f"g {g}" for g in grams(f"<{word}>", 3))


def text_features(text: str) -> NDArray[np.int32]:
    """Hashed word uni- and bigrams and character trigrams of ``text``: int32 [<= 96].

    Values lie in [1, TEXT_BUCKETS); 0 is left for "no text". CRC-32 keeps replicas in agreement,
    which Python's salted ``hash`` would not. This is the definition; ``ragged`` is the same,
    compiled.
    """
    found = [1 + zlib.crc32(p.encode()) % (TEXT_BUCKETS - 1) for p in _pieces(normalise(text))]
    return np.array(list(dict.fromkeys(found))[:MAX_TEXT_FEATURES], dtype=np.int32)


def ragged(texts: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """``text_features`` of n texts, one after the other: int32 [T], and offsets int64 [n + 1].

    White space stays as it is: words end at any of it, so squeezing it would change nothing.
    """
    return hashed(map(_folded, texts))


def ragged_reference(texts: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The same answer as ``ragged``, text by text from the definition."""
    parts = [text_features(t) for t in texts]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return np.concatenate([np.zeros(0, np.int32), *parts]), offsets
