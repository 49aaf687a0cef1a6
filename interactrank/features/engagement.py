"""Cross features of (user, query, item): packed rows and history in, x [candidates, X] out.

The one function that training, batch evaluation and serving call (``cross_features``), so
that a feature cannot mean two things. ``interactrank.features.levels`` makes the columns of the
packed rows, ``interactrank.features.given`` those of what the caller gives; here are those of the
user's history and of the item.

A linear g cannot shift weight from counts to back-off as a query gets sparser, so two columns carry
that product, n / (C_q + n) times the feature.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from interactrank.features.alike import cosines
from interactrank.features.bounds import check_bounds
from interactrank.features.given import anchor_ranks, given_columns
from interactrank.features.id_table import find
from interactrank.features.inputs import (
    HOUR_US,
    FeatureInputs,
    Histories,
    check_inputs,
)
from interactrank.features.levels import (
    POPULARITY,
    CandidateTable,
    Plan,
    add_levels,
    candidate_table,
)
from interactrank.features.near import Near
from interactrank.features.packed_rows import DECODE
from interactrank.features.schema import COSINE_CROSS, GRAPH_CROSS, HISTORY_LENGTH, FeatureSchema
from interactrank.kernels import kernel

SPARSE_QUERY, SPARSE_USER = 10.0, 3.0
"""Engagements of the exact query at which back-off, or the user's recency, halves its say."""
NEAR_SCALE = 1e3
"""S of how near an item is, as of an ordinary level's shares."""
NEAR_LOG = float(np.log1p(NEAR_SCALE))
FRESH_DAYS = 30.0
"""Younger items count as fresh; their say needs no long record to be believed."""


@kernel
def _add_user(
    x: NDArray[np.float32],
    table: CandidateTable,
    histories: Histories,
    b: int,
    query: int,
    now: int,
    plan: Plan,
) -> None:
    """User x item features of history ``b`` (oldest first), and which action touched an item."""
    column, touch_column = plan.user_column, plan.touch_column
    begin, end = histories.hist_offsets[b], histories.hist_offsets[b + 1]
    for e in range(end - 1, max(end - 1 - HISTORY_LENGTH, begin - 1), -1):
        at = find(histories.hist_items[e], table.slots, table.shift)
        if at < 0:
            continue
        if x[at, column] == 0.0:
            hours = (now - histories.hist_times[e]) / HOUR_US
            x[at, column] = 1.0
            x[at, column + 1] = 1.0 / (end - e)
            x[at, column + 2] = np.exp(-hours * 60.0)
            x[at, column + 3] = np.exp(-hours)
            x[at, column + 4] = np.exp(-hours / 24.0)
            x[at, column + 5] = np.exp(-hours / 720.0)
        touched = touch_column[histories.hist_actions[e]]
        if touched >= 0:
            x[at, touched] = 1.0
        count = np.expm1(x[at, column + 6]) + 1.0
        x[at, column + 6] = np.log1p(count)
        if query and histories.hist_queries[e] == query:
            x[at, column + 7] = 1.0


@kernel
def _add_near(
    x: NDArray[np.float32], table: CandidateTable, near: Near, b: int, plan: Plan
) -> None:
    """How near candidates are to what the user and the query's searchers engaged with."""
    for m in range(near.near_offsets[b], near.near_offsets[b + 1]):
        at = find(near.near_items[m], table.slots, table.shift)
        if at >= 0:
            x[at, plan.graph_column] = np.log1p(NEAR_SCALE * near.near_user[m]) / NEAR_LOG
            x[at, plan.graph_column + 1] = np.log1p(NEAR_SCALE * near.near_query[m]) / NEAR_LOG


@kernel
def _add_items(
    x: NDArray[np.float32],
    created: NDArray[np.int64],
    now: int,
    total_all: float,
    total_query: float,
    plan: Plan,
) -> None:
    """Features of the items themselves, and those for sparse queries and fresh items."""
    column, scale = plan.item_column, plan.scale[POPULARITY]
    popularity, log_scale = plan.first_column[POPULARITY] + plan.mass[POPULARITY], np.log1p(scale)
    last, of_last = np.float32(0.0), np.float32(0.0)
    for c in range(created.size):
        known = 0 < created[c] <= now
        days = (now - created[c]) / (24.0 * HOUR_US) if known else 0.0
        x[c, column] = np.log1p(days)
        x[c, column + 1] = 0.0 if known else 1.0
        if x[c, popularity] != last:  # of most it is the same
            last = x[c, popularity]
            ratio = np.expm1(last * log_scale) / scale
            of_last = np.float32(np.log1p(ratio * (total_all + plan.smoothing[POPULARITY])))
        x[c, column + 2] = of_last
        sparse = SPARSE_QUERY / (total_query + SPARSE_QUERY)
        x[c, column + 3] = sparse * x[c, plan.gram_column]
        sparse = SPARSE_USER / (total_query + SPARSE_USER)
        x[c, column + 4] = sparse * x[c, plan.user_column + 1]
        if known and days < FRESH_DAYS:
            x[c, column + 5] = x[c, plan.fresh_column]


