"""The compiled form of ``interactrank.features.text.text_features``, for many texts at a time.

The definition of the features is in ``interactrank.features.text``; the kernel here gives the
same values in the same order, from code points, without making a string for each piece. A piece's
CRC-32 is carried on from one byte to the next: what ``zlib.crc32`` returns is the carried state
inverted.
"""

from __future__ import annotations

import re
import secrets
import sys
import zlib
from collections.abc import Iterable
from functools import cache
from itertools import accumulate, islice

import numpy as np
from numpy.typing import NDArray

from interactrank.kernels import kernel

TEXT_BUCKETS = 1 << 15
MAX_TEXT_FEATURES = 96
WORD = re.compile(r"\w+", re.UNICODE)

CHUNK = 4096
"""Texts hashed at a time, which bounds what the buffers take beside the result."""

_FLIP = 0xFFFFFFFF
# Of 64 bits, as all that is computed with: the kernels give the same as plain Python, uncompiled.
_UNIGRAM, _BIGRAM, _TRIGRAM = np.array(
    [zlib.crc32(kind) ^ _FLIP for kind in (b"w ", b"b ", b"g ")], np.int64
)
_CRC = np.array([zlib.crc32(bytes([b]), _FLIP) ^ _FLIP for b in range(256)], np.int64)
_BLANK, _OPEN, _CLOSE = ord(" "), ord("<"), ord(">")
_CODES = f"utf-32-{sys.byteorder[0]}e"
# Chosen anew by each process, so that nobody can write a text whose words all land on one slot.
_SALT = secrets.randbits(62)
_MIX = 0x2545F4914F6CDD1D


@cache
def word_characters() -> NDArray[np.uint8]:
    r"""1 for each code point that ``\w`` matches: uint8 [0x110000]."""
    table = np.zeros(sys.maxunicode + 1, np.uint8)
    every = np.arange(len(table), dtype=np.int32).tobytes().decode(_CODES, "surrogatepass")
    for found in WORD.finditer(every):
        table[found.start() : found.end()] = 1
    table.flags.writeable = False
    return table


@kernel(inline="always")
def _byte(state: int, byte: int) -> int:
    return _CRC[(state ^ byte) & 0xFF] ^ (state >> 8)


@kernel(inline="always")
def _character(state: int, code: int) -> int:
    """Carry ``state`` over the UTF-8 bytes of a code point."""
    if code < 0x80:
        return _byte(state, code)
    if code < 0x800:
        state = _byte(state, 0xC0 | code >> 6)
    else:
        if code < 0x10000:
            state = _byte(state, 0xE0 | code >> 12)
        else:
            state = _byte(state, 0xF0 | code >> 18)
            state = _byte(state, 0x80 | code >> 12 & 0x3F)
        state = _byte(state, 0x80 | code >> 6 & 0x3F)
    return _byte(state, 0x80 | code & 0x3F)


@kernel(inline="always")
def _keep(state: int, out: NDArray[np.int32], first: int, end: int, seen: NDArray[np.int64]) -> int:
    """Append a piece's feature to ``out[first:end]`` unless it is there or no more are allowed.

    ``seen`` has a bit for each bucket. Returns the new end.
    """
    value = 1 + (state ^ _FLIP) % (TEXT_BUCKETS - 1)
    bit = 1 << (value & 31)
    if end - first == MAX_TEXT_FEATURES or seen[value >> 5] & bit:
        return end
    seen[value >> 5] |= bit
    out[end] = value
    return end + 1


@kernel(inline="always")
def _is_new(
    codes: NDArray[np.int32],
    words: NDArray[np.int64],
    count: int,
    slots: NDArray[np.int32],
    mask: int,
) -> bool:
    """Enter row ``count`` of ``words`` into the table ``slots[: mask + 1]`` if it is new."""
    start, size, code = words[count, 0], words[count, 1] - words[count, 0], words[count, 2]
    at = code & mask
    while slots[at] >= 0:
        old = slots[at]
        # Equal hashes prove nothing: the words themselves are compared.
        if words[old, 2] == code and words[old, 1] - words[old, 0] == size:
            same, other = 0, words[old, 0]
            while same < size and codes[other + same] == codes[start + same]:
                same += 1
            if same == size:
                return False
        at = (at + 1) & mask
    slots[at] = count
    return True


