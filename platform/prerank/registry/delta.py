"""Items that an index lacks, or knows otherwise: the files of a delta beside it.

    index/<version>/added.json                    names the file that counts, and its digest
    index/<version>/added-<digest>.safetensors    items as arrays, and their vectors in bf16
    index/<version>/items.safetensors             items that joined when the index was built

The file that is named is never changed; another one is written, and the name is switched. A delta
holds all items that were added since the index was built. It lies in the index's folder, so that it
goes when another index takes its place, which has the items itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from interactrank.features.catalogue import Catalogue
from interactrank.model.index_items import Added
from prerank.core.errors import DamagedError
from prerank.core.files import read_json, read_json_or_nothing, remove, write_json, written
from prerank.registry.bundle import digest_of

INDEX_META = "index.json"
ITEMS, ITEMS_DIGEST = "items.safetensors", "items_sha256"
POINTER, VECTORS = "added.json", "vectors"
PATTERN = "added-*.safetensors"


@dataclass(frozen=True)
class Delta:
    """``items``, and their ``vectors`` bf16 [items, D]."""

    items: Catalogue
    vectors: Tensor

    @property
    def added(self) -> Added:
        """As a scorer takes them."""
        return Added(self.items.ids, self.vectors, self.items.created)


def save_delta(folder: Path, delta: Delta) -> None:
    """Publish what was added to the index in ``folder``; its lock must be held.

    The file of before stays until the next delta, for a reader that was told of it.
    """
    arrays = {f.name: getattr(delta.items, f.name) for f in fields(Catalogue)}
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    data = save(tensors | {VECTORS: delta.vectors})
    digest = hashlib.sha256(data).hexdigest()
    before = read_json_or_nothing(folder / POINTER).get("file")
    name = f"added-{digest[:16]}.safetensors"
    with written(folder / name) as file:
        file.write(data)
    about = {"file": name, "sha256": digest, "items": len(delta.items)}
    write_json(folder / POINTER, about)
    for path in folder.glob(PATTERN):
        if path.name not in (name, before):
            remove(path)


def load_delta(folder: Path) -> Delta | None:
    """What was added to the index in ``folder``; None where nothing was.

    Raises:
        DamagedError: it is; the message says how to do without.
    """
    pointer = folder / POINTER
    if not pointer.exists():
        return None
    try:
        about = read_json(pointer)
        path = folder / about["file"]
        if digest_of(path) != about["sha256"]:
            raise ValueError(f"{path.name} does not match its checksum")
        items = Catalogue.load(path)
        with safe_open(path, framework="pt") as file:
            vectors = file.get_tensor(VECTORS)
        if vectors.dtype != torch.bfloat16 or vectors.shape[:-1] != (len(items),):
            raise ValueError(f"{path.name} holds other vectors than of its items")
    except (OSError, LookupError, ValueError, TypeError, DamagedError, SafetensorError) as error:
        raise DamagedError(
            f"{pointer} is damaged: {error}. Remove it, and run `prerank add-items` again."
        ) from None
    return Delta(items, vectors)


def index_others(folder: Path, meta: dict[str, Any]) -> Catalogue | None:
    """Items of the index in ``folder`` that the model's catalogue lacks, or knows otherwise.

    Raises:
        DamagedError: their file is; the message says how to do without.
    """
    path = folder / ITEMS
    if ITEMS_DIGEST not in meta:
        return None
    try:
        if digest_of(path) != meta[ITEMS_DIGEST]:
            raise ValueError("it does not match its checksum")
        return Catalogue.load(path)
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise DamagedError(
            f"{path} is damaged: {error}. Remove {folder}, run `prerank index`, and then "
            "`prerank add-items` again."
        ) from None


def all_others(folder: Path) -> Catalogue | None:
    """All items that were added to the version whose index is in ``folder``; None for none.

    Raises:
        DamagedError: as ``load_delta`` and ``index_others``.
    """
    of_index = index_others(folder, read_json_or_nothing(folder / INDEX_META))
    delta = load_delta(folder)
    if delta is None or of_index is None:
        return delta.items if delta else of_index
    return of_index.updated(delta.items)
