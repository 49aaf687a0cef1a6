"""Feature inputs of requests as named arrays, as golden requests and MLflow's model hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from interactrank.features.inputs import FeatureInputs
from interactrank.features.item_vectors import ItemVectors
from interactrank.features.near import Near

INPUTS, SNAPSHOT = "inputs.", "snapshot."
"""Begin the names of the inputs' arrays, and of vectors of items, by their cutoffs."""


def arrays_of(inputs: FeatureInputs, candidates: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The arrays of ``inputs`` by name; of vectors of items, those of ``candidates``."""
    arrays = {f"{INPUTS}{name}": array for name, array in inputs.arrays().items()}
    for cutoff, vectors in inputs.snapshots.items():
        kept = vectors.only(candidates)
        arrays |= {f"{SNAPSHOT}{cutoff}.ids": kept.ids, f"{SNAPSHOT}{cutoff}.bits": kept.bits}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def take_inputs(arrays: dict[str, NDArray[Any]]) -> FeatureInputs:
    """What ``arrays_of`` wrote, taken out of ``arrays``; ``check_inputs`` says if it fits a schema.

    Raises:
        ValueError: an array is of another form; names it.
        KeyError: one is missing.
    """
    snapshots = _snapshots(arrays)
    # Requests of a release that knew no neighbours have none.
    names = FeatureInputs.names()
    stored = [n for n in names if n not in Near._fields or f"{INPUTS}{n}" in arrays]
    return FeatureInputs.restored(
        {name: arrays.pop(f"{INPUTS}{name}") for name in stored}, snapshots
    )


def _snapshots(arrays: dict[str, NDArray[Any]]) -> dict[int, ItemVectors]:
    """Vectors of items by their cutoffs, taken out of ``arrays``.

    Raises:
        ValueError: they are none.
    """
    found = {}
    for name in sorted(name for name in arrays if name.startswith(SNAPSHOT)):
        cutoff, part = name.removeprefix(SNAPSHOT).split(".")
        if part == "bits":
            bits, ids = arrays.pop(name), arrays.pop(f"{SNAPSHOT}{cutoff}.ids")
            if bits.dtype != np.uint16 or bits.ndim != 2 or ids.dtype != np.int64:
                raise ValueError(f"the vectors of {cutoff} are none")
            if ids.shape != (len(bits),):
                raise ValueError(f"the vectors of {cutoff} must have an id each")
            # As a mapped file's are: numba compiles a kernel anew for an array that may be written.
            bits.flags.writeable = False
            found[int(cutoff)] = ItemVectors(ids, bits)
    return found


def to_bytes(inputs: FeatureInputs, b: int, candidates: NDArray[np.int64]) -> bytes:
    """Request ``b`` of ``inputs`` alone, as safetensors: its rows, its history, its vectors."""
    own = inputs.slice(b, b + 1)
    used, key_block = np.unique(own.key_block, return_inverse=True)
    has_none = int(used[:1].sum() < 0)  # -1 stands for a key without a row
    used = used[has_none:]
    sizes = own.block_size[used]
    rows = [own.blocks[own.block_start[r] :][: own.block_size[r]] for r in used]
    near = set(own.near_cutoffs.tolist())
    alone = replace(
        own,
        blocks=np.concatenate([np.zeros(0, np.uint8), *rows]),
        block_start=np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))[:-1],
        block_size=sizes,
        key_block=key_block.astype(np.int64) - has_none,
        snapshots={c: v for c, v in own.snapshots.items() if c in near},
    )
    data: bytes = save(arrays_of(alone, candidates))
    return data


def from_bytes(data: bytes) -> FeatureInputs:
    """What ``to_bytes`` made.

    Raises:
        ValueError: it is none.
    """
    try:
        arrays: Mapping[str, NDArray[Any]] = load(data)
        return take_inputs(dict(arrays))
    except SafetensorError as error:
        raise ValueError(f"no safetensors: {error}") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"an array is missing or wrong: {error}") from None
