"""A batch of requests as tensors, and how it is put together from arrays.

Candidates are grouped by request, so that the query tower runs once per request and the item tower
once a distinct item, however often either stands in the batch.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interactrank.features.catalogue import Catalogue
from interactrank.features.id_table import IdTable
from interactrank.features.inputs import HOUR_US, FeatureInputs
from interactrank.features.request_statistics import request_features
from interactrank.features.schema import HISTORY_LENGTH, FeatureSchema
from interactrank.features.text import ragged
from interactrank.features.top_items import TOP_ITEMS_LENGTH, top_items_of


@dataclass(frozen=True)
class RequestArrays:
    """B requests with N candidates in all, as NumPy arrays; item ids are the catalogue's int64.

    Attributes:
        time: int64 [B], microseconds since 1970.
        text, text_offsets: hashed query text, int32 [T], int64 [B + 1].
        hist_items, hist_actions, hist_times: int64 [E], oldest first; ``hist_offsets`` [B + 1].
        top_items, top_items_counts: int64 and float32 [P], the query's most engaged items, best
            first; ``top_items_offsets`` [B + 1] (``interactrank.features.top_items``).
        request: float32 [B, R] statistics (schema.REQUEST_NUMERIC).
        candidates: int64 [N]; ``offsets`` int64 [B + 1].
        x: float32 [N, X] cross features.
        labels: int64 [N], bit h is head h. weights: float32 [N].
        log_q: float32 [N], log probability that the candidate was sampled; 0 if it was shown.
        teacher: float32 [N], a full ranker's scores, of any scale, NaN where it has none; or [0].
            A target of training, never an input.
        segments: int64 [B, S], bucket of each segment column's value (text.segment_bucket).
    """

    time: NDArray[np.int64]
    text: NDArray[np.int32]
    text_offsets: NDArray[np.int64]
    hist_items: NDArray[np.int64]
    hist_actions: NDArray[np.int64]
    hist_times: NDArray[np.int64]
    hist_offsets: NDArray[np.int64]
    top_items: NDArray[np.int64]
    top_items_counts: NDArray[np.float32]
    top_items_offsets: NDArray[np.int64]
    request: NDArray[np.float32]
    candidates: NDArray[np.int64]
    offsets: NDArray[np.int64]
    x: NDArray[np.float32]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    weights: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    log_q: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    teacher: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    segments: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    @classmethod
    def of(
        cls,
        schema: FeatureSchema,
        queries: list[str],
        inputs: FeatureInputs,
        **candidates: NDArray[Any],
    ) -> RequestArrays:
        """Put the request side together from as-of ``inputs``; training and serving both do so.

        ``candidates`` are the candidate side's arrays by name: candidates, offsets, x, labels, ….
        """
        text, text_offsets = ragged(queries)
        top_items, top_items_counts, top_items_offsets = top_items_of(schema, inputs)
        return cls(
            time=inputs.time,
            text=text,
            text_offsets=text_offsets,
            hist_items=inputs.hist_items,
            hist_actions=inputs.hist_actions,
            hist_times=inputs.hist_times,
            hist_offsets=inputs.hist_offsets,
            top_items=top_items,
            top_items_counts=top_items_counts,
            top_items_offsets=top_items_offsets,
            request=request_features(schema, inputs),
            segments=_segments(schema, inputs),
            **candidates,
        )

    def __len__(self) -> int:
        return len(self.time)


def _segments(schema: FeatureSchema, inputs: FeatureInputs) -> NDArray[np.int64]:
    """Buckets [B, S]; a request that says nothing of its context has every segment missing."""
    if inputs.segments.size:
        return inputs.segments
    return np.zeros((len(inputs.time), len(schema.segments)), np.int64)


@dataclass(kw_only=True)
class Requests:
    """Tensors of B requests alone, as the query tower and the fusion's gate read them.

    ``query`` [B] is equal for equal queries; ``text_offsets`` [B] in EmbeddingBag's form;
    ``hist_*`` [B, L], most recent first; ``top_items`` [B, K] item rows and ``top_items_share``
    [B, K], 0 for padding; ``request`` [B, R]; ``segments`` [B, S].
    """

    query: Tensor
    text: Tensor
    text_offsets: Tensor
    hist_items: Tensor
    hist_actions: Tensor
    hist_hours: Tensor
    hist_mask: Tensor
    top_items: Tensor
    top_items_share: Tensor
    request: Tensor
    segments: Tensor = field(default_factory=lambda: torch.zeros((0, 0), dtype=torch.int64))

    def replace(self, **changes: Any) -> Self:
        """A copy with some tensors exchanged."""
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str) -> Self:
        """Copy every tensor to ``device``."""
        moved: dict[str, Any] = {
            f.name: (
                {k: v.to(device, non_blocking=True) for k, v in value.items()}
                if isinstance(value := getattr(self, f.name), dict)
                else value.to(device, non_blocking=True)
            )
            for f in dataclasses.fields(self)
        }
        return type(self)(**moved)


@dataclass(kw_only=True)
class Batch(Requests):
    """Tensors of requests with their candidates; shapes as in ``interactrank.model.interactrank``.

    ``items``: inputs of the U distinct items, to which ``candidate_item`` [N] points.
    """

    x: Tensor
    candidate_request: Tensor
    candidate_item: Tensor
    items: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    log_q: Tensor
    teacher: Tensor


def padded_history(
    arrays: RequestArrays, table: IdTable
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Histories as [B, L], most recent first: item rows, actions, hours ago, mask."""
    lengths = np.minimum(np.diff(arrays.hist_offsets), HISTORY_LENGTH)
    width = max(int(lengths.max(initial=0)), 1)
    back = np.arange(width)
    mask = back < lengths[:, None]
    at = np.where(mask, arrays.hist_offsets[1:, None] - 1 - back, 0)
    if not len(arrays.hist_items):
        empty = np.zeros((len(arrays), width), np.int64)
        return empty, empty, empty.astype(np.float32), mask
    rows = table.rows(arrays.hist_items)[at] + 1
    hours = (arrays.time[:, None] - arrays.hist_times[at]) / HOUR_US
    zero = np.int64(0)
    return (
        np.where(mask, rows, zero),
        np.where(mask, arrays.hist_actions[at], zero),
        np.where(mask, hours, 0.0).astype(np.float32),
        mask,
    )