@kernel
def _find_words(
    codes: NDArray[np.int32],
    start: int,
    end: int,
    is_word: NDArray[np.uint8],
    salt: int,
    words: NDArray[np.int64],
    slots: NDArray[np.int32],
) -> int:
    """Distinct words of ``codes[start:end]``, in order: their number W.

    Writes ``words[:W]``: start, end, hash, the state after the unigram, and after the bigram with
    the word before (of the first word, nothing). ``slots`` is a work space.
    """
    mask = 1
    while mask < end - start + 1:
        mask = 2 * mask + 1
    for at in range(mask + 1):
        slots[at] = -1
    count, at, before = 0, start, 0
    while at < end:
        if not is_word[codes[at]]:
            at += 1
            continue
        words[count, 0], mixed = at, salt
        # Three states side by side: the processor carries them on at the same time.
        alone, opened, pair = _UNIGRAM, _BIGRAM, before
        while at < end and is_word[codes[at]]:
            code: int = np.int64(codes[at])  # type: ignore[assignment]
            mixed = (mixed ^ code) * _MIX
            mixed ^= mixed >> 29
            alone, opened, pair = (
                _character(alone, code),
                _character(opened, code),
                _character(pair, code),
            )
            at += 1
        words[count, 1], words[count, 2] = at, mixed
        if _is_new(codes, words, count, slots, mask):
            words[count, 3], words[count, 4] = alone, pair
            before = _byte(opened, _BLANK)
            count += 1
    return count


@kernel
def _hash_words(
    codes: NDArray[np.int32],
    words: NDArray[np.int64],
    count: int,
    out: NDArray[np.int32],
    first: int,
    seen: NDArray[np.int64],
) -> int:
    """Write the features of one text, given its words, at ``out[first:]``; return their end."""
    end = first
    for w in range(count):
        end = _keep(words[w, 3], out, first, end, seen)
    for w in range(1, count):
        end = _keep(words[w, 4], out, first, end, seen)
    for w in range(count):
        if end - first == MAX_TEXT_FEATURES:
            break
        low, high = words[w, 0], words[w, 1]
        for at in range(low, high):
            state = _character(_TRIGRAM, codes[at - 1] if at > low else _OPEN)
            state = _character(state, codes[at])
            state = _character(state, codes[at + 1] if at + 1 < high else _CLOSE)
            end = _keep(state, out, first, end, seen)
    return end


@kernel
def _hash_all(
    codes: NDArray[np.int32], bounds: NDArray[np.int64], is_word: NDArray[np.uint8], salt: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Features and their offsets of n texts, text i being ``codes[bounds[i]:bounds[i + 1]]``."""
    texts = bounds.size - 1
    longest = room = 0
    for i in range(texts):
        length = bounds[i + 1] - bounds[i]
        longest = max(longest, length)
        # Words, pairs and trigrams of a text are fewer than two for each of its characters.
        room += min(2 * length, MAX_TEXT_FEATURES)
    words = np.empty((longest // 2 + 1, 5), np.int64)
    slots = np.empty(2 * longest + 2, np.int32)
    seen = np.zeros((TEXT_BUCKETS >> 5), np.int64)
    out = np.empty(room, np.int32)
    offsets = np.zeros(texts + 1, np.int64)
    for i in range(texts):
        first = offsets[i]
        count = _find_words(codes, bounds[i], bounds[i + 1], is_word, salt, words, slots)
        offsets[i + 1] = _hash_words(codes, words, count, out, first, seen)
        for at in range(first, offsets[i + 1]):
            seen[out[at] >> 5] = 0
    return out[: offsets[texts]].copy(), offsets


def _hash_chunk(folded: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    # Half a surrogate pair is no word character, so it never gets as far as being hashed. The blank
    # at the end is no text's: NumPy makes no array of an empty buffer.
    data = "".join([*folded, " "]).encode(_CODES, "surrogatepass")
    bounds = np.fromiter(accumulate(map(len, folded), initial=0), np.int64, len(folded) + 1)
    found: tuple[NDArray[np.int32], NDArray[np.int64]] = _hash_all(
        np.frombuffer(data, np.int32), bounds, word_characters(), _SALT
    )
    return found


def hashed(folded: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Features of n texts that are normalised, or differ from that in their white space alone.

    Returns values, int32 [T], and offsets, int64 [n + 1].
    """
    texts = iter(folded)
    parts = [_hash_chunk(list(islice(texts, CHUNK)))]
    while chunk := list(islice(texts, CHUNK)):
        parts.append(_hash_chunk(chunk))
    if len(parts) == 1:
        return parts[0]
    sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(o) for _, o in parts)])
    return np.concatenate([v for v, _ in parts]), np.cumsum(sizes)
