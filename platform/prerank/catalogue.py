"""The item catalogue as arrays, from the canonical items table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from interactrank.catalogue import Catalogue
from prerank.errors import StateError
from prerank.home import Home


def load_catalogue(home: Home, manifest: dict[str, Any]) -> Catalogue:
    """Arrays of every item of the catalogue, ascending by id.

    Raises:
        StateError: nothing was ingested.
    """
    if not home.items.exists():
        raise StateError(f"{home.items} is missing. Run `prerank ingest` first.")
    items = pq.read_table(home.items)
    numeric = [items[c].to_numpy().astype(np.float32) for c in manifest["numeric"]]
    created = items["created_at"].cast("int64").fill_null(0).to_numpy()
    return Catalogue.build(
        ids=items["item_id"].to_numpy().astype(np.int64),
        titles=items["title"].to_pylist(),
        categories=items["category"].to_pylist(),
        numeric=np.stack(numeric, 1) if numeric else np.zeros((len(items), 0), np.float32),
        created=created.astype(np.int64),
        text_from=_since(manifest, "title"),
        category_from=_since(manifest, "category"),
    )


def _since(manifest: dict[str, Any], attribute: str) -> int:
    declared = manifest["valid_from"].get(attribute)
    return int(pd.Timestamp(declared).value // 1000) if declared else 0
