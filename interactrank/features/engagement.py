"""Cross features of (user, query, item): packed rows and history in, x [candidates, X] out.

The one function that training, batch evaluation and serving call (:func:`cross_features`), so
that a feature cannot mean two things. It reads packed rows in place and probes a hash table of the
request's candidates once a row entry: the work is O(row entries + candidates), and no
candidate-by-key product is formed.

IQP (paper, cross features): IQP_{a,w}(q, p) = C_a(p, q; w) / C_a(q; w). A raw ratio near 1e-5 is
invisible beside a cosine, and a ratio over one click is no evidence, hence per key and column
    L = log1p(S C(p) / (C + alpha)) / log1p(S),
and over the keys of a level (tokens, sub-words) the mean of L weighted by rarity,
    w_k = max(1 - log(1 + C_k) / log(2 + C_all), 0.05), over the keys that have a row.
A linear g cannot shift weight from counts to back-off as a query gets sparser, so two columns carry
that product, n / (C_q + n) times the feature.
Items absent from a truncated row count as its residual, truncated mass / (distinct - K).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from interactrank.features.id_table import fill, find, table_bits
from interactrank.features.inputs import HOUR_US, LEVEL_CODE, FeatureInputs, check_rows
from interactrank.features.packed_rows import DECODE, mass_column
from interactrank.features.schema import (
    HISTORY_LENGTH,
    LEVELS,
    USER_CROSS,
    FeatureSchema,
)

SCALE, SMOOTHING = 1e3, 1.0
"""S and alpha of an ordinary level."""
SCALE_ALL, SMOOTHING_ALL = 1e5, 100.0
"""S and alpha of the popularity row, whose ratios are smaller and whose smoothing is large."""
SPARSE_QUERY, SPARSE_USER = 10.0, 3.0
"""Engagements of the exact query at which back-off, or the user's recency, halves its say."""
FRESH_DAYS = 30.0
"""Younger items count as fresh; their say needs no long record to be believed."""

_POPULARITY, _QUERY = LEVEL_CODE["a"], LEVEL_CODE["q"]


@dataclass(frozen=True)
class _Plan:
    """A schema's levels as flat arrays for the kernels. ``touch_column``: by action code, or -1."""

    first_column: NDArray[np.int64]
    columns: NDArray[np.int64]
    mass: NDArray[np.int64]
    scale: NDArray[np.float64]
    smoothing: NDArray[np.float64]
    user_column: int
    touch_column: NDArray[np.int64]
    item_column: int
    gram_column: int
    fresh_column: int

    @classmethod
    def of(cls, schema: FeatureSchema) -> _Plan:
        widths = np.array([len(schema.columns(lv)) for lv in LEVELS])
        popular = np.array([lv.prefix == "a" for lv in LEVELS])
        user, touch = int(widths.sum()), schema.touch_actions
        own = user + len(USER_CROSS)
        return cls(
            first_column=np.cumsum(widths) - widths,
            columns=widths,
            mass=np.array([mass_column(lv) for lv in LEVELS]),
            scale=np.where(popular, SCALE_ALL, SCALE),
            smoothing=np.where(popular, SMOOTHING_ALL, SMOOTHING),
            user_column=user,
            touch_column=np.array(
                [own + touch.index(a) if a in touch else -1 for a in schema.actions], np.int64
            ),
            item_column=own + len(touch),
            gram_column=int(np.cumsum(widths)[LEVEL_CODE["g"]]) - 1,
            fresh_column=schema.columns(LEVELS[_QUERY]).index("engage:30d"),
        )


@nb.njit(inline="always", cache=True)
def _scaled(ratio: float, scale: float) -> float:
    return np.log1p(scale * ratio) / np.log1p(scale)


