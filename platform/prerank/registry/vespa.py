"""The item index of a model version as a feed for Vespa: JSON lines, one item each.

An engine that holds these fields scores every item by the parts of a request that ``/v1/query``
answers; ``examples/integrations/vespa`` has the rank profile.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from interactrank.features.id_table import overlaid
from prerank.core.errors import StateError
from prerank.core.files import written
from prerank.core.home import Home
from prerank.registry.bundle import Version, load_bundle
from prerank.registry.delta import load_delta
from prerank.registry.index import ItemIndex, load_index

NAMESPACE, DOCUMENT_TYPE = "prerank", "item"
CHUNK = 10_000
"""Items whose vectors are widened at once."""


def write_feed(home: Home, bundle_folder: Path, version: Version, out: Path) -> tuple[int, int]:
    """Write the feed of a version's index to ``out``, which is replaced when the feed is whole.

    Returns:
        How many items it holds, and the width of their vectors.

    Raises:
        NotReadyError: the index was not built.
        StateError: it does not fit the model, or the catalogue does not fit the index.
    """
    bundle = load_bundle(bundle_folder)
    index = load_index(home, version, bundle.digest)
    created_us = index.created(bundle.catalogue)
    if delta := load_delta(home.index / version.name):
        ids, place = overlaid(index.ids, delta.items.ids)
        vectors = torch.cat((index.vectors, delta.vectors))[torch.from_numpy(place)]
        created_us = np.concatenate((created_us, delta.items.created))[place]
        index = ItemIndex(ids, vectors, index.meta)
    texts = _texts(home, index)
    with written(out) as file:
        file.writelines(feed_lines(index, created_us, texts, version))
    return len(index.ids), index.vectors.shape[1]


def feed_lines(
    index: ItemIndex, created_us: NDArray[np.int64], texts: list[str], version: Version
) -> Iterator[bytes]:
    """A line of JSON per item of ``index``, in its order: an update, or a document where none is.

    Fields: ``item_id``, the id as the log has it; ``key``, the int64 key by which ``/v1/query``
    calls the item, and ``item_key``, a tensor whose one cell has that label; ``item_vector``;
    ``created``, seconds since 1970, left out where it is not known; and ``model_version``.

    Args:
        index: of n items.
        created_us: int64 [n], microseconds since 1970; 0: not known.
        texts: n ids as text.
        version: of the model.
    """
    for start in range(0, len(index.ids), CHUNK):
        vectors = index.vectors[start : start + CHUNK].to(torch.float32).numpy()
        for at, vector in enumerate(vectors, start):
            fields: dict[str, Any] = {
                "item_id": texts[at],
                "key": index.ids[at],
                "item_key": {"cells": {str(index.ids[at]): 1.0}},
                "item_vector": {"values": vector},
                "model_version": version.number,
            }
            if created_us[at]:
                fields["created"] = created_us[at] / 1e6
            # An update that creates: fields that others feed, such as texts, stay as they are.
            document = {
                "update": f"id:{NAMESPACE}:{DOCUMENT_TYPE}::{texts[at]}",
                "create": True,
                "fields": {name: {"assign": value} for name, value in fields.items()},
            }
            yield orjson.dumps(
                document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
            )


def _texts(home: Home, index: ItemIndex) -> list[str]:
    """Ids as the log has them, of the items of the index.

    Raises:
        StateError: the catalogue lacks some of them: another log was ingested since.
    """
    home.fetch(home.items)
    items = pq.read_table(home.items, columns=["item_id", "item_ref"])
    found = dict(zip(items["item_id"].to_pylist(), items["item_ref"].to_pylist(), strict=True))
    ids: list[int] = index.ids.tolist()
    if missing := [key for key in ids if key not in found]:
        raise StateError(
            f"{len(missing)} items of the index are not in the catalogue {home.items}. Where they "
            "were added with `prerank add-items`, ingest the catalogue that has them; else it is "
            "of another log: train and index a version on it, or name the home of the version."
        )
    return [found[key] for key in ids]
