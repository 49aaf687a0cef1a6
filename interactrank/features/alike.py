"""Vectors of items, and of requests from them: cosines say how alike items are.

``interactrank.graph.vectors`` makes an item's. A user's is the mean of those of the last ANCHORS
engagements, a query's that of its top items, by their shares: what a request holds in hand, as of
the same moment as its neighbours (``interactrank.features.neighbours``). Two features of a
candidate are its cosines to these. Vectors of two snapshots do not compare, so a request says which
snapshot it is of (``near_cutoffs``), and candidates are looked up there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs
from interactrank.features.item_vectors import ItemVectors, number_of
from interactrank.features.near import NO_SNAPSHOT
from interactrank.features.neighbours import ANCHORS
from interactrank.features.prefetch import prefetch
from interactrank.features.schema import FeatureSchema
from interactrank.features.top_items import top_items_of
from interactrank.kernels import kernel

AHEAD = 32
"""Candidates whose vectors are on their way at a time."""
LINE = 32
"""Numbers of bf16 in a line of memory."""
FAST = {"reassoc", "contract", "nsz", "arcp"}
"""What the compiler may do to sums, so that they are vectorised."""


def user_vectors(vectors: ItemVectors, inputs: FeatureInputs) -> NDArray[np.float32]:
    """Unit vectors float32 [B, W] of the users of B requests; zeros where nothing is known."""
    ends = inputs.hist_offsets[1:]
    begins = np.maximum(inputs.hist_offsets[:-1], ends - ANCHORS)
    return vectors.means(inputs.hist_items, None, begins, ends)


def query_vectors(
    vectors: ItemVectors, schema: FeatureSchema, inputs: FeatureInputs
) -> NDArray[np.float32]:
    """The same of their queries.

    Raises:
        ValueError: of ``check_inputs``.
    """
    items, counts, offsets = top_items_of(schema, inputs)
    return vectors.means(items, counts, offsets[:-1], offsets[1:])


def cosines(
    inputs: FeatureInputs, candidates: NDArray[np.int64], offsets: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Cosines of candidates to the user and to the query, each in its request's snapshot.

    Args:
        inputs: of B requests, checked by the caller.
        candidates: int64 [N] item ids.
        offsets: int64 [B + 1], bounds of each request's candidates.

    Returns:
        float32 [N, 2], from -1 to 1 but for rounding; 0 where nothing is known.
    """
    found, near = np.zeros((len(candidates), 2), np.float32), inputs.near
    for cutoff in np.unique(near.near_cutoffs).tolist():
        if cutoff != NO_SNAPSHOT:
            of = inputs.snapshots[cutoff]
            mine = near.near_cutoffs == cutoff
            vectors = mine, near.user_vectors, near.query_vectors
            _cosines(of.bits, of.table.rows(candidates), *vectors, offsets, found)
    return found


@kernel(fastmath=FAST)
def _cosines(
    bits: NDArray[np.uint16],
    rows: NDArray[np.int64],
    mine: NDArray[np.bool_],
    users: NDArray[np.float32],
    queries: NDArray[np.float32],
    offsets: NDArray[np.int64],
    found: NDArray[np.float32],
) -> None:
    """Write the cosines of candidates at ``rows``, of the requests that are ``mine``."""
    width = bits.shape[1]
    for b in range(mine.size):
        if not mine[b]:
            continue
        for i in range(offsets[b], offsets[b + 1]):
            if i + AHEAD < rows.size and rows[i + AHEAD] >= 0:
                for at in range(0, width, LINE):
                    prefetch(bits, rows[i + AHEAD] * width + at)
            if rows[i] < 0:
                continue
            user, query = np.float32(0.0), np.float32(0.0)
            for d in range(width):
                number = number_of(bits[rows[i], d])
                user += number * users[b, d]
                query += number * queries[b, d]
            found[i, 0], found[i, 1] = user, query
