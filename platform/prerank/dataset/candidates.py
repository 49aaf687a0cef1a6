"""Requests -> the arrays a model reads: as-of features joined, candidates chosen, x computed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.catalogue import Catalogue
from interactrank.features.engagement import cross_features
from interactrank.features.id_table import IdTable
from interactrank.features.inputs import MISSING_BLOCK, FeatureInputs, level_code
from interactrank.features.schema import HISTORY_TTL_DAYS, FeatureSchema
from interactrank.features.text import tokens
from prerank.core.home import Home
from prerank.dataset.negatives import sample_candidates
from prerank.dataset.requests import context_columns, distinct_searches
from prerank.features.asof import as_of, micros
from prerank.ingest.mapping import RETRIEVER

DAY_US = 86_400_000_000
HISTORY_COLUMNS = ("item_ids", "actions", "times", "queries")


def binary_blocks(rows: pa.ChunkedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Packed rows end to end: bytes, and offsets int64 [rows + 1]."""
    column = rows.cast(pa.large_binary()).combine_chunks()
    if not len(column):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = column.buffers()
    at = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8), at


def offline_inputs(home: Home, requests: pa.Table) -> FeatureInputs:
    """Features of past requests, joined as of each request's time from the feature tables.

    ``requests`` needs ``query``, ``user_id`` and ``request_time``, and ``context`` where the log
    has segments.
    """
    searches = distinct_searches(requests["query"], context_columns(requests))
    keys, search = searches.keys(), searches.code
    counts = np.array([len(k) for k in keys], np.int64)[search]
    flat = [k for s in search for k in keys[s]]
    of = np.repeat(np.arange(len(search)), counts)
    times = requests["request_time"].cast(pa.timestamp("us", tz="UTC")).combine_chunks()
    joined = as_of(
        home.features / "engagement",
        "engagement_key",
        pa.array(flat, pa.string()),
        times.take(pa.array(of)),
        ("row",),
    )
    blocks, at = binary_blocks(joined.values["row"])
    history = _histories(home, requests, times)
    return FeatureInputs(
        time=micros(requests["request_time"]),
        blocks=blocks,
        block_start=at[:-1],
        block_size=np.diff(at),
        key_block=joined.index,
        key_level=np.array([level_code(k) for k in flat], np.int64),
        key_offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))),
        hist_items=history["item_ids"],
        hist_actions=history["actions"],
        hist_times=history["times"],
        hist_queries=history["queries"],
        hist_offsets=history["offsets"],
        query=searches.query_codes(),
        tokens=np.array([len(tokens(q)) for q in searches.queries], np.int64)[search],
        segments=searches.segments(),
    )


def _histories(home: Home, requests: pa.Table, times: pa.Array) -> dict[str, NDArray[np.int64]]:
    joined = as_of(
        home.features / "user_history", "user_id", requests["user_id"], times, HISTORY_COLUMNS
    )
    index = joined.index
    if len(joined.values):
        stamp = micros(joined.values["event_timestamp"])[np.maximum(index, 0)]
        fresh = stamp >= micros(requests["request_time"]) - HISTORY_TTL_DAYS * DAY_US
        index = np.where(fresh, index, MISSING_BLOCK)
    chosen = pa.array(index, mask=index < 0)
    lists = {c: joined.values[c].combine_chunks().take(chosen) for c in HISTORY_COLUMNS}
    lengths = pc.fill_null(pc.list_value_length(lists["item_ids"]), 0).to_numpy()
    flat = {c: lists[c].flatten().to_numpy().astype(np.int64) for c in HISTORY_COLUMNS}
    return {**flat, "offsets": np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))}


