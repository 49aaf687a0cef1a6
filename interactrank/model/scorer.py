"""Scoring one request's candidates against an item index: the online path, and its contract.

Per candidate after the towers: one gather of D bf16 values, one D-wide dot, and g(x). Whatever
depends on the item alone stands in the index; whatever depends on the request alone is computed
once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interactrank.features.batch import RequestArrays, collate
from interactrank.features.catalogue import Catalogue
from interactrank.features.engagement import cross_features
from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs
from interactrank.model.interactrank import InteractRank


@dataclass(frozen=True)
class Scored:
    """Scores of the known candidates of one request, in the order given.

    ``ids`` int64 [n]; ``scores`` float32 [n], scale × dots + cross_scores + constant;
    ``cross_scores`` are g of the cross features; ``unknown`` int64 [m]: candidates the index does
    not hold. ``x`` float32 [n, X] and ``request`` float32 [R] are the features that were scored.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    dots: NDArray[np.float32]
    cross_scores: NDArray[np.float32]
    unknown: NDArray[np.int64]
    scale: float
    constant: float
    x: NDArray[np.float32]
    request: NDArray[np.float32]

    @property
    def non_finite(self) -> int:
        """How many scores are NaN or infinite, which no order can be made of."""
        return len(self.scores) - int(np.isfinite(self.scores).sum())

    def top(self, k: int) -> NDArray[np.int64]:
        """Positions of the best ``k``, best first; ties by item id. Non-finite scores come last."""
        n = len(self.ids)
        kept = np.arange(n)
        # A NaN as the threshold would let nobody pass.
        scores = np.where(np.isfinite(self.scores), self.scores, -np.inf)
        if 0 < k < n:
            # Every candidate tied with the k-th must be seen before ids break the tie.
            threshold = np.partition(scores, n - k)[n - k]
            kept = np.flatnonzero(scores >= threshold)
        return kept[np.lexsort((self.ids[kept], -scores[kept]))][:k]


class Scorer:
    """A model version with its item vectors, ready to score.

    Args:
        model: in eval mode.
        catalogue: the items the model was trained with.
        ids: int64 [n], the index's items. vectors: bf16 [n, D], unit item vectors.
    """

    def __init__(
        self, model: InteractRank, catalogue: Catalogue, ids: NDArray[np.int64], vectors: Tensor
    ) -> None:
        self.model, self.catalogue, self.vectors = model.eval(), catalogue, vectors
        self.table = IdTable(ids)
        self.rows = catalogue.table()
        at = self.rows.rows(ids)
        self.created = np.where(at >= 0, catalogue.created[np.maximum(at, 0)], 0)

    @torch.inference_mode()
    def score(
        self,
        query: str,
        inputs: FeatureInputs,
        candidates: NDArray[np.int64],
        head_weights: NDArray[np.float32],
        retriever_features: NDArray[np.float32] | None = None,
    ) -> Scored:
        """Score distinct ``candidates`` int64 [N] of one normalised ``query``.

        Args:
            query: normalised text.
            inputs: features of exactly this one request.
            candidates: distinct item ids.
            head_weights: float32 [H], summing to 1; heads are fused on logits.
            retriever_features: float32 [N, R], as in ``cross_features``.
        """
        rows = self.table.rows(candidates)
        known = rows >= 0
        ids, rows = candidates[known], rows[known]
        x = cross_features(
            self.model.schema,
            inputs,
            ids,
            np.array([0, len(ids)]),
            self.created[rows],
            None if retriever_features is None else retriever_features[known],
        )
        queries, request = self.query_side(query, inputs)
        dots, cross_scores, scale, constant = self.fuse(rows, x, queries, request, head_weights)
        scores = scale * dots + cross_scores + constant
        return Scored(
            ids,
            scores,
            dots,
            cross_scores,
            candidates[~known],
            scale,
            constant,
            x,
            request[0].numpy(),
        )

    @torch.inference_mode()
    def fuse(
        self,
        rows: NDArray[np.int64],
        x: NDArray[np.float32],
        queries: Tensor,
        request: Tensor,
        head_weights: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], float, float]:
        """All that is done per candidate once its features are at hand.

        Args:
            rows: int64 [n], rows of the index. x: float32 [n, X]. head_weights: float32 [H].
            queries: [H, D] and ``request`` [1, R], of ``query_side``.

        Returns:
            ``dots`` [n], ``cross_scores`` [n], ``scale`` and ``constant``, as in ``Scored``.
        """
        fusion = self.model.fusion
        folded = fusion.fold(torch.from_numpy(head_weights))
        coefficients = fusion.coefficients(request)
        fused = folded.heads @ queries
        # Ten times as fast as indexing by a tensor.
        gathered = self.vectors.index_select(0, torch.from_numpy(rows))
        dots = torch.mv(gathered, fused.to(gathered.dtype)).float()
        of = torch.zeros(len(rows), dtype=torch.int64)
        cross_scores = folded.cross * fusion.cross_score(torch.from_numpy(x), coefficients, of)
        return dots.numpy(), cross_scores.numpy(), float(coefficients.scale), float(folded.constant)

    def query_side(self, query: str, inputs: FeatureInputs) -> tuple[Tensor, Tensor]:
        """Unit query vectors of the heads [H, D] and statistics [1, R]; no candidate enters."""
        none = np.zeros(0, np.int64)
        arrays = RequestArrays.of(
            self.model.schema,
            [query],
            inputs,
            candidates=none,
            offsets=np.zeros(2, np.int64),
            x=np.zeros((0, len(self.model.schema.cross)), np.float32),
            labels=none,
        )
        batch = collate(arrays, self.catalogue, self.rows, len(self.model.schema.heads))
        return self.model.encode_queries(batch)[0], batch.request