@nb.njit(cache=True, nogil=True)
def _add_level(
    x: NDArray[np.float32],
    column: int,
    ids: NDArray[np.int64],
    slots: NDArray[np.int32],
    shift: int,
    row: NDArray[np.uint8],
    f: int,
    weight: float,
    scale: float,
    smoothing: float,
    decode: NDArray[np.float32],
) -> None:
    """Add weight * L of one row to x[:, column : column + f]."""
    head = row[:16].view(np.uint32)
    n, distinct = np.int64(head[1]), np.int64(head[3])
    totals = row[16 : 16 + 4 * f].view(np.float32)
    truncated = row[16 + 4 * f : 16 + 8 * f].view(np.float32)
    items = row[16 + 8 * f : 16 + 8 * f + 8 * n].view(np.int64)
    codes = row[16 + 8 * f + 8 * n : 16 + 8 * f + 8 * n + 2 * n * f].view(np.uint16)
    base = np.zeros(f, np.float64)
    if distinct > n:
        for j in range(f):
            residual = truncated[j] / (distinct - n)
            base[j] = _scaled(residual / (totals[j] + smoothing), scale)
            x[:, column + j] += np.float32(weight * base[j])
    for i in range(n):
        at = find(items[i], ids, slots, shift)
        if at >= 0:
            for j in range(f):
                code = codes[i * f + j]
                if code or base[j] > 0:
                    value = _scaled(decode[code] / (totals[j] + smoothing), scale)
                    x[at, column + j] += np.float32(weight * (value - base[j]))


@nb.njit(cache=True, nogil=True)
def _add_user(
    x: NDArray[np.float32],
    column: int,
    ids: NDArray[np.int64],
    slots: NDArray[np.int32],
    shift: int,
    items: NDArray[np.int64],
    actions: NDArray[np.int64],
    times: NDArray[np.int64],
    queries: NDArray[np.int64],
    query: int,
    now: int,
    touch_column: NDArray[np.int64],
) -> None:
    """User x item features of the history (oldest first) into x[:, column : column + 7], and
    which action touched an item into x[:, touch_column[action]].
    """
    for e in range(items.size - 1, max(items.size - 1 - HISTORY_LENGTH, -1), -1):
        at = find(items[e], ids, slots, shift)
        if at < 0:
            continue
        if x[at, column] == 0.0:
            hours = (now - times[e]) / HOUR_US
            x[at, column] = 1.0
            x[at, column + 1] = 1.0 / (items.size - e)
            x[at, column + 2] = np.exp(-hours)
            x[at, column + 3] = np.exp(-hours / 24.0)
            x[at, column + 4] = np.exp(-hours / 720.0)
        if touch_column[actions[e]] >= 0:
            x[at, touch_column[actions[e]]] = 1.0
        count = np.expm1(x[at, column + 5]) + 1.0
        x[at, column + 5] = np.log1p(count)
        if query and queries[e] == query:
            x[at, column + 6] = 1.0


