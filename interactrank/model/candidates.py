"""The candidates of one request, looked up: their rows in the index and their cross features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interactrank.features.alike import cosines
from interactrank.features.engagement import cross_features
from interactrank.features.given import given_columns
from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import FeatureSchema
from interactrank.model.index_items import IndexItems


@dataclass(frozen=True, eq=False)
class Found:
    """Candidates with their rows in the index.

    Attributes:
        schema: of the features.
        items: of the index.
        inputs: features of exactly this one request.
        ids: int64 [n].
        rows: int64 [n], -1 for one that the index does not hold.
        given: float32 [n, R], by the caller.
        anchor: the rank that the caller gave of the item that the user touched last
            (``interactrank.features.given.anchor_ranks``), or NaN.
    """

    schema: FeatureSchema
    items: IndexItems
    inputs: FeatureInputs
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    given: NDArray[np.float32] | None
    anchor: float

    def x(self, at: NDArray[np.int64], *others: int) -> NDArray[np.float32]:
        """Cross features of the items ``others``, of unknown age, then of candidates.

        Args:
            at: int64 [m], positions of the candidates.
            others: item ids.

        Returns:
            float32 [others + m, X].
        """
        some = len(others)
        chosen = np.concatenate((np.array(others, np.int64), self.ids[at]))
        created = self.items.created_at(self.rows[at])
        created = np.concatenate((np.zeros(some, np.int64), created))
        told = None
        if self.given is not None:
            nothing = np.full((some, self.given.shape[1]), np.nan, np.float32)
            told = np.concatenate((nothing, self.given[at]))
        bounds, anchors = np.array([0, len(chosen)]), np.array([self.anchor], np.float32)
        return cross_features(self.schema, self.inputs, chosen, bounds, created, told, anchors)

    def own(self) -> NDArray[np.float32]:
        """What of x is a candidate's own beside its age [n, V - 3], as ``own_columns`` has it."""
        n = len(self.ids)
        given = given_columns(self.schema, n, self.given, self.anchor)
        if not self.schema.graph:
            return given
        return np.concatenate((cosines(self.inputs, self.ids, np.array([0, n])), given), axis=1)