@dataclass(frozen=True)
class Candidates:
    """Candidates of B requests: ``ids`` int64 [N] distinct within a request, ``offsets`` [B + 1].

    ``labels`` int64 [N] (bit h is head h), ``weights`` float32 [N]; ``log_q`` float32 [N], log
    probability of having been sampled; ``unreachable`` int64 [B] counts engaged items that are not
    among the candidates; ``retrieved`` float32 [N, R] is what the retriever said of each, or None.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    log_q: NDArray[np.float32]
    unreachable: NDArray[np.int64]
    retrieved: NDArray[np.float32] | None = None


def shown_candidates(requests: pa.Table) -> Candidates:
    """What each request showed (and what it engaged), as the log has it."""
    items = requests["items"].combine_chunks()
    lengths = pc.list_value_length(items).to_numpy()
    told = [
        requests[name].combine_chunks().flatten().to_numpy()
        for name in RETRIEVER
        if name in requests.column_names
    ]
    return Candidates(
        items.flatten().to_numpy(),
        np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
        requests["labels"].combine_chunks().flatten().to_numpy().astype(np.int64),
        requests["weights"].combine_chunks().flatten().to_numpy().astype(np.float32),
        np.zeros(int(lengths.sum()), np.float32),
        np.zeros(len(items), np.int64),
        np.stack(told, axis=1) if told else None,
    )


def _merged(requests: pa.Table, chosen: Sequence[NDArray[np.int64]]) -> Candidates:
    """Label the candidates ``chosen`` per request; engaged items outside are counted."""
    shown = shown_candidates(requests)
    ids, labels, weights, unreachable = [], [], [], []
    for b, candidates in enumerate(chosen):
        lo, hi = shown.offsets[b], shown.offsets[b + 1]
        own, own_labels = shown.ids[lo:hi], shown.labels[lo:hi]
        order = np.argsort(own)
        at = np.minimum(np.searchsorted(own, candidates, sorter=order), len(own) - 1)
        hit = own[order[at]] == candidates
        ids.append(candidates)
        labels.append(np.where(hit, own_labels[order[at]], 0))
        weights.append(np.where(hit, shown.weights[lo:hi][order[at]], 1.0))
        unreachable.append(int((own_labels > 0).sum() - (labels[-1] > 0).sum()))
    lengths = [len(c) for c in ids]
    return Candidates(
        np.concatenate(ids),
        np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
        np.concatenate(labels),
        np.concatenate(weights).astype(np.float32),
        np.zeros(int(sum(lengths)), np.float32),
        np.array(unreachable, np.int64),
    )


def catalogue_candidates(requests: pa.Table, ids: NDArray[np.int64]) -> Candidates:
    """The whole catalogue for each request: how a log without impressions is evaluated."""
    return _merged(requests, [ids] * requests.num_rows)


def sampled_candidates(requests: pa.Table, inputs: FeatureInputs, table: IdTable) -> Candidates:
    """Engaged items plus stratified negatives (:mod:`prerank.dataset.negatives`).

    Seeded by the request id, so that a rebuilt training set is the same.
    """
    shown = shown_candidates(requests)
    seeds = np.array([zlib.crc32(r.encode()) for r in requests["request_id"].to_pylist()], np.int64)
    ids, log_q, offsets = sample_candidates(inputs, seeds, shown.ids, shown.offsets, table)
    labelled = _merged(requests, np.split(ids, offsets[1:-1]))
    return replace(labelled, log_q=log_q)


def request_arrays(
    schema: FeatureSchema,
    queries: list[str],
    inputs: FeatureInputs,
    candidates: Candidates,
    catalogue: Catalogue,
    table: IdTable,
) -> RequestArrays:
    """Compute x and the request statistics, and put the arrays of B requests together."""
    rows = table.rows(candidates.ids)
    created = np.where(rows >= 0, catalogue.created[np.maximum(rows, 0)], 0)
    return RequestArrays.of(
        schema,
        queries,
        inputs,
        candidates=candidates.ids,
        offsets=candidates.offsets,
        x=cross_features(
            schema, inputs, candidates.ids, candidates.offsets, created, candidates.retrieved
        ),
        labels=candidates.labels,
        weights=candidates.weights,
        log_q=candidates.log_q,
    )
