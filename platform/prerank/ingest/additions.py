"""Items that are added to a catalogue between two ingests, read as the log's mapping says."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interactrank.features.catalogue import Catalogue
from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.core.ids import ItemIds, non_integers
from prerank.core.manifest import LogManifest
from prerank.ingest.catalogue import catalogue_of
from prerank.ingest.checks import catalogue_columns
from prerank.ingest.embeddings import QUARANTINE_SCHEMA
from prerank.ingest.items import RawCatalogue, keyed, read_catalogue
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
    raw, columns = _read(path, mapping)
    if not raw.refs:
        raise DataError(f"{path} holds no item with an id in {columns['item_id']!r}.")
    ids = manifest.item_ids
    if ids.kind == "integer":
        odd = next(iter(non_integers(raw.refs)), None)
        if odd is not None:
            raise DataError(f"{path} has the item id {odd!r}, but this log's ids are integers.")
    else:
        _check_collisions(raw.refs, ids, home)
    return catalogue_of(keyed(raw, ids, {}), mapping), raw.warnings


def catalogue_of_home(home: Home, changed: str | Path | None = None) -> RawCatalogue:
    """The catalogue that ``home`` holds, with the items of ``changed`` new or in place of theirs.

    Args:
        home: with a log.
        changed: absolute path or URI of a catalogue; None for no change.

    Raises:
        ConfigError, DataError: as ``read_items`` does.
    """
    home.fetch(home.items)
    own = pq.read_table(home.items).drop_columns(["item_id"])
    if changed is None:
        return RawCatalogue(own, False, (), QUARANTINE_SCHEMA.empty_table())
    raw, _ = _read(changed, LogMapping.model_validate(LogManifest.load(home).mapping))
    stays = pc.invert(pc.is_in(own["item_ref"], raw.table["item_ref"].combine_chunks()))
    merged = pa.concat_tables([raw.table, own.filter(stays).select(raw.table.column_names)])
    return replace(raw, table=merged)


def _read(path: str | Path, mapping: LogMapping) -> tuple[RawCatalogue, dict[str, str]]:
    """A catalogue, and its columns."""
    with tempfile.TemporaryDirectory() as scratch:
        source = opened(*raw_files(path, "items"), Path(scratch), in_turn, mapping.items.nested)
        columns = catalogue_columns(source, mapping)
        return read_catalogue(source, columns, mapping), columns


def _check_collisions(refs: list[str], ids: ItemIds, home: Home) -> None:
    """Refuse an id whose hash is that of another item of the log's catalogue."""
    home.fetch(home.items)
    known = pq.read_table(home.items, columns=["item_id", "item_ref"])
    by_key = dict(zip(known["item_id"].to_pylist(), known["item_ref"].to_pylist(), strict=True))
    for key, ref in zip(ids.keys(refs).tolist(), refs, strict=True):
        if by_key.get(key, ref) != ref:
            raise DataError(
                f"Item ids {ref!r} and {by_key[key]!r} share the hash {key}. Set another "
                f"`hash_seed` in the mapping (now {ids.seed}), ingest with --replace, and train."
            )
