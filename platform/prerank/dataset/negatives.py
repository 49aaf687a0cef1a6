"""Sampled candidates for logs without impressions: whom a request's positives are trained against.

Evaluation ranks the whole catalogue, so training must too, in expectation. Three strata:
    hard   the items that the request's own rows and history speak for most, taken for certain
    near   uniform from the other items of those rows and that history
    far    uniform from the rest of the catalogue
Each candidate carries log Q, the log probability of having been drawn from its stratum; the
listwise loss takes it off the logit, which makes the sampled softmax's expectation that of the
full one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.bounds import check_bounds
from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs, check_inputs
from interactrank.features.packed_rows import DECODE, row_codes, row_ids, row_shape, row_totals
from interactrank.features.schema import FeatureSchema
from interactrank.kernels import kernel

HARD, NEAR, FAR = 32, 16, 32


@kernel
def _draw(pool: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Move ``n`` uniform draws without replacement to the front of ``pool`` and return them."""
    n = min(n, pool.size)
    for i in range(n):
        j = np.random.randint(i, pool.size)
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:n]


@kernel
def _sample(  # type: ignore[no-untyped-def]
    seeds,
    blocks,
    block_start,
    key_block,
    key_offsets,
    hist_rows,
    hist_offsets,
    row_ids,
    row_at,
    positives,
    positive_offsets,
    n_items,
    decode,
    out_rows,
    out_log_q,
    out_offsets,
):
    score = np.zeros(n_items)
    state = np.zeros(n_items, np.int8)
    touched = np.empty(n_items, np.int64)
    everything = np.arange(n_items)
    used = 0
    for b in range(seeds.size):
        np.random.seed(seeds[b])
        n = 0
        for k in range(key_offsets[b], key_offsets[b + 1]):
            block = key_block[k]
            if block < 0:
                continue
            row = blocks[block_start[block] :]
            size, f = row_shape(row)
            totals, codes = row_totals(row), row_codes(row)
            widest = 0
            for j in range(f):
                if totals[j] > totals[widest]:
                    widest = j
            for i in range(size):
                item = row_at[row_ids[block] + i]
                if item < 0:
                    continue
                if score[item] == 0.0:
                    touched[n] = item
                    n += 1
                score[item] += 1e-9 + decode[codes[i * f + widest]] / (totals[widest] + 1.0)
        for h in range(hist_offsets[b], hist_offsets[b + 1]):
            item = hist_rows[h]
            if item >= 0:
                if score[item] == 0.0:
                    touched[n] = item
                    n += 1
                score[item] += 0.5 / (hist_offsets[b + 1] - h)
        start = used
        for p in range(positive_offsets[b], positive_offsets[b + 1]):
            item = positives[p]
            if item >= 0 and state[item] == 0:
                state[item] = 2
                out_rows[used], out_log_q[used] = item, 0.0
                used += 1
        mine = touched[:n]
        order = np.argsort(-score[mine], kind="mergesort")
        hard = 0
        for i in order:
            if hard < HARD and state[mine[i]] == 0:
                state[mine[i]] = 2
                out_rows[used], out_log_q[used] = mine[i], 0.0
                used += 1
                hard += 1
        near = mine[state[mine] == 0].copy()
        state[near] = 1
        size = near.size
        for item in _draw(near, NEAR):
            out_rows[used], out_log_q[used] = item, np.log(min(NEAR, size) / size)
            used += 1
        far = everything[state == 0]
        size = far.size
        for item in _draw(far, FAR):
            out_rows[used], out_log_q[used] = item, np.log(min(FAR, size) / size)
            used += 1
        out_offsets[b + 1] = used
        for i in range(start, used):
            state[out_rows[i]] = 0
        for i in range(n):
            score[touched[i]] = 0.0
            state[touched[i]] = 0
    return used


def sample_candidates(
    schema: FeatureSchema,
    inputs: FeatureInputs,
    seeds: NDArray[np.int64],
    positives: NDArray[np.int64],
    positive_offsets: NDArray[np.int64],
    table: IdTable,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Candidates of B requests, positives first.

    Args:
        schema: of the rows and histories.
        inputs: rows and histories of the requests.
        seeds: int64 [B] >= 0; one request's draw depends on its own seed alone.
        positives: engaged item ids, int64 [P].
        positive_offsets: int64 [B + 1].
        table: the catalogue's ids.

    Returns:
        ids int64 [N], log Q float32 [N], offsets int64 [B + 1].

    Raises:
        ValueError: of ``check_inputs``, or of positives that are not of B requests.
    """
    check_inputs(schema, inputs)
    check_bounds("positive_offsets", positive_offsets, len(inputs.time), len(positives))
    if len(seeds) != len(inputs.time):
        raise ValueError("seeds must have an entry for each request")
    row_items = [row_ids(inputs.blocks[start:]) for start in inputs.block_start]
    lengths = np.array([len(r) for r in row_items], np.int64)
    flat = np.concatenate(row_items) if row_items else np.zeros(0, np.int64)
    most = len(seeds) * (HARD + NEAR + FAR) + len(positives)
    rows, log_q = np.empty(most, np.int64), np.empty(most, np.float32)
    offsets = np.zeros(len(seeds) + 1, np.int64)
    used = _sample(
        seeds,
        inputs.blocks,
        inputs.block_start,
        inputs.key_block,
        inputs.key_offsets,
        table.rows(inputs.hist_items),
        inputs.hist_offsets,
        np.cumsum(lengths) - lengths,
        table.rows(flat),
        table.rows(positives),
        positive_offsets,
        len(table),
        DECODE,
        rows,
        log_q,
        offsets,
    )
    return table.ids[rows[:used]], log_q[:used].copy(), offsets
