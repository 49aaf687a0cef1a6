"""Adding items to a version's index: new ones, and ones whose attributes changed.

Only they are encoded, in this process; the index stays as it is, and replicas join what was added
within seconds. A new item is one whose id the model does not know: text, category, numbers and
embedding speak for it. ``prerank index`` makes one index of both, which scores the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interactrank.features.catalogue import Catalogue
from prerank.core.errors import DataError, StateError
from prerank.core.files import locked
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.registry.bundle import Bundle, Version
from prerank.registry.delta import Delta, index_others, load_delta, save_delta
from prerank.registry.index import check_weights, encode, index_meta

MAX_ADDED = 50_000
"""Items of a delta: they are encoded anew with each addition, and every replica reads them."""


@dataclass(frozen=True)
class AddedItems:
    """How many items were new, changed, or as the version knew them; ``total`` of the delta."""

    new: int
    changed: int
    same: int
    total: int


def add_items(home: Home, bundle: Bundle, version: Version, items: Catalogue) -> AddedItems:
    """Make ``items`` scorable by a version, and have its replicas notice.

    Args:
        home: of the version.
        bundle: the version.
        version: whose index is there.
        items: as the log's mapping reads them.

    Raises:
        NotReadyError: the version has no index.
        StateError: the index is of other weights, the items have other columns than the version
            was trained with, or what was added before is damaged.
        DataError: they are too many.
    """
    check_columns(bundle, items, LogManifest.load(home))
    folder = home.index / version.name
    home.fetch(folder)
    with locked(folder):
        meta = index_meta(home, version)
        check_weights(meta, version, bundle.digest)
        before = load_delta(folder)
        layers = (before.items if before else None, index_others(folder, meta), bundle.catalogue)
        new, changed = _news(items, [layer for layer in layers if layer is not None])
        wanted = items.take(np.sort(np.concatenate((new, changed))))
        whole = before.items.updated(wanted) if before else wanted
        if len(whole) > MAX_ADDED:
            raise DataError(
                f"{len(whole):,} items were added or changed since the index of model version "
                f"{version} was built; at most {MAX_ADDED:,} are allowed. Run `prerank index "
                f"--version {version}`, which takes in those that were added, and give the others "
                f"in files of {MAX_ADDED:,} with a `prerank index` after each; or train again on "
                "the new catalogue."
            )
        if len(wanted):
            # As of when the index was built, so that all vectors know the same.
            vectors = encode(bundle, whole, np.arange(len(whole)), meta["as_of_us"])
            save_delta(folder, Delta(whole, vectors))
    return AddedItems(len(new), len(changed), len(items) - len(wanted), len(whole))


def check_columns(bundle: Bundle, items: Catalogue, log: LogManifest) -> None:
    """Refuse items that are read by another mapping than the version was trained with.

    Raises:
        StateError: they are; names the columns.
    """
    own, now = bundle.schema, log.schema
    for what, trained, found in (
        ("items.numeric", own.item_numeric, now.item_numeric),
        ("items.embedding", own.item_embedding, now.item_embedding),
    ):
        if trained != found:
            raise StateError(
                f"the version was trained with `{what}` {list(trained)}, the log's mapping has "
                f"{list(found)} now: its item tower cannot read these items. Train again."
            )
    width, expected = items.embedding.shape[1], bundle.catalogue.embedding.shape[1]
    if width != expected:
        raise DataError(
            f"the embeddings ({', '.join(now.item_embedding)}) have {width} numbers, those that "
            f"the version was trained with {expected}: give embeddings of the same model."
        )


def _news(items: Catalogue, layers: list[Catalogue]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the items that no layer has, and of those that the first layer with them has
    otherwise.
    """
    rest, changed = np.arange(len(items)), [np.zeros(0, np.int64)]
    for layer in layers:
        there = layer.table().rows(items.ids[rest]) >= 0
        found, rest = rest[there], rest[~there]
        changed.append(found[items.take(found).differs(layer)])
    return rest, np.concatenate(changed)
