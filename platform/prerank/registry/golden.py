"""Golden requests: a few requests of the validation split, with the scores that training gave them.

They stand in a version's bundle with all that they are scored from: packed rows, histories and
candidates. Whoever is to serve the version scores them again, with its own kernels, libraries and
index, and compares: another index, a broken kernel or a changed feature is seen before a caller
sees it.

The scores are the training side's: the forward pass in float32, over features that are computed
with all candidates at once. Two things may part the served side from it (``tolerance_of``): item
vectors are rounded to bf16, and sums are made in another order.

One safetensors file. The meta data of the bundle name its digest, so that a version of before,
which has none, is told from one that lost it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from interactrank.features.bounds import check_bounds
from interactrank.features.catalogue import Catalogue
from interactrank.features.inputs import FeatureInputs, check_inputs
from interactrank.features.schema import FeatureSchema
from interactrank.model.scorer import Scored, Scorer
from prerank.core.errors import DamagedError, StateError
from prerank.core.files import read_json, write_json
from prerank.registry.bundle import META, Version, digest_of
from prerank.registry.stored_inputs import arrays_of, take_inputs

GOLDEN, GOLDEN_DIGEST = "golden.safetensors", "golden_sha256"
BF16_ERROR = 2.0**-8
"""A number is rounded to bf16, of 8 significant bits, by at most this share of it."""
SUMS_ERROR = 1e-3
"""Of a head's logit: what float32 sums in another order, or on another processor, may differ by."""
MAX_REQUESTS, MAX_BYTES = 1_000, 256 << 20
BEST = 10
"""Places of a request whose order is looked at."""


@dataclass(frozen=True)
class Golden:
    """B requests with N candidates in all, H heads and R numbers that a caller gives of each.

    Attributes:
        queries: normalised, B of them.
        inputs: features of the B requests; of vectors of items, those of ``candidates`` are kept.
        candidates: int64 [N], distinct within a request; ``offsets`` int64 [B + 1].
        retriever_features: float32 [N, R].
        weights: float32 [H], of the heads.
        scores: float32 [N], of the training side.
        tolerance: float32 [B], how far a served score may be from it.
    """

    queries: tuple[str, ...]
    inputs: FeatureInputs
    candidates: NDArray[np.int64]
    offsets: NDArray[np.int64]
    retriever_features: NDArray[np.float32]
    weights: NDArray[np.float32]
    scores: NDArray[np.float32]
    tolerance: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.queries)


_OWN = {
    "candidates": np.int64,
    "offsets": np.int64,
    "retriever_features": np.float32,
    "weights": np.float32,
    "scores": np.float32,
    "tolerance": np.float32,
}


@dataclass(frozen=True)
class Replay:
    """How many golden requests agreed, and the median milliseconds of scoring one of them."""

    requests: int
    median_ms: float


def tolerance_of(scale: float, slope: float) -> float:
    """How far a served score may be from training's, of a request.

    score = scale <q, p> + g + constant, where |p| = 1 and |q| <= ``slope``: the heads' unit vectors
    by their weights. Rounding p moves the dot by no more than ``BF16_ERROR`` x sum |q_d p_d|, which
    is at most ``BF16_ERROR`` x |q|. This is a bound, not a guess: vectors of other weights are off
    by tens of times as much.

    Args:
        scale: the fusion's, for the request.
        slope: sum of the absolute factors of the heads.
    """
    return slope * (scale * BF16_ERROR + SUMS_ERROR)


def save_golden(folder: Path, golden: Golden) -> None:
    """Add golden requests to the bundle in ``folder``, which nobody reads yet."""
    arrays = arrays_of(golden.inputs, golden.candidates)
    whole = arrays | {name: np.ascontiguousarray(getattr(golden, name)) for name in _OWN}
    # Not save_file, whose files nobody else may read: the weights can be, by who serves them.
    data = save(whole, metadata={"queries": json.dumps(golden.queries)})
    (folder / GOLDEN).write_bytes(data)
    meta = read_json(folder / META)
    write_json(folder / META, meta | {GOLDEN_DIGEST: digest_of(folder / GOLDEN)})


def load_golden(folder: Path, schema: FeatureSchema, meta: dict[str, Any]) -> Golden | None:
    """Golden requests of the bundle in ``folder``; None of a version registered without any.

    Args:
        folder: of the bundle.
        schema: of the model.
        meta: of the bundle.

    Raises:
        DamagedError: the file is missing or damaged; the message names it.
    """
    if GOLDEN_DIGEST not in meta:
        return None
    path = folder / GOLDEN
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        if digest_of(path) != meta[GOLDEN_DIGEST]:
            raise ValueError("it does not match its checksum")
        found = _read(path)
        _check(found, schema)
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except (ValueError, TypeError, LookupError, SafetensorError) as error:
        raise _damaged(path, str(error)) from None
    return found


