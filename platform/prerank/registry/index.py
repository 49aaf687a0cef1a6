"""The item index of a model version: unit vectors in bf16 and their ids, memory-mapped.

It holds the items of the catalogue that the model was trained with, and those that were added since
(``prerank.registry.additions``). A folder is immutable, but for what is added, and renamed into
place. It names the weights that its vectors were made with;
a model with others is refused. Its size and checksum are looked at before it is mapped: mapping a
file of the wrong size would grow it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interactrank.features.batch import item_inputs
from interactrank.features.catalogue import Catalogue
from interactrank.features.id_table import IdTable, overlaid
from interactrank.model.scorer import Scorer
from prerank.core.errors import NotReadyError, StateError
from prerank.core.files import fetch, replaced, write_json
from prerank.core.home import Home
from prerank.core.ray_tasks import ray_map
from prerank.core.travel import Carried
from prerank.registry.bundle import DIGEST, Bundle, Version, digest_of, load_bundle
from prerank.registry.delta import INDEX_META, ITEMS, ITEMS_DIGEST, all_others, index_others

VECTORS, IDS = "vectors.bf16", "ids.npy"
ITEMS_PER_TASK = 50_000
AT_ONCE = 1_024
"""Items that are encoded at once."""


@dataclass(frozen=True)
class ItemIndex:
    """``ids`` int64 [n], ``vectors`` bf16 [n, D] (mapped, read-only).

    ``others`` are the items that the model's catalogue lacks, or knows otherwise; None for none.
    """

    ids: NDArray[np.int64]
    vectors: Tensor
    meta: dict[str, Any]
    others: Catalogue | None = None

    def created(self, catalogue: Catalogue) -> NDArray[np.int64]:
        """When the items were created [n], microseconds since 1970, 0 where it is not known.

        Args:
            catalogue: the model's.
        """
        found = catalogue.created_at(catalogue.table().rows(self.ids))
        if self.others is not None:
            found[IdTable(self.ids).rows(self.others.ids)] = self.others.created
        return found


def known_at(catalogue: Catalogue, count: int, as_of_us: int) -> list[NDArray[np.bool_]]:
    """Whether text, category and embedding are known at a time: bool [count] each."""
    since = (catalogue.text_from, catalogue.category_from, catalogue.embedding_from)
    return [np.full(count, as_of_us >= start[0]) for start in since]


def encode(bundle: Bundle, catalogue: Catalogue, rows: NDArray[np.int64], as_of_us: int) -> Tensor:
    """Unit vectors bf16 [n, D] of items, as known at a time.

    Items are encoded so many at once, always, so that a vector does not depend on which others are
    encoded with it: products of matrices round by their shapes.

    Args:
        bundle: the version.
        catalogue: of the items, which need not be the version's.
        rows: int64 [n], places in ``catalogue``.
        as_of_us: microseconds since 1970.
    """
    known = known_at(catalogue, AT_ONCE, as_of_us)
    # Row 0 is the unknown item, which an item that the model does not know has the id of.
    of_model = rows + 1
    if catalogue is not bundle.catalogue:
        of_model = bundle.catalogue.table().rows(catalogue.ids[rows]) + 1
    vectors = torch.empty((len(rows), bundle.model.config.width), dtype=torch.bfloat16)
    with torch.inference_mode():
        for start in range(0, len(rows), AT_ONCE):
            some = slice(start, min(start + AT_ONCE, len(rows)))
            # What is encoded for the places left over is thrown away.
            over = (0, AT_ONCE - (some.stop - start))
            inputs = item_inputs(catalogue, np.pad(rows[some] + 1, over), *known)
            inputs["rows"] = torch.from_numpy(np.pad(of_model[some], over))
            encoded = bundle.model.encode_items(inputs)
            vectors[some] = encoded[: some.stop - start].to(torch.bfloat16)
    return vectors


@dataclass(frozen=True)
class SliceTask:
    """Catalogue items [start, stop) to be encoded into the file ``part``."""

    bundle: Path
    start: int
    stop: int
    as_of_us: int
    part: Path

    def reads(self) -> list[Path]:
        """The version's files."""
        return [self.bundle]

    def writes(self) -> list[Path]:
        """The file of vectors."""
        return [self.part]


def encode_task(task: SliceTask) -> None:
    """Write the vectors of a slice, bf16, to its file."""
    bundle = load_bundle(task.bundle)
    rows = np.arange(task.start, task.stop)
    vectors = encode(bundle, bundle.catalogue, rows, task.as_of_us)
    vectors.view(torch.int16).numpy().tofile(task.part)


