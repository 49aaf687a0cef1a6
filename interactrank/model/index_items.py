"""The items that can be scored: those of an index, and those that were added to it since.

An item has a row: its place in the index, or, if it was added, in what was added, counted on from
the index's last row. An item that was added and stands in the index, too, has the row of the
former. Row -1 is the unknown item, which an item that is in neither is scored as. The index's
vectors are read where they lie, usually in a mapped file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interactrank.features.id_table import IdTable, overlaid
from interactrank.model.sweep import Base, sweep

Swept = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Dots and g(x) of candidates [n]."""


@dataclass(frozen=True)
class Added:
    """Items that are new, or changed, since an index was built.

    ``ids`` int64 [m], distinct; ``vectors`` [m, D] of the index's type; ``created`` int64 [m],
    microseconds since 1970, 0 where unknown.
    """

    ids: NDArray[np.int64]
    vectors: Tensor
    created: NDArray[np.int64]


class _Others(NamedTuple):
    """Candidates that the index's own vectors do not cover.

    ``at`` int64 [n] of the candidates; ``rows`` [n] of ``vectors`` [m, D] and ``created`` [m].
    """

    at: NDArray[np.int64]
    rows: NDArray[np.int64]
    vectors: Tensor
    created: NDArray[np.int64]


class IndexItems:
    """Items of an index, ready to be swept over.

    Attributes:
        ids: int64 [n], of the index, by row.
        vectors: [n, D], of the index. ``vector_bits``: the same, bf16 as uint16.
        created: int64, by row.

    Args:
        ids: int64 [n].
        vectors: [n, D], bf16 or float32.
        created: int64 [n], microseconds since 1970, 0 where unknown.
        unknown: [1, D] like ``vectors``, of the unknown item.
        added: what joins the index.

    Raises:
        ValueError: the vectors that are added are not like the index's.
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        vectors: Tensor,
        created: NDArray[np.int64],
        unknown: Tensor,
        added: Added | None = None,
    ) -> None:
        self.ids, self.vectors, self._unknown, self._added = ids, vectors, unknown, added
        self.vector_bits = _bits(vectors)
        self.created = created
        self._every: NDArray[np.int64] | None = None
        if added is None:
            return
        if added.vectors.shape[1] != vectors.shape[1] or added.vectors.dtype != vectors.dtype:
            raise ValueError("the vectors that are added have another width or type than the index")
        self._both, self._every = overlaid(ids, added.ids)
        self.created = np.concatenate((created, added.created))

    @cached_property
    def table(self) -> IdTable:
        """Of the ids of all items, ascending where some were added, and their rows."""
        return IdTable(self.ids) if self._every is None else IdTable(self._both, self._every)

    def part(self, at: slice) -> IndexItems:
        """Copies of some rows of an index that nothing was added to."""
        own = self.ids[at].copy(), self.vectors[at].clone(), self.created[at].copy()
        return IndexItems(*own, self._unknown)

    def joined(self, added: Added) -> IndexItems:
        """The same index with ``added``, and without what was added before.

        No vector of the index is read or copied. What is made anew are the table of ids, and two
        arrays of eight bytes an item.
        """
        n = len(self.ids)
        return IndexItems(self.ids, self.vectors, self.created[:n], self._unknown, added)

    def every_row(self) -> NDArray[np.int64]:
        """Rows of ``table.ids``."""
        return np.arange(len(self.ids)) if self._every is None else self._every

    def created_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """``created`` [n] of items at ``rows`` [n]; 0 for the unknown item."""
        return np.where(rows < 0, 0, self.created[np.maximum(rows, 0)])

    def gathered(self, rows: NDArray[np.int64]) -> Tensor:
        """Vectors [n, D] of ``rows`` [n]."""
        of_index, others = self._divided(rows)
        found = self.vectors.index_select(0, torch.from_numpy(of_index))
        for own in others:
            found[torch.from_numpy(own.at)] = own.vectors[torch.from_numpy(own.rows)]
        return found

    def swept(
        self,
        rows: NDArray[np.int64],
        query: NDArray[np.float32],
        now: int,
        base: Base,
        own: NDArray[np.float32],
    ) -> Swept:
        """Dots and g(x) of candidates that stand nowhere.

        Args:
            rows: int64 [n].
            query, now, own: as in ``sweep``.
            base: what they share.
        """
        of_index, others = self._divided(rows)
        n = sum(len(other.at) for other in others)
        dots, cross_scores = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
        if n < len(rows):
            whole = of_index, self.vector_bits, self.created
            dots, cross_scores = _swept(*whole, query, now, base, own)
        for other in others:
            told = own[other.at] if own.size else own
            part = other.rows, _bits(other.vectors), other.created
            dots[other.at], cross_scores[other.at] = _swept(*part, query, now, base, told)
        return dots, cross_scores

    def _divided(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[_Others]]:
        """``rows`` with row 0 in place of those that are not the index's, and these.

        One pass over all costs less than taking a few apart.
        """
        n = len(self.ids)
        # As an unsigned number -1 is a large one.
        of_index = rows.view(np.uint64) < n
        if of_index.all():
            return rows, []
        return np.where(of_index, rows, 0), list(self._others(rows))

    def _others(self, rows: NDArray[np.int64]) -> Iterator[_Others]:
        n, nothing = len(self.ids), np.zeros(1, np.int64)
        if len(at := np.flatnonzero(rows < 0)):
            yield _Others(at, np.zeros(len(at), np.int64), self._unknown, nothing)
        if self._added is not None and len(at := np.flatnonzero(rows >= n)):
            yield _Others(at, rows[at] - n, self._added.vectors, self.created[n:])


def _swept(
    rows: NDArray[np.int64],
    vectors: NDArray[Any],
    created: NDArray[np.int64],
    query: NDArray[np.float32],
    now: int,
    base: Base,
    own: NDArray[np.float32],
) -> Swept:
    dots, cross_scores = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    sweep(
        rows,
        vectors,
        created,
        query,
        now,
        base.affine,
        base.fresh_value,
        own,
        dots,
        cross_scores,
    )
    return dots, cross_scores


def _bits(vectors: Tensor) -> NDArray[Any]:
    # NumPy has no bf16: the same bits as whole numbers.
    half = vectors.dtype == torch.bfloat16
    found: NDArray[Any] = (vectors.view(torch.uint16) if half else vectors).numpy()
    return found
