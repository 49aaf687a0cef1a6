"""Requests -> the arrays a model reads: as-of features joined, candidates chosen, x computed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import CANDIDATE_PREFIX, FeatureSchema
from prerank.core.manifest import FULL_RANKER, RETRIEVER
from prerank.dataset.negatives import sample_candidates


@dataclass(frozen=True)
class Candidates:
    """Candidates of B requests: ``ids`` int64 [N] distinct within a request, ``offsets`` [B + 1].

    ``labels`` int64 [N] (bit h is head h), ``weights`` float32 [N]; ``log_q`` float32 [N], log
    probability of having been sampled; ``unreachable`` int64 [B] counts engaged items that are not
    among the candidates; ``retriever_features`` float32 [N, R] is what the caller gave of each
    (``FeatureSchema.given``), or None; ``teacher`` float32 [N] a full ranker's scores, NaN where it
    has none, or [0] where the log has none.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    log_q: NDArray[np.float32]
    unreachable: NDArray[np.int64]
    retriever_features: NDArray[np.float32] | None = None
    teacher: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))


def shown_candidates(requests: pa.Table) -> Candidates:
    """What each request showed (and what it engaged), as the log has it."""
    items = requests["items"].combine_chunks()
    lengths = pc.list_value_length(items).to_numpy()
    told = [
        requests[name].combine_chunks().flatten().to_numpy()
        for name in requests.column_names
        if name in RETRIEVER or name.startswith(CANDIDATE_PREFIX)
    ]
    teacher = np.zeros(0, np.float32)
    if FULL_RANKER in requests.column_names:
        teacher = requests[FULL_RANKER].combine_chunks().flatten().to_numpy()
    return Candidates(
        items.flatten().to_numpy(),
        np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
        requests["labels"].combine_chunks().flatten().to_numpy().astype(np.int64),
        requests["weights"].combine_chunks().flatten().to_numpy().astype(np.float32),
        np.zeros(int(lengths.sum()), np.float32),
        np.zeros(len(items), np.int64),
        np.stack(told, axis=1) if told else None,
        teacher,
    )


def _merged(requests: pa.Table, chosen: Sequence[NDArray[np.int64]]) -> Candidates:
    """Label the candidates ``chosen`` per request; engaged items outside are counted."""
    shown = shown_candidates(requests)
    ids, labels, weights, unreachable, teacher = [], [], [], [], [np.zeros(0, np.float32)]
    for b, candidates in enumerate(chosen):
        lo, hi = shown.offsets[b], shown.offsets[b + 1]
        own, own_labels = shown.ids[lo:hi], shown.labels[lo:hi]
        order = np.argsort(own)
        at = np.minimum(np.searchsorted(own, candidates, sorter=order), len(own) - 1)
        hit = own[order[at]] == candidates
        ids.append(candidates)
        labels.append(np.where(hit, own_labels[order[at]], 0))
        weights.append(np.where(hit, shown.weights[lo:hi][order[at]], 1.0))
        if len(shown.teacher):
            told = shown.teacher[lo:hi][order[at]]
            teacher.append(np.where(hit, told, np.float32("nan")))
        unreachable.append(int((own_labels > 0).sum() - (labels[-1] > 0).sum()))
    lengths = [len(c) for c in ids]
    return Candidates(
        np.concatenate(ids),
        np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
        np.concatenate(labels),
        np.concatenate(weights).astype(np.float32),
        np.zeros(int(sum(lengths)), np.float32),
        np.array(unreachable, np.int64),
        teacher=np.concatenate(teacher),
    )


def catalogue_candidates(requests: pa.Table, ids: NDArray[np.int64]) -> Candidates:
    """The whole catalogue for each request: how a log without impressions is evaluated."""
    return _merged(requests, [ids] * requests.num_rows)


def sampled_candidates(
    schema: FeatureSchema, requests: pa.Table, inputs: FeatureInputs, table: IdTable
) -> Candidates:
    """Engaged items plus stratified negatives (``prerank.dataset.negatives``).

    Seeded by the request id, so that a rebuilt training set is the same.
    """
    shown = shown_candidates(requests)
    seeds = np.array([zlib.crc32(r.encode()) for r in requests["request_id"].to_pylist()], np.int64)
    ids, log_q, offsets = sample_candidates(schema, inputs, seeds, shown.ids, shown.offsets, table)
    labelled = _merged(requests, np.split(ids, offsets[1:-1]))
    return replace(labelled, log_q=log_q)