def build_index(
    home: Home, bundle_folder: Path, version: Version, as_of_us: int | None = None
) -> dict[str, Any]:
    """Encode the catalogue with a model version, a Ray Data task a slice.

    Items that were added to the index of before join the new one.

    ``as_of_us`` (default now) decides which attributes with a ``valid_from`` are known.

    Raises:
        DamagedError: what was added is; the message says how to do without.
    """
    bundle = load_bundle(bundle_folder)
    n = len(bundle.catalogue)
    stamp = int(time.time() * 1e6) if as_of_us is None else as_of_us
    folder = home.index / version.name
    home.fetch(folder)
    with replaced(folder) as out:
        others = all_others(folder)
        tasks = [
            SliceTask(bundle_folder, at, min(at + ITEMS_PER_TASK, n), stamp, out / f"part-{at}")
            for at in range(0, n, ITEMS_PER_TASK)
        ]
        ray_map(Carried(encode_task, SliceTask.reads, SliceTask.writes), tasks, "index")
        fetch(out)
        return write_index(out, bundle, version, stamp, [task.part for task in tasks], others)


def write_index(
    out: Path,
    bundle: Bundle,
    version: Version,
    as_of_us: int,
    parts: Sequence[Path],
    others: Catalogue | None = None,
) -> dict[str, Any]:
    """Join the encoded ``parts`` of the catalogue into the index ``out``, and remove them.

    ``others`` join them, or take the places of items of the same ids.
    """
    ids, width = bundle.catalogue.ids, bundle.model.config.width
    pieces, about = _taken(parts), dict[str, Any]()
    if others is not None:
        added = encode(bundle, others, np.arange(len(others)), as_of_us).view(torch.int16).numpy()
        ids, place = overlaid(ids, others.ids)
        pieces = _overlaid(pieces, added, place)
        others.save(out / ITEMS)
        about = {ITEMS_DIGEST: digest_of(out / ITEMS)}
    digest = hashlib.sha256()
    with (out / VECTORS).open("wb") as whole:
        for piece in pieces:
            whole.write(piece)
            digest.update(piece)
    np.save(out / IDS, ids)
    meta = {
        "model_version": version.number,
        "run_id": version.run_id,
        DIGEST: bundle.digest,
        "schema_hash": bundle.schema.hash(),
        "items": len(ids),
        "width": width,
        "as_of_us": as_of_us,
        "sha256": digest.hexdigest(),
        **about,
    }
    write_json(out / INDEX_META, meta)
    return meta


def _taken(files: Sequence[Path]) -> Iterator[bytes]:
    """The content of each file, which is removed when the next one is asked for."""
    for file in files:
        yield file.read_bytes()
        file.unlink()


def _overlaid(
    own: Iterable[bytes], added: NDArray[np.int16], place: NDArray[np.int64]
) -> Iterator[bytes]:
    """Vectors in the order of ``place``, which counts through ``own`` and then ``added`` [m, D]."""
    width = added.shape[1]
    both = np.concatenate([*(np.frombuffer(p, np.int16).reshape(-1, width) for p in own), added])
    for start in range(0, len(place), ITEMS_PER_TASK):
        yield both[place[start : start + ITEMS_PER_TASK]].tobytes()


def index_meta(home: Home, version: Version) -> dict[str, Any]:
    """The meta data of a model version's index.

    Raises:
        NotReadyError: it was not built.
        DamagedError: the file is.
    """
    path, again = home.index / version.name / INDEX_META, f"prerank index --version {version}"
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
    home.fetch(folder)
    check_weights(meta, version, digest)
    again = f"Run `prerank index --version {version}` again."
    path, size = folder / VECTORS, meta["items"] * meta["width"]
    if path.stat().st_size != 2 * size:
        found = path.stat().st_size
        raise StateError(f"{path} has {found} bytes, {2 * size} expected. {again}")
    if digest_of(path) != meta["sha256"]:
        raise StateError(f"{path} does not match its checksum. {again}")
    vectors = torch.from_file(str(path), shared=False, size=size, dtype=torch.bfloat16)
    vectors = vectors.view(meta["items"], meta["width"])
    return ItemIndex(np.load(folder / IDS), vectors, meta, index_others(folder, meta))


def scorer_of(bundle: Bundle, index: ItemIndex) -> Scorer:
    """The model of a version over its index."""
    created = index.created(bundle.catalogue)
    return Scorer(bundle.model, bundle.catalogue, index.ids, index.vectors, created)


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
