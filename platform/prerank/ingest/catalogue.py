"""The published items table as the arrays that every later step loads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.catalogue import Catalogue
from prerank.ingest.mapping import LogMapping


def catalogue_of(items: pa.Table, mapping: LogMapping) -> Catalogue:
    """Arrays of the items of ``prerank.ingest.items.keyed``, in its order; titles are hashed.

    The mapping names the numeric columns, whether there are embeddings, and from when on an
    attribute is known.
    """
    numeric = [items[name].to_numpy().astype(np.float32) for name in mapping.items.numeric]
    created = items["created_at"].cast("int64").fill_null(0).to_numpy()
    valid_from = mapping.valid_from_of()
    return Catalogue.build(
        ids=items["item_id"].to_numpy().astype(np.int64),
        titles=items["title"].to_pylist(),
        categories=items["category"].to_pylist(),
        numeric=np.stack(numeric, 1) if numeric else np.zeros((len(items), 0), np.float32),
        created=created.astype(np.int64),
        text_from=_micros(valid_from.get("title")),
        category_from=_micros(valid_from.get("category")),
        embedding=_vectors(items["embedding"]) if mapping.items.embedding else None,
        embedding_from=_micros(valid_from.get("embedding")),
    )


def _vectors(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Embeddings float32 [n, E] from their bytes; NaN where an item has none."""
    rows = [None if v is None else np.frombuffer(v, "<f4") for v in column.to_pylist()]
    width = next((len(r) for r in rows if r is not None), 0)
    out = np.full((len(rows), width), np.nan, np.float32)
    for at, row in enumerate(rows):
        if row is not None:
            out[at] = row
    return out


def _micros(declared: str | None) -> int:
    return int(pd.Timestamp(declared).value // 1000) if declared else 0
