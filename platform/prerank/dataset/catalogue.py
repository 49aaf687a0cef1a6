"""The item catalogue as arrays, which ingest has built."""

from __future__ import annotations

import pyarrow.parquet as pq

from interactrank.features.catalogue import Catalogue
from prerank.core.errors import StateError
from prerank.core.home import Home


def load_catalogue(home: Home) -> Catalogue:
    """Arrays of every item of the catalogue, ascending by id, mapped from the file.

    Raises:
        StateError: nothing was ingested, or by an earlier version.
    """
    home.fetch(home.catalogue)
    if not home.catalogue.exists():
        raise StateError(
            f"{home.catalogue} is missing. Run `prerank ingest` first, with `--replace` where an "
            "earlier version filled this home."
        )
    return Catalogue.load(home.catalogue)


def load_titles(home: Home) -> list[str]:
    """Titles of the same items, "" where there is none."""
    home.fetch(home.items)
    titles: list[str] = pq.read_table(home.items, columns=["title"])["title"].to_pylist()
    return titles
