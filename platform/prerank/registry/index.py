"""The item index of a model version: unit vectors in bf16 and their ids, memory-mapped.

A folder is immutable and renamed into place. It names the weights that its vectors were made with;
a model with others is refused. Its size and checksum are looked at before it is mapped: mapping a
file of the wrong size would grow it.
"""

from __future__ import annotations

import hashlib
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
from interactrank.features.catalogue import Catalogue
from interactrank.model.scorer import Scorer
from prerank.core.errors import NotReadyError, StateError
from prerank.core.files import replaced, write_json
from prerank.core.home import Home
from prerank.core.ray_tasks import ray_map
from prerank.registry.bundle import DIGEST, Bundle, Version, digest_of, load_bundle

VECTORS, IDS, META = "vectors.bf16", "ids.npy", "index.json"
ITEMS_PER_TASK = 50_000


@dataclass(frozen=True)
class ItemIndex:
    """``ids`` int64 [n], ``vectors`` bf16 [n, D] (mapped, read-only)."""

    ids: NDArray[np.int64]
    vectors: Tensor
    meta: dict[str, Any]


def known_at(catalogue: Catalogue, count: int, as_of_us: int) -> list[NDArray[np.bool_]]:
    """Whether text, category and embedding are known at a time: bool [count] each."""
    since = (catalogue.text_from, catalogue.category_from, catalogue.embedding_from)
    return [np.full(count, as_of_us >= start[0]) for start in since]


def encode_slice(bundle: Bundle, start: int, stop: int, as_of_us: int) -> Tensor:
    """Unit vectors bf16 [stop - start, D] of catalogue items, as known at a time."""
    rows = np.arange(start + 1, stop + 1)
    catalogue = bundle.catalogue
    known = known_at(catalogue, len(rows), as_of_us)
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
    home: Home, bundle_folder: Path, version: Version, as_of_us: int | None = None
) -> dict[str, Any]:
    """Encode the catalogue with a model version, a Ray Data task a slice.

    ``as_of_us`` (default now) decides which attributes with a ``valid_from`` are known.
    """
    bundle = load_bundle(bundle_folder)
    n = len(bundle.catalogue)
    stamp = int(time.time() * 1e6) if as_of_us is None else as_of_us
    with replaced(home.index / version.name) as out:
        tasks = [
            SliceTask(bundle_folder, at, min(at + ITEMS_PER_TASK, n), stamp, out / f"part-{at}")
            for at in range(0, n, ITEMS_PER_TASK)
        ]
        ray_map(encode_task, tasks, "index")
        return write_index(out, bundle, version, stamp, [task.part for task in tasks])


def write_index(
    out: Path, bundle: Bundle, version: Version, as_of_us: int, parts: Sequence[Path]
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
        "model_version": version.number,
        "run_id": version.run_id,
        DIGEST: bundle.digest,
        "schema_hash": bundle.schema.hash(),
        "items": len(bundle.catalogue),
        "width": bundle.model.config.width,
        "as_of_us": as_of_us,
        "sha256": digest.hexdigest(),
    }
    write_json(out / META, meta)
    return meta


def index_meta(home: Home, version: Version) -> dict[str, Any]:
    """The meta data of a model version's index.

    Raises:
        NotReadyError: it was not built.
        DamagedError: the file is.
    """
    path, again = home.index / version.name / META, f"prerank index --version {version}"
    if not path.exists():
        raise NotReadyError(f"model version {version} has no item index. Run `{again}`.")
    return home.read_json(path, again)


def load_index(home: Home, version: Version, digest: str) -> ItemIndex:
    """Map a model version's index.

    Args:
        home: where it was built.
        version: of the model.
        digest: of the model's weights (``Bundle.digest``).

    Raises:
        NotReadyError: it was not built; the message says how.
        StateError: it was built with other weights, or its files disagree with their meta data.
    """
    folder, meta = home.index / version.name, index_meta(home, version)
    check_weights(meta, version, digest)
    again = f"Run `prerank index --version {version}` again."
    path, size = folder / VECTORS, meta["items"] * meta["width"]
    if path.stat().st_size != 2 * size:
        found = path.stat().st_size
        raise StateError(f"{path} has {found} bytes, {2 * size} expected. {again}")
    if digest_of(path) != meta["sha256"]:
        raise StateError(f"{path} does not match its checksum. {again}")
    vectors = torch.from_file(str(path), shared=False, size=size, dtype=torch.bfloat16)
    return ItemIndex(np.load(folder / IDS), vectors.view(meta["items"], meta["width"]), meta)


def scorer_of(bundle: Bundle, index: ItemIndex) -> Scorer:
    """The model of a version over its index."""
    return Scorer(bundle.model, bundle.catalogue, index.ids, index.vectors)


def check_weights(meta: dict[str, Any], version: Version, digest: str) -> None:
    """Refuse an index, by its meta data, that was built with other weights than the model's.

    Raises:
        StateError: it was.
    """
    if meta.get(DIGEST) != digest:
        raise StateError(
            f"the item index of model version {version} was built with other weights (SHA-256 "
            f"{str(meta.get(DIGEST))[:8]}, the model has {digest[:8]}). "
            f"Run `prerank index --version {version}` again."
        )
