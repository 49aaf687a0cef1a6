"""What a caller gives of candidates, as the last columns of x: retriever features, its own numbers.

A rank also says where a candidate stands in the retriever's list as the user reads it: from the
*anchor*, the item that they touched last in this session, they go on to the next, or back. The
anchor's rank is of the request, as its query is: the caller gives it, with that of every candidate.
Where only some of a request's candidates are looked at, ``anchor_ranks`` of all of them is handed
on, so that a candidate's columns do not depend on which others are looked at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import FeatureSchema
from interactrank.kernels import kernel

MAX_GIVEN_VALUE = 1e18
"""What a caller gives beyond it counts as this much: larger numbers overflow in the fusion and
in the standardisation, and would make NaN of a score."""
NO_ANCHOR = float("nan")


@kernel
def _anchor_ranks(
    time: NDArray[np.int64],
    items: NDArray[np.int64],
    times: NDArray[np.int64],
    ends: NDArray[np.int64],
    candidates: NDArray[np.int64],
    offsets: NDArray[np.int64],
    given: NDArray[np.float32],
    ranks: NDArray[np.float32],
    gap_us: int,
) -> None:
    for b in range(time.size):
        last = ends[b + 1] - 1
        if last < ends[b] or time[b] - times[last] > gap_us:
            continue
        for c in range(offsets[b], offsets[b + 1]):
            if candidates[c] == items[last]:
                ranks[b] = given[c]


def anchor_ranks(
    schema: FeatureSchema,
    inputs: FeatureInputs,
    candidates: NDArray[np.int64],
    offsets: NDArray[np.int64],
    retriever_features: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """The rank that the caller gave of what each request's user touched last in this session.

    Args:
        schema: says where the rank is among what is given.
        inputs: histories of B requests; checked by the caller.
        candidates: int64 [N], all that the requests have, or are known to be given a rank.
        offsets: int64 [B + 1], bounds of each request's candidates.
        retriever_features: float32 [N, R], as in ``cross_features``.

    Returns:
        float32 [B], NaN where there is no such item, or no rank of it.
    """
    ranks = np.full(len(inputs.time), NO_ANCHOR, np.float32)
    if retriever_features is not None and "rank" in schema.retriever:
        given = np.ascontiguousarray(retriever_features[:, schema.retriever.index("rank")])
        history = inputs.hist_items, inputs.hist_times, inputs.hist_offsets
        _anchor_ranks(
            inputs.time, *history, candidates, offsets, given, ranks, schema.session_gap_us
        )
    return ranks


def given_columns(
    schema: FeatureSchema,
    n: int,
    retriever_features: NDArray[np.float32] | None,
    anchor: NDArray[np.float32] | float = NO_ANCHOR,
) -> NDArray[np.float32]:
    """The last columns of x for n candidates, ``schema.given_cross``: values, 0 where they are
    missing, and what is missing. float32, from ``retriever_features`` [n, R] or nothing.

    ``anchor`` [n], or one for all, is the rank of each candidate's ``anchor_ranks``.
    """
    told, width = len(schema.retriever), len(schema.given_cross)
    columns, first = np.zeros((n, width), np.float32), width - 2 * len(schema.candidate_features)
    own, absent = columns[:, first:], first - len(schema.anchor_cross) - 1
    if retriever_features is None:
        if told:
            columns[:, absent] = 1.0
        own[:, 1::2] = 1.0
        return columns
    column = 0
    for at, name in enumerate(schema.retriever):
        if name == "rank":
            ranks = np.clip(retriever_features[:, at], 0.0, MAX_GIVEN_VALUE)
            columns[:, column : column + 2] = _rank_columns(ranks)
            if not np.isnan(anchor).all():
                columns[:, absent + 1 : first] = _anchor_columns(ranks, anchor)
            column += 2
        else:
            values = np.nan_to_num(retriever_features[:, at], nan=0.0)
            columns[:, column] = np.clip(values, -MAX_GIVEN_VALUE, MAX_GIVEN_VALUE)
            column += 1
    if told:
        columns[:, absent] = np.isnan(retriever_features[:, :told]).all(axis=1)
    if schema.candidate_features:
        own[:, 0::2] = _signed_log(np.nan_to_num(retriever_features[:, told:], nan=0.0))
        own[:, 1::2] = np.isnan(retriever_features[:, told:])
    return columns


def _rank_columns(ranks: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(1 + rank) and 1 / (1 + rank) [n, 2] of ranks [n]; 0 where there is none.

    The first places differ more than a logarithm says, and the last ones less.
    """
    places = 1.0 + ranks
    return np.nan_to_num(np.column_stack((np.log(places), 1.0 / places)), nan=0.0)


def _anchor_columns(
    ranks: NDArray[np.float32], anchor: NDArray[np.float32] | float
) -> NDArray[np.float32]:
    """``ANCHOR_CROSS`` [n, 4] of ranks [n]; 0 where one of the two is missing."""
    apart = np.nan_to_num(ranks - np.minimum(anchor, np.float32(MAX_GIVEN_VALUE)), nan=0.0)
    logs = np.log1p(np.abs(apart))
    after = apart > 0
    return np.column_stack((apart == 1.0, apart == -1.0, logs * after, logs * ~after))


def _signed_log(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """sign(v) log(1 + |v|): prices, distances, bids and counts have long tails, in which a ratio
    says what a difference says near 0.

    It needs no constants, so x is the same for every model; a model's own are in its fusion.
    """
    return np.copysign(np.log1p(np.minimum(np.abs(values), MAX_GIVEN_VALUE)), values)
