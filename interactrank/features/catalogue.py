"""The item side of the features: what is known of each catalogue item, as arrays.

Item rows: 0 is the out-of-vocabulary item, row i + 1 is the item ``ids[i]``.
"""

from __future__ import annotations

import json
import mmap
import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from interactrank.features.id_table import IdTable
from interactrank.features.text import ragged

CATEGORY_BUCKETS = 4096
OUT_OF_VOCABULARY = 0

_OF_ITEMS = ("ids", "category", "numeric", "created", "embedding")
_DTYPES = {"I64": np.int64, "I32": np.int32, "F32": np.float32}


def _category_bucket(category: str) -> int:
    return 1 + zlib.crc32(category.encode()) % (CATEGORY_BUCKETS - 1) if category else 0


@dataclass(frozen=True)
class Catalogue:
    """Arrays over n items, ascending by id.

    Attributes:
        ids: int64 [n].
        text: hashed text features, int32 [T]; item i has ``text[offsets[i]:offsets[i + 1]]``.
        offsets: int64 [n + 1].
        category: int64 [n], hashed; 0 is "none".
        numeric: float32 [n, K], NaN is "missing".
        created: int64 [n], microseconds since 1970, 0 is "unknown".
        embedding: float32 [n, E], pre-computed; E may be 0, a row of NaN is "missing".
        text_from, category_from, embedding_from: int64 [1]; requests before this time
            (microseconds) see the attribute as missing. 0 is "always known".
    """

    ids: NDArray[np.int64]
    text: NDArray[np.int32]
    offsets: NDArray[np.int64]
    category: NDArray[np.int64]
    numeric: NDArray[np.float32]
    created: NDArray[np.int64]
    text_from: NDArray[np.int64]
    category_from: NDArray[np.int64]
    embedding: NDArray[np.float32]
    embedding_from: NDArray[np.int64]

    @classmethod
    def build(
        cls,
        ids: NDArray[np.int64],
        titles: list[str],
        categories: list[str],
        numeric: NDArray[np.float32],
        created: NDArray[np.int64],
        text_from: int = 0,
        category_from: int = 0,
        embedding: NDArray[np.float32] | None = None,
        embedding_from: int = 0,
    ) -> Catalogue:
        """Hash the text of n items whose ``ids`` are ascending."""
        vectors = np.zeros((len(ids), 0), np.float32) if embedding is None else embedding
        text, offsets = ragged(titles)
        bucket = {c: _category_bucket(c) for c in set(categories)}
        category = np.array([bucket[c] for c in categories], np.int64)
        return cls(
            ids,
            text,
            offsets,
            category,
            numeric,
            created,
            np.array([text_from]),
            np.array([category_from]),
            vectors,
            np.array([embedding_from]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def table(self) -> IdTable:
        """Look-up from id to position in the arrays."""
        return IdTable(self.ids)

    def created_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """``created`` [n] of items at ``rows`` [n] of ``table``; 0 for one that is not there."""
        return np.where(rows >= 0, self.created[np.maximum(rows, 0)], 0)

    def take(self, rows: NDArray[np.int64]) -> Catalogue:
        """The items at ``rows`` [m], in that order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        at = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        items = {name: getattr(self, name)[rows] for name in _OF_ITEMS}
        return replace(self, text=self.text[at], offsets=offsets, **items)

    def updated(self, later: Catalogue) -> Catalogue:
        """These items and those of ``later``; an item of both is as ``later`` has it."""
        kept = self.take(np.flatnonzero(later.table().rows(self.ids) < 0))
        parts = (kept, later)
        items = {n: np.concatenate([getattr(p, n) for p in parts]) for n in _OF_ITEMS}
        both = replace(
            later,
            text=np.concatenate((kept.text, later.text)),
            offsets=np.concatenate((kept.offsets, kept.offsets[-1] + later.offsets[1:])),
            **items,
        )
        return both.take(np.argsort(both.ids, kind="stable"))

    def differs(self, other: Catalogue) -> NDArray[np.bool_]:
        """Which items [n] ``other`` lacks, or knows otherwise; columns are as many in both."""
        rows = other.table().rows(self.ids)
        found = np.flatnonzero(rows >= 0)
        a, b = self.take(found), other.take(rows[found])
        same = (a.category == b.category) & (a.created == b.created)
        for one, two in ((a.numeric, b.numeric), (a.embedding, b.embedding)):
            same &= ((one == two) | (np.isnan(one) & np.isnan(two))).all(axis=1)
        same &= np.diff(a.offsets) == np.diff(b.offsets)
        # Of texts that are equally long, word by word.
        a, b = a.take(np.flatnonzero(same)), b.take(np.flatnonzero(same))
        owner = np.repeat(np.arange(len(a)), np.diff(a.offsets))
        same[same] = np.bincount(owner[a.text != b.text], minlength=len(a)) == 0
        changed = np.ones(len(self), np.bool_)
        changed[found] = ~same
        return changed

    def save(self, path: Path) -> None:
        """Write as one safetensors file."""
        save_file({f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Map what ``save`` wrote: nothing is read before it is used, or copied.

        Processes share the pages. Writing to an array changes the process's own copy, never the
        file; torch asks for arrays that may be written.

        Raises:
            ValueError: the arrays do not fit together.
        """
        # safetensors' own loader copies. The format: the header's length in eight bytes, the
        # header as JSON, then the arrays, aligned, at offsets from the header's end.
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(cls):
            array = header[field.name]
            at = start + array["data_offsets"][0]
            arrays[field.name] = np.ndarray(array["shape"], _DTYPES[array["dtype"]], data, at)
        loaded = cls(**arrays)
        if not loaded._fits():
            raise ValueError(f"{path} is damaged: its arrays do not fit together. Ingest again")
        return loaded

    def _fits(self) -> bool:
        """Whether the arrays are as long as they must be, and the text's bounds are bounds."""
        n, offsets = len(self.ids), self.offsets
        of_items = (self.category, self.numeric, self.created, self.embedding)
        return (
            all(len(array) == n for array in of_items)
            and len(offsets) == n + 1
            and (offsets[0], offsets[-1]) == (0, len(self.text))
            and not (offsets[1:] < offsets[:-1]).any()
        )
