"""Level features: packed rows in, each candidate's share of the keys' engagement out.

IQP (paper, cross features): IQP_{a,w}(q, p) = C_a(p, q; w) / C_a(q; w). A raw ratio near 1e-5 is
invisible beside a cosine, and a ratio over one click is no evidence, hence per key and column
    L = log1p(S C(p) / (C + alpha)) / log1p(S),
and over the keys of a level (tokens, sub-words) the mean of L weighted by rarity,
    w_k = max(1 - log(1 + C_k) / log(2 + C_all), 0.05), over the keys that have a row.
Items absent from a truncated row count as its residual, truncated mass / (distinct - K).

Exposure: of the items that requests showed, C were engaged where E were expected by their positions
alone (clicks over expected clicks, Zhang and Jones 2007). With rho_a = C_a / E_a of all queries and
rho_k = (C_k + kappa rho_a) / (E_k + kappa) of a key,
    CoEC = log((C(p) + kappa rho_k) / (E(p) + kappa)) - log(rho_k),
and the mean over the keys of a level is weighted as above. CTR is the same with N, how often items
were shown, in the place of E. An item that was never shown has 0: it is as good as the others. So
has an item that was cut off a row, of which nothing is known.

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
EVIDENCE = 5.0
"""kappa: expected engagements at which an item's own ratio counts as much as its key's."""
POPULARITY, QUERY = LEVEL_CODE["a"], LEVEL_CODE["q"]


class Plan(NamedTuple):
    """A schema's levels as flat arrays for the kernels. ``touch_column``: by action code, or -1.

    ``shares``: columns of a row that x has shares of; its exposure begins behind them, in
    ``exposed`` windows, and with what was shown in all where it is ``rated``.
    ``may_lack_engagement``: levels of several keys that may have a row of exposure alone.
    """

    first_column: NDArray[np.int64]
    shares: NDArray[np.int64]
    exposed: NDArray[np.int64]
    rated: NDArray[np.int64]
    exposure_column: NDArray[np.int64]
    may_lack_engagement: NDArray[np.bool_]
    mass: NDArray[np.int64]
    scale: NDArray[np.float64]
    smoothing: NDArray[np.float64]
    user_column: int
    touch_column: NDArray[np.int64]
    item_column: int
    gram_column: int
    fresh_column: int
    graph_column: int

    @classmethod
    @cache
    def of(cls, schema: FeatureSchema) -> Plan:
        """Where x has what, and how each level is scaled."""
        widths = np.array([len(schema.shares(lv)) for lv in LEVELS])
        exposed = np.array([len(lv.exposed) * schema.exposure for lv in LEVELS])
        rated = np.array([int(lv.rated and schema.exposure) for lv in LEVELS])
        behind = len(schema.cross) - len(schema.given_cross) - len(schema.exposure_cross)
        popular = np.array([lv.prefix == "a" for lv in LEVELS])
        user, touch = int(widths.sum()), schema.touch_actions
        own = user + len(USER_CROSS)
        return cls(
            first_column=np.cumsum(widths) - widths,
            shares=widths,
            exposed=exposed,
            rated=rated,
            exposure_column=behind + np.cumsum(exposed + rated) - (exposed + rated),
            may_lack_engagement=(exposed > 0) & np.array([lv.max_keys > 1 for lv in LEVELS]),
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
            graph_column=behind - len(schema.graph_cross) if schema.graph else -1,
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
    shares: int,
    table: CandidateTable,
    row: NDArray[np.uint8],
    weight: float,
    scale: float,
    smoothing: float,
    decode: NDArray[np.float32],
) -> None:
    """Add weight * L of one row to x[:, column : column + shares]."""
    n, f = row_shape(row)
    distinct, totals, truncated = row_distinct(row), row_totals(row), row_truncated(row)
    items, codes = row_ids(row), row_codes(row)
    base, log_scale = np.zeros(shares, np.float64), np.log1p(scale)
    if distinct > n:
        for j in range(shares):
            residual = truncated[j] / (distinct - n)
            base[j] = np.log1p(scale * (residual / (totals[j] + smoothing))) / log_scale
            x[:, column + j] += np.float32(weight * base[j])
    # Most counts of a column are small and come again, and a logarithm costs more than all else.
    last, added = np.zeros((shares, KEPT), np.int32), np.zeros((shares, KEPT), np.float32)
    for j in range(shares):
        added[j, 0] = np.float32(weight * (0.0 - base[j]))
    for i in range(n):
        at = find(items[i], table.slots, table.shift)
        if at >= 0:
            for j in range(shares):
                code = codes[i * f + j]
                place = code % KEPT
                if last[j, place] != code:
                    share = decode[code] / (totals[j] + smoothing)
                    value = np.log1p(scale * share) / log_scale
                    last[j, place], added[j, place] = code, np.float32(weight * (value - base[j]))
                x[at, column + j] += added[j, place]


@kernel
def _rates(totals: NDArray[np.float32], first: int, windows: int) -> NDArray[np.float64]:
    """Engaged over expected by window, and over shown, of the row of all queries; 0 for unknown."""
    rates = np.zeros(windows + 1)
    for w in range(windows + 1):
        exposed = totals[first + w] if w < windows else totals[first + 2 * windows]
        if exposed > 0:
            rates[w] = totals[first + windows + min(w, windows - 1)] / exposed
    return rates


@kernel
def _add_exposure(
    x: NDArray[np.float32],
    column: int,
    table: CandidateTable,
    row: NDArray[np.uint8],
    first: int,
    windows: int,
    rated: int,
    weight: float,
    rates: NDArray[np.float64],
    decode: NDArray[np.float32],
) -> None:
    """Add weight * CoEC of one row by window, and weight * CTR where it is rated.

    They go to x from ``column`` on. The row's exposure begins at its own column ``first``.
    """
    n, f = row_shape(row)
    totals, items, codes = row_totals(row), row_ids(row), row_codes(row)
    engaged, exposed = np.empty(windows + rated, np.int64), np.empty(windows + rated, np.int64)
    rate, log_rate = np.zeros(windows + rated), np.zeros(windows + rated)
    for w in range(windows + rated):
        engaged[w] = first + windows + min(w, windows - 1)
        exposed[w] = first + w if w < windows else first + 2 * windows
        of_all = rates[w] if w < windows else rates[-1]
        if of_all > 0:
            own = EVIDENCE * of_all + totals[engaged[w]]
            rate[w] = own / (totals[exposed[w]] + EVIDENCE)
            log_rate[w] = np.log(rate[w])
    for i in range(n):
        at = find(items[i], table.slots, table.shift)
        if at >= 0:
            for w in range(windows + rated):
                clicks, shown = codes[i * f + engaged[w]], codes[i * f + exposed[w]]
                if rate[w] > 0 and (clicks > 0 or shown > 0):
                    own = (decode[clicks] + EVIDENCE * rate[w]) / (decode[shown] + EVIDENCE)
                    x[at, column + w] += np.float32(weight * (np.log(own) - log_rate[w]))


@kernel(inline="always")
def _is_exposed(blocks: NDArray[np.uint8], start: int, plan: Plan, level: int) -> bool:
    """Whether the row that begins at ``start`` counts exposure in its longest window."""
    windows = plan.exposed[level]
    last = plan.shares[level] + windows - 1
    return windows > 0 and row_total(blocks, start, last) > 0


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
    level_weight, exposed_weight = np.zeros(plan.mass.size), np.zeros(plan.mass.size)
    rates = np.zeros(plan.exposed[POPULARITY] + 1)
    total_all, total_query = 0.0, 0.0
    for k in range(key_block.size):
        if key_block[k] >= 0:
            start, level = block_start[key_block[k]], key_level[k]
            totals[k] = row_total(blocks, start, plan.mass[level])
            if level == POPULARITY:
                total_all = totals[k]
                if plan.exposed[level]:
                    of_row = row_totals(blocks[start:])
                    rates = _rates(of_row, plan.shares[level], plan.exposed[level])
            elif level == QUERY:
                total_query = totals[k]
    log_all = np.log(2.0 + total_all)
    for k in range(key_block.size):
        if key_block[k] >= 0:
            level, start = key_level[k], block_start[key_block[k]]
            weights[k] = max(1.0 - np.log(1.0 + totals[k]) / log_all, 0.05)
            # Under a key that only exposure has a row of, nothing was engaged: as without a row.
            if totals[k] > 0 or not plan.may_lack_engagement[level]:
                level_weight[level] += weights[k]
            if _is_exposed(blocks, start, plan, level):
                exposed_weight[level] += weights[k]
    for k in range(key_block.size):
        if key_block[k] >= 0:
            level, start = key_level[k], block_start[key_block[k]]
            if totals[k] > 0 or not plan.may_lack_engagement[level]:
                _add_row(
                    x,
                    plan.first_column[level],
                    plan.shares[level],
                    table,
                    blocks[start:],
                    weights[k] / level_weight[level],
                    plan.scale[level],
                    plan.smoothing[level],
                    decode,
                )
            if _is_exposed(blocks, start, plan, level):
                _add_exposure(
                    x,
                    plan.exposure_column[level],
                    table,
                    blocks[start:],
                    plan.shares[level],
                    plan.exposed[level],
                    plan.rated[level],
                    weights[k] / exposed_weight[level],
                    rates,
                    decode,
                )
    return total_all, total_query
