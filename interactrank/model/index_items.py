"""The items that can be scored: those of an index, and those that were added to it since.

An item has a row: its place in the index, or, if it was added, in what was added, counted on from
the index's last row. An item that was added and stands in the index, too, has the row of the
former. The index's vectors are read where they lie, usually in a mapped file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
        added: what joins the index.

    Raises:
        ValueError: the vectors that are added are not like the index's.
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        vectors: Tensor,
        created: NDArray[np.int64],
        added: Added | None = None,
    ) -> None:
        self.ids, self.vectors, self._added = ids, vectors, added
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
        return IndexItems(self.ids[at].copy(), self.vectors[at].clone(), self.created[at].copy())

    def joined(self, added: Added) -> IndexItems:
        """The same index with ``added``, and without what was added before.

        No vector of the index is read or copied. What is made anew are the table of ids, and two
        arrays of eight bytes an item.
        """
        n = len(self.ids)
        return IndexItems(self.ids, self.vectors, self.created[:n], added)

    def every_row(self) -> NDArray[np.int64]:
        """Rows of ``table.ids``."""
        return np.arange(len(self.ids)) if self._every is None else self._every

    def gathered(self, rows: NDArray[np.int64]) -> Tensor:
        """Vectors [n, D] of ``rows`` [n]; copies the index where items were added."""
        added = self._added
        whole = self.vectors if added is None else torch.cat((self.vectors, added.vectors))
        return whole.index_select(0, torch.from_numpy(rows))

    def swept(
        self,
        rows: NDArray[np.int64],
        query: NDArray[np.float32],
        now: int,
        base: Base,
        given: NDArray[np.float32],
    ) -> Swept:
        """Dots and g(x) of candidates that stand nowhere.

        Args:
            rows: int64 [n], none negative.
            query, now, given: as in ``sweep``.
            base: what they share.
        """
        added = self._added
        if added is None:
            return _swept(rows, self.vector_bits, self.created, query, now, base, given)
        n = len(self.ids)
        late = rows >= n
        at = np.flatnonzero(late)
        dots, cross_scores = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
        if len(at) < len(rows):
            # One pass over all costs less than taking the others apart: row 0 stands for the late.
            of_index = np.where(late, 0, rows)
            own = of_index, self.vector_bits, self.created
            dots, cross_scores = _swept(*own, query, now, base, given)
        if len(at):
            told = given[at] if given.size else given
            own = rows[at] - n, _bits(added.vectors), self.created[n:]
            dots[at], cross_scores[at] = _swept(*own, query, now, base, told)
        return dots, cross_scores


def _swept(
    rows: NDArray[np.int64],
    vectors: NDArray[Any],
    created: NDArray[np.int64],
    query: NDArray[np.float32],
    now: int,
    base: Base,
    given: NDArray[np.float32],
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
        given,
        dots,
        cross_scores,
    )
    return dots, cross_scores


def _bits(vectors: Tensor) -> NDArray[Any]:
    # NumPy has no bf16: the same bits as whole numbers.
    half = vectors.dtype == torch.bfloat16
    found: NDArray[Any] = (vectors.view(torch.uint16) if half else vectors).numpy()
    return found
