"""The item catalogue as arrays, from the canonical items table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.catalogue import Catalogue
from prerank.core.errors import StateError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest


def load_catalogue(home: Home, manifest: LogManifest) -> Catalogue:
    """Arrays of every item of the catalogue, ascending by id.

    Raises:
        StateError: nothing was ingested.
    """
    if not home.items.exists():
        raise StateError(f"{home.items} is missing. Run `prerank ingest` first.")
    items = pq.read_table(home.items)
    numeric = [items[c].to_numpy().astype(np.float32) for c in manifest.numeric]
    created = items["created_at"].cast("int64").fill_null(0).to_numpy()
    return Catalogue.build(
        ids=items["item_id"].to_numpy().astype(np.int64),
        titles=items["title"].to_pylist(),
        categories=items["category"].to_pylist(),
        numeric=np.stack(numeric, 1) if numeric else np.zeros((len(items), 0), np.float32),
        created=created.astype(np.int64),
        text_from=_since(manifest, "title"),
        category_from=_since(manifest, "category"),
        embedding=_vectors(items["embedding"]) if manifest.embedding else None,
        embedding_from=_since(manifest, "embedding"),
    )


def _vectors(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Embeddings float32 [n, E] from their bytes; NaN where an item has none."""
    rows = [None if v is None else np.frombuffer(v, "<f4") for v in column.to_pylist()]
    width = next(len(r) for r in rows if r is not None)
    out = np.full((len(rows), width), np.nan, np.float32)
    for at, row in enumerate(rows):
        if row is not None:
            out[at] = row
    return out


def _since(manifest: LogManifest, attribute: str) -> int:
    declared = manifest.valid_from.get(attribute)
    return int(pd.Timestamp(declared).value // 1000) if declared else 0
