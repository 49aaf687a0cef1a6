"""Scoring one request's candidates against an item index: the online path, and its contract.

Per candidate after the towers: one gather of D bf16 values, one D-wide dot, and g(x). Whatever
depends on the item alone stands in the index; whatever depends on the request alone is computed
once, and that is nearly all of x for a candidate that stands in no row and no history of the
request (``interactrank.model.sweep``). ``Scorer.score_dense`` computes all of x for everybody: the
reference that ``Scorer.score`` equals.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interactrank.features.batch import RequestArrays, item_inputs, requests_of
from interactrank.features.catalogue import OUT_OF_VOCABULARY, Catalogue
from interactrank.features.given import anchor_ranks
from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs
from interactrank.features.reached import Reached
from interactrank.features.schema import FeatureSchema
from interactrank.model.candidates import Found
from interactrank.model.cross_part import NO_CROSS, base_of, cross_scores_of
from interactrank.model.fusion import Coefficients
from interactrank.model.index_items import Added, IndexItems
from interactrank.model.interactrank import InteractRank
from interactrank.model.query_side import QueryHalf, QuerySide, recorded
from interactrank.model.top_k import best

_NOTHING = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Scored:
    """Scores of the candidates of one request, in the order given.

    ``ids`` int64 [n]; ``scores`` float32 [n], scale × dots + cross_scores + constant;
    ``cross_scores`` are g of the cross features; ``unknown`` int64 [m]: those of ``ids`` that the
    index does not hold, and that were scored as the unknown item with their own cross features.
    ``x(positions)`` are the cross features that were scored, float32 [positions, X], and
    ``request`` float32 [R] the statistics.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    dots: NDArray[np.float32]
    cross_scores: NDArray[np.float32]
    unknown: NDArray[np.int64]
    scale: float
    constant: float
    x: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    request: NDArray[np.float32]

    @property
    def non_finite(self) -> int:
        """How many scores are NaN or infinite, which no order can be made of."""
        return len(self.scores) - int(np.isfinite(self.scores).sum())

    def top(self, k: int) -> NDArray[np.int64]:
        """Positions of the best ``k``, best first; ties by item id. Non-finite scores come last."""
        return best(self.scores, self.ids, k)


