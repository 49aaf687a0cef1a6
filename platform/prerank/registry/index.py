"""The item index of a model version: unit vectors in bf16 and their ids, memory-mapped.

A folder is immutable and renamed into place. Its size and checksum are looked at before it is
mapped: mapping a file of the wrong size would grow it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interactrank.features.batch import item_inputs
from prerank.core.errors import NotReadyError, StateError
from prerank.core.files import replaced, write_json
from prerank.core.home import Home
from prerank.core.ray_tasks import ray_map
from prerank.registry.bundle import Bundle, load_bundle

VECTORS, IDS, META = "vectors.bf16", "ids.npy", "index.json"
ITEMS_PER_TASK = 50_000


@dataclass(frozen=True)
class ItemIndex:
    """``ids`` int64 [n], ``vectors`` bf16 [n, D] (mapped, read-only)."""

    ids: NDArray[np.int64]
    vectors: Tensor
    meta: dict[str, Any]


def encode_slice(bundle: Bundle, start: int, stop: int, as_of_us: int) -> Tensor:
    """Unit vectors bf16 [stop - start, D] of catalogue items, as known at a time."""
    rows = np.arange(start + 1, stop + 1)
    catalogue = bundle.catalogue
    since = (catalogue.text_from, catalogue.category_from, catalogue.embedding_from)
    known = [np.full(len(rows), as_of_us >= start[0]) for start in since]
    with torch.inference_mode():
        vectors = bundle.model.encode_items(item_inputs(catalogue, rows, *known))
    return vectors.to(torch.bfloat16)


@dataclass(frozen=True)
class SliceTask:
    """Catalogue items [start, stop) to be encoded into the file ``part``."""

    bundle: Path
    start: int
    stop: int
    as_of_us: int
    part: Path


def encode_task(task: SliceTask) -> None:
    """Write the vectors of a slice, bf16, to its file."""
    vectors = encode_slice(load_bundle(task.bundle), task.start, task.stop, task.as_of_us)
    vectors.contiguous().view(torch.int16).numpy().tofile(task.part)


def build_index(
    home: Home, bundle_folder: Path, model_version: str, as_of_us: int | None = None
) -> dict[str, Any]:
    """Encode the catalogue with a model version, a Ray Data task a slice.

    ``as_of_us`` (default now) decides which attributes with a ``valid_from`` are known.
    """
    bundle = load_bundle(bundle_folder)
    n = len(bundle.catalogue)
    stamp = int(time.time() * 1e6) if as_of_us is None else as_of_us
    with replaced(home.index / model_version) as out:
        tasks = [
            SliceTask(bundle_folder, at, min(at + ITEMS_PER_TASK, n), stamp, out / f"part-{at}")
            for at in range(0, n, ITEMS_PER_TASK)
        ]
        ray_map(encode_task, tasks, "index")
        return write_index(out, bundle, model_version, stamp, [task.part for task in tasks])


def write_index(
    out: Path, bundle: Bundle, model_version: str, as_of_us: int, parts: Sequence[Path]
) -> dict[str, Any]:
    """Join the encoded ``parts`` of the catalogue into the index ``out``, and remove them."""
    digest = hashlib.sha256()
    with (out / VECTORS).open("wb") as whole:
        for part in parts:
            data = part.read_bytes()
            digest.update(data)
            whole.write(data)
            part.unlink()
    np.save(out / IDS, bundle.catalogue.ids)
    meta = {
        "model_version": model_version,
        "schema_hash": bundle.schema.hash(),
        "items": len(bundle.catalogue),
        "width": bundle.model.config.width,
        "as_of_us": as_of_us,
        "sha256": digest.hexdigest(),
    }
    write_json(out / META, meta)
    return meta


def load_index(home: Home, model_version: str) -> ItemIndex:
    """Map a model version's index.

    Raises:
        NotReadyError: it was not built; the message says how.
        StateError: the files disagree with their meta data.
    """
    folder = home.index / model_version
    if not (folder / META).exists():
        raise NotReadyError(
            f"model version {model_version} has no item index. "
            f"Run `prerank index --version {model_version}`."
        )
    meta = json.loads((folder / META).read_text())
    path, size = folder / VECTORS, meta["items"] * meta["width"]
    if path.stat().st_size != 2 * size:
        raise StateError(f"{path} has {path.stat().st_size} bytes, {2 * size} expected: rebuild it")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != meta["sha256"]:
            raise StateError(f"{path} does not match its checksum: rebuild it")
    vectors = torch.from_file(str(path), shared=False, size=size, dtype=torch.bfloat16)
    return ItemIndex(np.load(folder / IDS), vectors.view(meta["items"], meta["width"]), meta)