def padded_top_items(
    arrays: RequestArrays, table: IdTable
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Top items as [B, K]: item rows, and shares of their counts (sum 1, or all 0)."""
    lengths = np.diff(arrays.top_items_offsets)
    mask = np.arange(TOP_ITEMS_LENGTH) < lengths[:, None]
    rows = np.zeros(mask.shape, np.int64)
    share = np.zeros(mask.shape, np.float32)
    rows[mask] = table.rows(arrays.top_items) + 1
    share[mask] = arrays.top_items_counts
    return rows, share / np.maximum(share.sum(1, keepdims=True), np.float32(1e-6))


def item_inputs(
    catalogue: Catalogue,
    rows: NDArray[np.int64],
    text_known: NDArray[np.bool_],
    category_known: NDArray[np.bool_],
    embedding_known: NDArray[np.bool_],
) -> dict[str, Tensor]:
    """Item tower inputs of item ``rows`` [U] (0 = out of vocabulary).

    ``text_known``, ``category_known`` and ``embedding_known`` bool [U]: false hides an attribute
    that the request's time does not know yet.
    """
    at = np.maximum(rows - 1, 0)
    real = rows > 0
    has_text = real & text_known
    lengths = np.where(has_text, catalogue.offsets[at + 1] - catalogue.offsets[at], 0)
    offsets = np.cumsum(lengths) - lengths
    flat = np.repeat(catalogue.offsets[at] - offsets, lengths) + np.arange(lengths.sum())
    nan = np.float32("nan")
    numeric = np.where(real[:, None], catalogue.numeric[at], nan)
    embedding = np.where((real & embedding_known)[:, None], catalogue.embedding[at], nan)
    return {
        "rows": torch.from_numpy(rows),
        "text": torch.from_numpy(catalogue.text[flat].astype(np.int64)),
        "offsets": torch.from_numpy(offsets),
        "category": torch.from_numpy(np.where(real & category_known, catalogue.category[at], 0)),
        "numeric": torch.from_numpy(numeric.astype(np.float32)),
        "embedding": torch.from_numpy(embedding),
    }


def label_matrix(labels: NDArray[np.int64], heads: int) -> NDArray[np.float32]:
    """Bit sets [N] to 0/1 float32 [N, heads]."""
    return ((labels[:, None] >> np.arange(heads)) & 1).astype(np.float32)


def query_codes(arrays: RequestArrays) -> NDArray[np.int64]:
    """A code of each request's query text [B]."""
    bounds = arrays.text_offsets
    return np.array(
        [zlib.crc32(arrays.text[a:b].tobytes()) for a, b in itertools.pairwise(bounds)], np.int64
    )


def item_codes(
    catalogue: Catalogue, rows: NDArray[np.int64], time: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Item rows [n] with what is known of them at ``time`` [n] or [1], three bits each."""
    text, category, embedding = (
        time >= start[0]
        for start in (catalogue.text_from, catalogue.category_from, catalogue.embedding_from)
    )
    return rows * 8 + text * 4 + category * 2 + embedding


def requests_of(arrays: RequestArrays, table: IdTable) -> Requests:
    """The requests' own tensors; ``table`` as in ``collate``."""
    hist_items, hist_actions, hist_hours, mask = padded_history(arrays, table)
    top_items, share = padded_top_items(arrays, table)
    as_tensor = torch.from_numpy
    return Requests(
        query=as_tensor(query_codes(arrays)),
        text=as_tensor(arrays.text.astype(np.int64)),
        text_offsets=as_tensor(arrays.text_offsets[:-1].astype(np.int64)),
        hist_items=as_tensor(hist_items),
        hist_actions=as_tensor(hist_actions),
        hist_hours=as_tensor(hist_hours),
        hist_mask=as_tensor(mask),
        top_items=as_tensor(top_items),
        top_items_share=as_tensor(share),
        request=as_tensor(arrays.request),
        segments=as_tensor(arrays.segments),
    )


def collate(
    arrays: RequestArrays,
    catalogue: Catalogue,
    table: IdTable,
    heads: int,
    negatives: NDArray[np.int64] | None = None,
) -> Batch:
    """Put a batch together.

    Args:
        arrays: the requests.
        catalogue: the items.
        table: ``catalogue.table()``, built once by the caller.
        heads: H.
        negatives: catalogue positions int64 [n] that join the batch's items as negatives of the
            sampled softmax, beside the candidates of the batch.
    """
    counts = np.diff(arrays.offsets)
    request = np.repeat(np.arange(len(arrays)), counts)
    rows = table.rows(arrays.candidates) + 1
    code = item_codes(catalogue, rows, arrays.time[request])
    if negatives is not None:
        others = item_codes(catalogue, negatives + 1, arrays.time.max(initial=0, keepdims=True))
        code = np.concatenate((code, others))
    distinct, position = np.unique(code, return_inverse=True)
    known = [distinct // bit % 2 == 1 for bit in (4, 2, 1)]
    teacher = arrays.teacher if len(arrays.teacher) else np.full(len(rows), np.nan)
    as_tensor = torch.from_numpy
    return Batch(
        **vars(requests_of(arrays, table)),
        x=as_tensor(arrays.x),
        candidate_request=as_tensor(request),
        candidate_item=as_tensor(position.reshape(-1)[: len(rows)].astype(np.int64)),
        items=item_inputs(catalogue, distinct // 8, *known),
        labels=as_tensor(label_matrix(arrays.labels, heads)),
        weights=as_tensor(arrays.weights.astype(np.float32)),
        log_q=as_tensor(arrays.log_q.astype(np.float32)),
        teacher=as_tensor(teacher.astype(np.float32)),
    )