def _damaged(path: Path, why: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged: {why}. Remove {path.parent}: it is then downloaded again."
    )


def _read(path: Path) -> Golden:
    with safe_open(path, framework="numpy") as file:
        queries = json.loads((file.metadata() or {})["queries"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    inputs = take_inputs(arrays)
    for name, dtype in _OWN.items():
        if arrays[name].dtype != dtype:
            raise ValueError(f"{name} has numbers of another type: {arrays[name].dtype}")
    if not all(isinstance(query, str) for query in queries):
        raise ValueError("a query is no text")
    return Golden(tuple(queries), inputs, **arrays)


def _check(golden: Golden, schema: FeatureSchema) -> None:
    """Refuse what would make a kernel read beyond an array, or could not be compared.

    Raises:
        ValueError: naming it.
    """
    requests, n = len(golden), len(golden.candidates)
    if not 0 < requests <= MAX_REQUESTS:
        raise ValueError(f"it must hold 1 to {MAX_REQUESTS} requests, found {requests}")
    check_inputs(schema, golden.inputs)
    check_bounds("offsets", golden.offsets, requests, n)
    if not np.diff(golden.offsets).all():
        raise ValueError("a request has no candidates")
    segments = golden.inputs.segments
    shapes = {
        "inputs.time": (golden.inputs.time.shape, (requests,)),
        "inputs.segments": (segments.shape, (requests, len(schema.segments))),
        "candidates": (golden.candidates.shape, (n,)),
        "retriever_features": (golden.retriever_features.shape, (n, len(schema.given))),
        "weights": (golden.weights.shape, (len(schema.heads),)),
        "scores": (golden.scores.shape, (n,)),
        "tolerance": (golden.tolerance.shape, (requests,)),
    }
    if not segments.size:  # a request without segments may say so in any shape
        del shapes["inputs.segments"]
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise ValueError(f"{name} must have the shape {expected}, found {found}")
    for name in ("weights", "scores", "tolerance"):
        if not np.isfinite(getattr(golden, name)).all():
            raise ValueError(f"{name} holds what is no finite number")


def replay(
    golden: Golden, scorer: Scorer, version: Version, changed: Catalogue | None = None
) -> Replay:
    """Score the golden requests as callers' are scored, compare, and then measure.

    Args:
        golden: of the version.
        scorer: over the version's index.
        version: for messages.
        changed: items of the index that are not as at training; not compared.

    Raises:
        StateError: they do not score as at training.
    """
    others = np.zeros(0, np.int64) if changed is None else changed.ids
    wrong = [what for b in range(len(golden)) if (what := _difference(golden, b, scorer, others))]
    if wrong:
        raise StateError(
            f"model version {version} does not score as it did at training: {len(wrong)} of its "
            f"{len(golden)} golden requests differ. {wrong[0]}. Run `prerank index --version "
            f"{version}` again; if that does not help, train and register it anew with this "
            "release and these libraries."
        )
    took = []
    for b in range(len(golden)):
        begun = time.perf_counter()
        _score(golden, b, scorer).top(BEST)
        took.append(time.perf_counter() - begun)
    return Replay(len(golden), 1e3 * float(np.median(took)))


def _score(golden: Golden, b: int, scorer: Scorer) -> Scored:
    own = slice(golden.offsets[b], golden.offsets[b + 1])
    told = golden.retriever_features[own] if golden.retriever_features.shape[1] else None
    return scorer.score(
        golden.queries[b],
        golden.inputs.slice(b, b + 1),
        golden.candidates[own],
        golden.weights,
        told,
    )


def _difference(golden: Golden, b: int, scorer: Scorer, changed: NDArray[np.int64]) -> str:
    """How request ``b`` scores other than it did; empty if it does not."""
    scored, request = _score(golden, b, scorer), f"Request {b + 1}"
    if n := len(scored.unknown):
        return f"{request}: the index lacks {n} of its {len(scored.ids)} candidates"
    if n := scored.non_finite:
        return f"{request}: {n} of its {len(scored.ids)} scores are no finite numbers"
    expected = golden.scores[golden.offsets[b] : golden.offsets[b + 1]]
    gap = np.abs(scored.scores - expected)
    gap[np.isin(scored.ids, changed)] = 0.0
    worst = int(gap.argmax())
    if gap[worst] > golden.tolerance[b]:
        return (
            f"{request}: item {scored.ids[worst]} scores {scored.scores[worst]:.4f}, and "
            f"{expected[worst]:.4f} at training, {golden.tolerance[b]:.4f} apart at most"
        )
    # The order follows from the scores, if the best are found as a full sort finds them.
    if not np.array_equal(scored.scores[scored.top(BEST)], np.sort(scored.scores)[::-1][:BEST]):
        return f"{request}: its best items are not those with the highest scores"
    return ""