@kernel
def _features(
    time: NDArray[np.int64],
    query: NDArray[np.int64],
    blocks: NDArray[np.uint8],
    block_start: NDArray[np.int64],
    key_block: NDArray[np.int64],
    key_level: NDArray[np.int64],
    key_offsets: NDArray[np.int64],
    histories: Histories,
    near: Near,
    candidates: NDArray[np.int64],
    created: NDArray[np.int64],
    offsets: NDArray[np.int64],
    plan: Plan,
    decode: NDArray[np.float32],
    x: NDArray[np.float32],
) -> None:
    for b in range(time.size):
        low, high = offsets[b], offsets[b + 1]
        mine, table = x[low:high], candidate_table(candidates[low:high])
        keys = slice(key_offsets[b], key_offsets[b + 1])
        total_all, total_query = add_levels(
            mine, table, blocks, block_start, key_block[keys], key_level[keys], plan, decode
        )
        _add_user(mine, table, histories, b, query[b], time[b], plan)
        _add_items(mine, created[low:high], time[b], total_all, total_query, plan)
        if plan.graph_column >= 0:
            _add_near(mine, table, near, b, plan)


def cross_features(
    schema: FeatureSchema,
    inputs: FeatureInputs,
    candidates: NDArray[np.int64],
    offsets: NDArray[np.int64],
    created: NDArray[np.int64],
    retriever_features: NDArray[np.float32] | None = None,
    anchors: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Cross features of every candidate.

    Args:
        schema: names the columns (``schema.cross``).
        inputs: rows and histories of B requests.
        candidates: int64 [N] item ids, distinct within a request; ``offsets`` int64 [B + 1].
        offsets: bounds of each request's candidates.
        created: int64 [N], when each candidate was created (microseconds), 0 if unknown.
        retriever_features: float32 [N, R], columns ``schema.given``, NaN where the caller gives
            nothing of a candidate; None if it gives nothing at all.
        anchors: float32 [B], ``anchor_ranks`` of the requests; those of ``candidates``, which then
            must be all of each request, where they are left out.

    Returns:
        float32 [N, X].

    Raises:
        RowError: a row is damaged or of another schema.
        HistoryError: a history is damaged.
        ValueError: the arrays of the candidates do not fit together.
    """
    check_inputs(schema, inputs)
    check_bounds("offsets", offsets, len(inputs.time), len(candidates))
    if len(created) != len(candidates):
        raise ValueError("created must have an entry for each of candidates")
    plan = Plan.of(schema)
    x = np.zeros((len(candidates), len(schema.cross)), np.float32)
    _features(
        inputs.time,
        inputs.query,
        inputs.blocks,
        inputs.block_start,
        inputs.key_block,
        inputs.key_level,
        inputs.key_offsets,
        inputs.histories,
        inputs.near,
        candidates,
        created,
        offsets,
        plan,
        DECODE,
        x,
    )
    if schema.graph:
        x[:, _cosine_columns(schema)] = cosines(inputs, candidates, offsets)
    if schema.given:
        if anchors is None:
            anchors = anchor_ranks(schema, inputs, candidates, offsets, retriever_features)
        first, anchor = (
            len(schema.cross) - len(schema.given_cross),
            anchors.repeat(np.diff(offsets)),
        )
        x[:, first:] = given_columns(schema, len(candidates), retriever_features, anchor)
    return x


def _cosine_columns(schema: FeatureSchema) -> range:
    """Columns of x that hold cosines, of a schema with a graph."""
    first = Plan.of(schema).graph_column + len(GRAPH_CROSS)
    return range(first, first + len(COSINE_CROSS))


@cache
def own_columns(schema: FeatureSchema) -> tuple[NDArray[np.int64], int]:
    """Columns of x that vary among candidates that stand in no row and no history of the request.

    Returns:
        int64 [V]: log1p of the age, age unknown, fresh, then cosines, then what is given; and the
        column whose value a fresh item's column repeats.
    """
    plan = Plan.of(schema)
    item, last = plan.item_column, len(schema.cross)
    alike = _cosine_columns(schema) if schema.graph else ()
    given = range(last - len(schema.given_cross), last)
    return np.array([item, item + 1, item + 5, *alike, *given]), plan.fresh_column
