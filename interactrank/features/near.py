"""What is near to requests: the part of ``FeatureInputs`` that comes from the item graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interactrank.features.bounds import check_bounds
from interactrank.features.schema import VECTOR_WIDTH

NO_SNAPSHOT = -1
"""``near_cutoffs`` of a request of before all snapshots."""
_NO_VECTORS = np.zeros((0, VECTOR_WIDTH), np.float32)
_NO_CUTOFFS = np.zeros(0, np.int64)


class Near(NamedTuple):
    """Items near to B requests (``interactrank.features.neighbours``), each once in a request, and
    what vectors of items are compared with (``interactrank.features.item_vectors``).

    ``near_items`` int64 [M]; how near to what the user engaged, and to what the query's searchers
    did, ``near_user`` and ``near_query`` float32 [M], from 0 up; ``near_offsets`` int64 [B + 1].
    ``user_vectors`` and ``query_vectors`` float32 [B, VECTOR_WIDTH], of length 1, or 0 where
    nothing is known; ``near_cutoffs`` int64 [B], of the snapshots that all this is of, microseconds
    since 1970, or NO_SNAPSHOT. The last three are [0] where there are no vectors.
    """

    near_items: NDArray[np.int64]
    near_user: NDArray[np.float32]
    near_query: NDArray[np.float32]
    near_offsets: NDArray[np.int64]
    user_vectors: NDArray[np.float32] = _NO_VECTORS
    query_vectors: NDArray[np.float32] = _NO_VECTORS
    near_cutoffs: NDArray[np.int64] = _NO_CUTOFFS

    @classmethod
    def nothing(cls, requests: int) -> Near:
        """Of requests that nothing is near to."""
        none = np.zeros(0, np.float32)
        return cls(np.zeros(0, np.int64), none, none, np.zeros(requests + 1, np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Near]) -> Near:
        """Of several requests, end to end; of each part has vectors, or nothing is near to it."""
        parts = [cls.nothing(0), *parts]
        lengths = np.concatenate([np.diff(part.near_offsets) for part in parts])
        # Requests without vectors among others that have some.
        absent = [len(part.near_offsets) - 1 - len(part.near_cutoffs) for part in parts]
        blank = [np.zeros((n, VECTOR_WIDTH), np.float32) for n in absent]

        def whole(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
            return np.concatenate([v for pair in zip(vectors, blank, strict=True) for v in pair])

        return cls(
            np.concatenate([part.near_items for part in parts]),
            np.concatenate([part.near_user for part in parts]),
            np.concatenate([part.near_query for part in parts]),
            np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
            whole([part.user_vectors for part in parts]),
            whole([part.query_vectors for part in parts]),
            np.concatenate(
                [
                    np.append(part.near_cutoffs, np.full(n, NO_SNAPSHOT, np.int64))
                    for part, n in zip(parts, absent, strict=True)
                ]
            ),
        )

    def slice(self, low: int, high: int) -> Near:
        """Of requests low to high - 1, as views."""
        of = slice(self.near_offsets[low], self.near_offsets[high])
        return Near(
            self.near_items[of],
            self.near_user[of],
            self.near_query[of],
            self.near_offsets[low : high + 1] - self.near_offsets[low],
            self.user_vectors[low:high],
            self.query_vectors[low:high],
            self.near_cutoffs[low:high],
        )

    def check(self, requests: int, widths: Mapping[int, int]) -> None:
        """Refuse arrays that do not fit together.

        Args:
            requests: B.
            widths: of the vectors of the snapshots that are at hand, by their cutoffs.

        Raises:
            ValueError: naming what does not.
        """
        items, user, query, offsets, users, queries, cutoffs = self
        check_bounds("near_offsets", offsets, requests, len(items))
        if not len(items) == len(user) == len(query):
            raise ValueError("near_user and near_query must have an entry for each of near_items")
        if len(cutoffs) not in (0, requests):
            raise ValueError("near_cutoffs must have an entry for each request, or none")
        if not users.shape == queries.shape == (len(cutoffs), VECTOR_WIDTH):
            raise ValueError(
                f"user_vectors and query_vectors must have an entry of {VECTOR_WIDTH} numbers for "
                "each of near_cutoffs"
            )
        for cutoff in np.unique(cutoffs).tolist():
            if cutoff != NO_SNAPSHOT and widths.get(cutoff) != VECTOR_WIDTH:
                raise ValueError(
                    f"near_cutoffs: no snapshot of {cutoff} with vectors of {VECTOR_WIDTH} numbers "
                    "is at hand"
                )
        for name, numbers in zip(
            ("near_user", "near_query", "user_vectors", "query_vectors"),
            (user, query, users, queries),
            strict=True,
        ):
            if not np.isfinite(numbers).all():
                raise ValueError(f"{name} must be finite")
