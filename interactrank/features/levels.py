"""Level features: packed rows in, each candidate's share of the keys' engagement out.

IQP (paper, cross features): IQP_{a,w}(q, p) = C_a(p, q; w) / C_a(q; w). A raw ratio near 1e-5 is
invisible beside a cosine, and a ratio over one click is no evidence, hence per key and column
    L = log1p(S C(p) / (C + alpha)) / log1p(S),
and over the keys of a level (tokens, sub-words) the mean of L weighted by rarity,
    w_k = max(1 - log(1 + C_k) / log(2 + C_all), 0.05), over the keys that have a row.
Items absent from a truncated row count as its residual, truncated mass / (distinct - K).

A row is read in place and probes a hash table of the request's candidates once per entry: the work
is O(row entries + candidates), and no candidate-by-key product is formed.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interactrank.features.id_table import empty_slots, fill, find, table_bits
from interactrank.features.packed_rows import (
    mass_column,
    row_codes,
    row_distinct,
    row_ids,
    row_shape,
    row_total,
    row_totals,
    row_truncated,
)
from interactrank.features.schema import LEVELS, USER_CROSS, FeatureSchema
from interactrank.features.searches import LEVEL_CODE
from interactrank.kernels import kernel

SCALE, SMOOTHING = 1e3, 1.0
"""S and alpha of an ordinary level."""
SCALE_ALL, SMOOTHING_ALL = 1e5, 100.0
"""S and alpha of the popularity row, whose ratios are smaller and whose smoothing is large."""
KEPT = 256
"""Counts of a column whose logarithm is kept."""
POPULARITY, QUERY = LEVEL_CODE["a"], LEVEL_CODE["q"]


class Plan(NamedTuple):
    """A schema's levels as flat arrays for the kernels. ``touch_column``: by action code, or -1."""

    first_column: NDArray[np.int64]
    mass: NDArray[np.int64]
    scale: NDArray[np.float64]
    smoothing: NDArray[np.float64]
    user_column: int
    touch_column: NDArray[np.int64]
    item_column: int
    gram_column: int
    fresh_column: int

    @classmethod
    @cache
    def of(cls, schema: FeatureSchema) -> Plan:
        """Where x has what, and how each level is scaled."""
        widths = np.array([len(schema.columns(lv)) for lv in LEVELS])
        popular = np.array([lv.prefix == "a" for lv in LEVELS])
        user, touch = int(widths.sum()), schema.touch_actions
        own = user + len(USER_CROSS)
        return cls(
            first_column=np.cumsum(widths) - widths,
            mass=np.array([mass_column(lv) for lv in LEVELS]),
            scale=np.where(popular, SCALE_ALL, SCALE),
            smoothing=np.where(popular, SMOOTHING_ALL, SMOOTHING),
            user_column=user,
            touch_column=np.array(
                [own + touch.index(a) if a in touch else -1 for a in schema.actions], np.int64
            ),
            item_column=own + len(touch),
            gram_column=int(np.cumsum(widths)[LEVEL_CODE["g"]]) - 1,
            fresh_column=schema.columns(LEVELS[QUERY]).index("engage:30d"),
        )


class CandidateTable(NamedTuple):
    """Hash table of a request's candidates: item id to position."""

    slots: NDArray[np.int64]
    shift: int


@kernel
def candidate_table(ids: NDArray[np.int64]) -> CandidateTable:
    """Table of distinct ``ids`` [n]."""
    bits = table_bits(max(ids.size, 1))
    slots, shift = empty_slots(bits), 64 - bits
    fill(ids, slots, shift)
    return CandidateTable(slots, shift)


@kernel
def _add_row(
    x: NDArray[np.float32],
    column: int,
    table: CandidateTable,
    row: NDArray[np.uint8],
    weight: float,
    scale: float,
    smoothing: float,
    decode: NDArray[np.float32],
) -> None:
    """Add weight * L of one row to x[:, column : column + F]."""
    n, f = row_shape(row)
    distinct, totals, truncated = row_distinct(row), row_totals(row), row_truncated(row)
    items, codes = row_ids(row), row_codes(row)
    base, log_scale = np.zeros(f, np.float64), np.log1p(scale)
    if distinct > n:
        for j in range(f):
            residual = truncated[j] / (distinct - n)
            base[j] = np.log1p(scale * (residual / (totals[j] + smoothing))) / log_scale
            x[:, column + j] += np.float32(weight * base[j])
    # Most counts of a column are small and come again, and a logarithm costs more than all else.
    last, added = np.zeros((f, KEPT), np.int32), np.zeros((f, KEPT), np.float32)
    for j in range(f):
        added[j, 0] = np.float32(weight * (0.0 - base[j]))
    for i in range(n):
        at = find(items[i], table.slots, table.shift)
        if at >= 0:
            for j in range(f):
                code = codes[i * f + j]
                place = code % KEPT
                if last[j, place] != code:
                    share = decode[code] / (totals[j] + smoothing)
                    value = np.log1p(scale * share) / log_scale
                    last[j, place], added[j, place] = code, np.float32(weight * (value - base[j]))
                x[at, column + j] += added[j, place]


# Inlined into its one caller: as a function of its own it cost 7 % of a request's features.
@kernel(inline="always")
def add_levels(
    x: NDArray[np.float32],
    table: CandidateTable,
    blocks: NDArray[np.uint8],
    block_start: NDArray[np.int64],
    key_block: NDArray[np.int64],
    key_level: NDArray[np.int64],
    plan: Plan,
    decode: NDArray[np.float32],
) -> tuple[float, float]:
    """Add the rows of a request's keys [k] to the levels' columns of x [n, X].

    Returns:
        C of all queries, and C of the exact query; 0 where there is no row.
    """
    totals, weights = np.zeros(key_block.size), np.zeros(key_block.size)
    level_weight = np.zeros(plan.mass.size)
    total_all, total_query = 0.0, 0.0
    for k in range(key_block.size):
        if key_block[k] >= 0:
            start, level = block_start[key_block[k]], key_level[k]
            totals[k] = row_total(blocks, start, plan.mass[level])
            if level == POPULARITY:
                total_all = totals[k]
            elif level == QUERY:
                total_query = totals[k]
    log_all = np.log(2.0 + total_all)
    for k in range(key_block.size):
        if key_block[k] >= 0:
            weights[k] = max(1.0 - np.log(1.0 + totals[k]) / log_all, 0.05)
            level_weight[key_level[k]] += weights[k]
    for k in range(key_block.size):
        if key_block[k] >= 0:
            level = key_level[k]
            _add_row(
                x,
                plan.first_column[level],
                table,
                blocks[block_start[key_block[k]] :],
                weights[k] / level_weight[level],
                plan.scale[level],
                plan.smoothing[level],
                decode,
            )
    return total_all, total_query
