"""Items that are added to a catalogue between two ingests, read as the log's mapping says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from interactrank.features.catalogue import Catalogue
from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.core.ids import ItemIds, canonical_integer
from prerank.core.manifest import LogManifest
from prerank.ingest.catalogue import catalogue_of
from prerank.ingest.checks import catalogue_columns
from prerank.ingest.items import keyed, read_catalogue
from prerank.ingest.landing import in_turn, opened
from prerank.ingest.mapping import LogMapping
from prerank.ingest.sources import raw_files


def read_items(path: str | Path, home: Home) -> tuple[Catalogue, tuple[str, ...]]:
    """Arrays of the items in a catalogue file, or a folder of them, and what should be said of it.

    Args:
        path: absolute, or a URI.
        home: whose log has the mapping and the ids.

    Raises:
        ConfigError: the path or a column is wrong.
        StateError: nothing was ingested.
        DataError: unreadable or without an item, an item stands twice with different attributes, or
            an id is of another kind than the log's.
    """
    manifest = LogManifest.load(home)
    mapping = LogMapping.model_validate(manifest.mapping)
    with tempfile.TemporaryDirectory() as scratch:
        source = opened(*raw_files(path, "items"), Path(scratch), in_turn, mapping.items.nested)
        columns = catalogue_columns(source, mapping)
        raw = read_catalogue(source, columns, mapping)
    if not raw.refs:
        raise DataError(f"{path} holds no item with an id in {columns['item_id']!r}.")
    ids = manifest.item_ids
    if ids.kind == "integer":
        odd = next((ref for ref in raw.refs if canonical_integer(ref) is None), None)
        if odd is not None:
            raise DataError(f"{path} has the item id {odd!r}, but this log's ids are integers.")
    else:
        _check_collisions(raw.refs, ids, home)
    return catalogue_of(keyed(raw, ids, {}), mapping), raw.warnings


def _check_collisions(refs: list[str], ids: ItemIds, home: Home) -> None:
    """Refuse an id whose hash is that of another item of the log's catalogue."""
    known = pq.read_table(home.items, columns=["item_id", "item_ref"])
    by_key = dict(zip(known["item_id"].to_pylist(), known["item_ref"].to_pylist(), strict=True))
    for key, ref in zip(ids.keys(refs).tolist(), refs, strict=True):
        if by_key.get(key, ref) != ref:
            raise DataError(
                f"Item ids {ref!r} and {by_key[key]!r} share the hash {key}. Set another "
                f"`hash_seed` in the mapping (now {ids.seed}), ingest with --replace, and train."
            )