@nb.njit(cache=True, nogil=True)
def _features(  # type: ignore[no-untyped-def]
    time,
    query,
    blocks,
    block_start,
    block_size,
    key_block,
    key_level,
    key_offsets,
    hist_items,
    hist_actions,
    hist_times,
    hist_queries,
    hist_offsets,
    candidates,
    created,
    offsets,
    first_column,
    columns,
    mass,
    scale,
    smoothing,
    user_column,
    touch_column,
    item_column,
    gram_column,
    fresh_column,
    decode,
    x,
):
    for b in range(time.size):
        lo, hi = offsets[b], offsets[b + 1]
        ids, mine = candidates[lo:hi], x[lo:hi]
        bits = table_bits(max(ids.size, 1))
        slots, shift = np.full(1 << bits, -1, np.int32), 64 - bits
        fill(ids, slots, shift)
        keys = np.arange(key_offsets[b], key_offsets[b + 1])
        total_all, total_query = 0.0, 0.0
        for k in keys:
            if key_block[k] >= 0 and (key_level[k] == _POPULARITY or key_level[k] == _QUERY):
                at = block_start[key_block[k]] + 16 + 4 * mass[key_level[k]]
                total = blocks[at : at + 4].view(np.float32)[0]
                if key_level[k] == _POPULARITY:
                    total_all = total
                else:
                    total_query = total
        log_all = np.log(2.0 + total_all)
        weights = np.zeros(keys.size)
        level_weight = np.zeros(columns.size)
        for i, k in enumerate(keys):
            level, block = key_level[k], key_block[k]
            if block >= 0:
                at = block_start[block] + 16 + 4 * mass[level]
                total = blocks[at : at + 4].view(np.float32)[0]
                weights[i] = max(1.0 - np.log(1.0 + total) / log_all, 0.05)
                level_weight[level] += weights[i]
        for i, k in enumerate(keys):
            level, block = key_level[k], key_block[k]
            if block >= 0:
                row = blocks[block_start[block] : block_start[block] + block_size[block]]
                share = weights[i] / level_weight[level]
                _add_level(
                    mine,
                    first_column[level],
                    ids,
                    slots,
                    shift,
                    row,
                    columns[level],
                    share,
                    scale[level],
                    smoothing[level],
                    decode,
                )
        h0, h1 = hist_offsets[b], hist_offsets[b + 1]
        _add_user(
            mine,
            user_column,
            ids,
            slots,
            shift,
            hist_items[h0:h1],
            hist_actions[h0:h1],
            hist_times[h0:h1],
            hist_queries[h0:h1],
            query[b],
            time[b],
            touch_column,
        )
        for c in range(ids.size):
            born = created[lo + c]
            known = 0 < born <= time[b]
            days = (time[b] - born) / (24.0 * HOUR_US) if known else 0.0
            mine[c, item_column] = np.log1p(days)
            mine[c, item_column + 1] = 0.0 if known else 1.0
            scaled = mine[c, first_column[_POPULARITY] + mass[_POPULARITY]]
            ratio = np.expm1(scaled * np.log1p(scale[_POPULARITY])) / scale[_POPULARITY]
            mine[c, item_column + 2] = np.log1p(ratio * (total_all + smoothing[_POPULARITY]))
            sparse = SPARSE_QUERY / (total_query + SPARSE_QUERY)
            mine[c, item_column + 3] = sparse * mine[c, gram_column]
            sparse = SPARSE_USER / (total_query + SPARSE_USER)
            mine[c, item_column + 4] = sparse * mine[c, user_column + 1]
            if known and days < FRESH_DAYS:
                mine[c, item_column + 5] = mine[c, fresh_column]


def cross_features(
    schema: FeatureSchema,
    inputs: FeatureInputs,
    candidates: NDArray[np.int64],
    offsets: NDArray[np.int64],
    created: NDArray[np.int64],
    retriever_features: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Cross features of every candidate.

    Args:
        schema: names the columns (``schema.cross``).
        inputs: rows and histories of B requests.
        candidates: int64 [N] item ids, distinct within a request; ``offsets`` int64 [B + 1].
        offsets: bounds of each request's candidates.
        created: int64 [N], when each candidate was created (microseconds), 0 if unknown.
        retriever_features: float32 [N, R], columns ``schema.retriever``, NaN where the retriever
            gives nothing for a candidate; None if it gives nothing at all.

    Returns:
        float32 [N, X].

    Raises:
        RowError: a row is damaged or of another schema.
    """
    check_rows(schema, inputs)
    plan = _Plan.of(schema)
    x = np.zeros((len(candidates), len(schema.cross)), np.float32)
    _features(
        inputs.time,
        inputs.query,
        inputs.blocks,
        inputs.block_start,
        inputs.block_size,
        inputs.key_block,
        inputs.key_level,
        inputs.key_offsets,
        inputs.hist_items,
        inputs.hist_actions,
        inputs.hist_times,
        inputs.hist_queries,
        inputs.hist_offsets,
        candidates,
        created,
        offsets,
        plan.first_column,
        plan.columns,
        plan.mass,
        plan.scale,
        plan.smoothing,
        plan.user_column,
        plan.touch_column,
        plan.item_column,
        plan.gram_column,
        plan.fresh_column,
        DECODE,
        x,
    )
    if schema.retriever:
        _add_retriever(schema, x, retriever_features)
    return x


def _add_retriever(
    schema: FeatureSchema, x: NDArray[np.float32], retriever_features: NDArray[np.float32] | None
) -> None:
    """Set the last columns of x: the retriever's values (0 if missing), and where all are."""
    width = len(schema.retriever)
    x[:, -1] = 1.0
    if retriever_features is None:
        return
    for column, name in enumerate(schema.retriever):
        values = np.nan_to_num(retriever_features[:, column], nan=0.0)
        x[:, column - width - 1] = np.log1p(values) if name == "rank" else values
    x[:, -1] = np.isnan(retriever_features).all(axis=1)
