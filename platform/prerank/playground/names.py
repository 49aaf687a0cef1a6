"""Search as you type: names that begin with a text, or hold it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from interactrank.features.text import normalise

MAX_TYPED = 200
"""Characters that are searched for; nobody types more to find a name."""


class Names:
    """Names by any part of their text; those that matter most come first.

    One text holds them all, a line each, so that a search is three passes of ``str.find`` over it,
    each of which ends at the last name that is wanted. Time and memory are linear in the names.

    Args:
        texts: by which they are found, those that matter most first.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        folded = [normalise(text) for text in texts]
        lengths = np.fromiter((len(text) + 1 for text in folded), np.int64, len(folded))
        # A line begins with its break, so that what begins a name is told from what is inside.
        self._starts = np.cumsum(lengths) - lengths
        self._text = "".join(f"\n{text}" for text in folded)

    def __len__(self) -> int:
        return len(self._starts)

    def find(self, typed: str, limit: int) -> list[int]:
        """Positions of at most ``limit`` names: those that begin with what was ``typed``, then
        those of which a word does, then those that hold it. With nothing typed, the first ones.
        """
        sought = normalise(typed[:MAX_TYPED])
        if not sought:
            return list(range(min(limit, len(self))))
        found: dict[int, None] = {}
        for pattern in (f"\n{sought}", f" {sought}", sought):
            for name in self._with(pattern):
                if len(found) >= limit:
                    return list(found)
                found[name] = None
        return list(found)

    def _with(self, pattern: str) -> Iterator[int]:
        at = self._text.find(pattern)
        while at >= 0:
            name = int(np.searchsorted(self._starts, at, side="right")) - 1
            yield name
            if name + 1 == len(self):
                return
            at = self._text.find(pattern, int(self._starts[name + 1]))