class Scorer:
    """A model version with its item vectors, ready to score.

    Attributes:
        items: that can be scored.

    Args:
        model: in eval mode.
        catalogue: the items the model was trained with.
        ids: int64 [n], the index's items. vectors: [n, D], unit item vectors, bf16 or float32.
        created: int64 [n], microseconds since 1970; the catalogue's where left out.
    """

    def __init__(
        self,
        model: InteractRank,
        catalogue: Catalogue,
        ids: NDArray[np.int64],
        vectors: Tensor,
        created: NDArray[np.int64] | None = None,
    ) -> None:
        self.model, self.catalogue = model.eval(), catalogue
        self.schema: FeatureSchema = model.schema
        self._of_catalogue = np.array_equal(ids, catalogue.ids)
        if created is None:
            of_catalogue = catalogue.created
            created = (
                of_catalogue if self._of_catalogue else catalogue.created_at(self.rows.rows(ids))
            )
        unknown = unknown_item(model, catalogue).to(vectors.dtype)
        self.items = IndexItems(ids, vectors, created, unknown)
        self._query_half: Callable[..., tuple[Tensor, ...]] = QueryHalf(self.model)

    @cached_property
    def rows(self) -> IdTable:
        """Rows of the catalogue by item id; the same table where the index holds the catalogue."""
        return self.table if self._of_catalogue else self.catalogue.table()

    def record(self) -> Scorer:
        """Make requests cheaper, at the price of a quarter of a second now; returns itself.

        With the tables of ids, which the first request would otherwise wait for.
        """
        self._query_half = recorded(self.model)
        _ = self.table, self.rows
        return self

    @property
    def table(self) -> IdTable:
        """Of the items that can be scored, with their rows."""
        return self.items.table

    @property
    def vectors(self) -> Tensor:
        """Of the index's items, without those that were added."""
        return self.items.vectors

    @property
    def created(self) -> NDArray[np.int64]:
        """When items were created, by their row: microseconds since 1970, 0 where unknown."""
        return self.items.created

    def joined(self, added: Added) -> Scorer:
        """Another scorer of the same index, as ``IndexItems.joined`` has it."""
        new = copy.copy(self)
        # The catalogue stays as it was, whose table may be the index's.
        vars(new)["rows"] = self.rows
        new.items = self.items.joined(added)
        return new

    def part(self, at: slice) -> Scorer:
        """The same model over some rows of the index, which are copied.

        It scores what others look up: ``score_found`` of ``at_rows``. No table of ids is made.
        """
        part = copy.copy(self)
        vars(part).pop("rows", None)
        part.items = self.items.part(at)
        return part

    @torch.inference_mode()
    def score(
        self,
        query: str,
        inputs: FeatureInputs,
        candidates: NDArray[np.int64] | None,
        head_weights: NDArray[np.float32],
        retriever_features: NDArray[np.float32] | None = None,
    ) -> Scored:
        """Score distinct ``candidates`` int64 [N] of one normalised ``query``.

        Args:
            query: normalised text.
            inputs: features of exactly this one request.
            candidates: distinct item ids; None for every item of the index, exactly.
            head_weights: float32 [H], summing to 1; heads are fused on logits.
            retriever_features: float32 [N, R], as in ``cross_features``.
        """
        side = self.query_side(query, inputs, head_weights)
        return self.score_found(side, inputs, self.find(inputs, candidates, retriever_features))

    @torch.inference_mode()
    def score_found(self, side: QuerySide, inputs: FeatureInputs, found: Found) -> Scored:
        """As ``score``, once the request's side is made and the candidates are looked up.

        A score depends on the request and its own item alone, to the last digit.
        """
        base, own, at = NO_CROSS, _NOTHING, found.rows[:0]
        if self.model.fusion.crosses:
            somewhere = Reached(self.schema, inputs)
            at = somewhere.among(found.ids)
            # An item that stands nowhere goes with those that do: the rows are gone over once.
            x = found.x(at, somewhere.nobody())
            base = base_of(self.model, side, x[0])
        if base.own.size:
            own = found.own() - base.own
        fused, now = side.query.numpy(), int(inputs.time[0])
        dots, cross_scores = self.items.swept(found.rows, fused, now, base, own)
        if len(at):
            cross_scores[at] = cross_scores_of(self.model, side, x[1:])
        return _scored(found, side, dots, cross_scores)

    @torch.inference_mode()
    def score_dense(
        self,
        query: str,
        inputs: FeatureInputs,
        candidates: NDArray[np.int64] | None,
        head_weights: NDArray[np.float32],
        retriever_features: NDArray[np.float32] | None = None,
    ) -> Scored:
        """As ``score``, by the formula: every feature of every candidate, and plain products."""
        side = self.query_side(query, inputs, head_weights)
        found = self.find(inputs, candidates, retriever_features)
        gathered = self.items.gathered(found.rows)
        dots = torch.mv(gathered.float(), side.query).numpy()
        x = torch.from_numpy(found.x(np.arange(len(found.ids))))
        of = torch.zeros(len(x), dtype=torch.int64)
        g = self.model.fusion.cross_score(x, side.coefficients, of)
        return _scored(found, side, dots, (side.cross * g).numpy())

    @torch.inference_mode()
    def query_side(
        self, query: str, inputs: FeatureInputs, head_weights: NDArray[np.float32]
    ) -> QuerySide:
        """What no candidate enters; arguments as in ``score``."""
        none = np.zeros(0, np.int64)
        arrays = RequestArrays.of(
            self.schema,
            [query],
            inputs,
            candidates=none,
            offsets=np.zeros(2, np.int64),
            x=np.zeros((0, len(self.schema.cross)), np.float32),
            labels=none,
        )
        requests = requests_of(arrays, self.rows)
        queries, *gate = self._query_half(*vars(requests).values())
        coefficients = Coefficients(*gate)
        folded = self.model.fusion.fold(torch.from_numpy(head_weights))
        return QuerySide(
            folded.heads @ queries[0],
            arrays.request[0],
            coefficients,
            float(coefficients.scale),
            float(folded.cross),
            float(folded.constant),
        )

    def find(
        self,
        inputs: FeatureInputs,
        candidates: NDArray[np.int64] | None,
        retriever_features: NDArray[np.float32] | None,
        anchor: float | None = None,
    ) -> Found:
        """Look the candidates up; arguments as in ``score``.

        ``anchor`` as in ``Found``, where the request has other candidates too; else that of these.
        """
        ids, rows = self.table.ids, self.items.every_row()
        if candidates is not None:
            ids, rows = candidates, self.table.rows(candidates)
        return self._found(inputs, ids, rows, retriever_features, anchor)

    def at_rows(
        self,
        inputs: FeatureInputs,
        rows: NDArray[np.int64] | None,
        retriever_features: NDArray[np.float32] | None,
        anchor: float | None = None,
    ) -> Found:
        """The candidates at distinct ``rows`` int64 [N] of the index, none negative; None for all.

        No table of ids is needed. ``anchor`` as in ``find``.
        """
        rows = self.items.every_row() if rows is None else rows
        return self._found(inputs, self.items.ids[rows], rows, retriever_features, anchor)

    def anchor(
        self,
        inputs: FeatureInputs,
        candidates: NDArray[np.int64],
        retriever_features: NDArray[np.float32] | None,
    ) -> float:
        """``anchor_ranks`` of one request with all its candidates."""
        bounds = np.array([0, len(candidates)])
        return float(anchor_ranks(self.schema, inputs, candidates, bounds, retriever_features)[0])

    def _found(
        self,
        inputs: FeatureInputs,
        ids: NDArray[np.int64],
        rows: NDArray[np.int64],
        given: NDArray[np.float32] | None,
        anchor: float | None,
    ) -> Found:
        rank = self.anchor(inputs, ids, given) if anchor is None else anchor
        return Found(self.schema, self.items, inputs, ids, rows, given, rank)


@torch.inference_mode()
def unknown_item(model: InteractRank, catalogue: Catalogue) -> Tensor:
    """The unit vector float32 [1, D] of an item of which nothing is known, by the item tower."""
    nothing = np.zeros(1, np.bool_)
    row = np.array([OUT_OF_VOCABULARY])
    return model.encode_items(item_inputs(catalogue, row, nothing, nothing, nothing))


def _scored(
    found: Found, side: QuerySide, dots: NDArray[np.float32], cross_scores: NDArray[np.float32]
) -> Scored:
    scores = np.float32(side.scale) * dots
    scores += cross_scores
    scores += np.float32(side.constant)
    return Scored(
        found.ids,
        scores,
        dots,
        cross_scores,
        found.ids[found.rows < 0],
        side.scale,
        side.constant,
        found.x,
        side.request,
    )
