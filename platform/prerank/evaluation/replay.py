"""`prerank replay`: what would another version have answered to the requests that were served?

The served log holds the feature inputs of each answer (``prerank.core.served``), so a version
scores what was read then, over its own item index, as a replica would. Compared are the items of
the answer: those that were scored and not written down (``log_items``) cannot come in, and the
report says how many answers are so cut. Head weights of a request's own are not in the log; the
default ones score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from interactrank.features.inputs import FeatureInputs
from interactrank.features.item_vectors import ItemVectors
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.model.scorer import Scorer
from prerank.core.errors import DamagedError, DataError
from prerank.core.graphs import Graphs, cutoff_of, read_vectors
from prerank.core.home import Home
from prerank.core.ids import ItemIds
from prerank.core.manifest import LogManifest
from prerank.core.progress import bar
from prerank.core.served import REQUESTS
from prerank.evaluation.per_request import HEAD_QUERY, TORSO_QUERY
from prerank.serving.fields import weights_of

KEPT = (5, 10)
"""Sizes of the top whose overlap is told, beside the cut to a tenth of what was scored."""
SEED = 0
ALL = "all"
NO_ITEMS = "no items were answered, or the caller has ranked them itself (/v1/query)"


@dataclass(frozen=True)
class Changed:
    """What would change in some answers: means over them.

    Attributes:
        answers: how many.
        overlap: size of the top ("5", "10", "cut") -> share of its items that stay in it.
        moved: places by which an item moves.
        first: share of the answers whose first item is another one.
        same: share of the answers whose order stays.
        shift: new score minus the one that was served.
    """

    answers: int
    overlap: Mapping[str, float]
    moved: float
    first: float
    same: float
    shift: float


@dataclass(frozen=True)
class Replayed:
    """What a version would change.

    Attributes:
        version: that scored.
        served_by: version that answered -> answers.
        slices: kind of request -> what changes; ``ALL`` first.
        cut_off: share of the answers of which not all scored items were written down.
        unknown: items of the answers that the version's index lacks, scored as unknown ones.
        skipped: why an answer could not be scored -> how many.
        first, last: ISO times of the requests.
    """

    version: str
    served_by: Mapping[str, int]
    slices: Mapping[str, Changed]
    cut_off: float
    unknown: int
    skipped: Mapping[str, int]
    first: str
    last: str

    def table(self) -> str:
        """For a terminal."""
        served = ", ".join(f"{n:,} by version {v}" for v, n in self.served_by.items())
        tops = [*next(iter(self.slices.values())).overlap]
        head = f"{'':<14}{'answers':>9}" + "".join(f"{f'top {k}':>9}" for k in tops)
        lines = [
            f"version {self.version} on answers from {self.first} to {self.last}: {served}",
            f"{head}{'moved':>9}{'first':>9}{'same':>9}{'shift':>9}",
        ]
        for name, c in self.slices.items():
            kept = "".join(f"{c.overlap[k]:>9.1%}" for k in tops)
            lines.append(
                f"{name:<14}{c.answers:>9,}{kept}{c.moved:>9.2f}{c.first:>9.1%}{c.same:>9.1%}"
                f"{c.shift:>+9.3f}"
            )
        lines.append(
            "top: share of its items that stay; moved: places, in the mean; first: another item is "
            "first; same: the order stays"
        )
        if self.cut_off:
            lines.append(
                f"{self.cut_off:.0%} of the answers were written down in part (log_items): what "
                "would come in from below is not seen"
            )
        if self.unknown:
            lines.append(f"{self.unknown:,} items are not in the version's index")
        lines += [f"not scored: {n:,} x {why}" for why, n in self.skipped.items()]
        return "\n".join(lines)


@dataclass
class _Seen:
    """What is summed up while answers are scored: a row of numbers each, and its slices."""

    rows: list[tuple[float, ...]] = field(default_factory=list)
    slices: list[dict[str, bool]] = field(default_factory=list)
    served_by: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    cut_off: int = 0
    unknown: int = 0
    times: list[Any] = field(default_factory=list)


def replay(home: Home, log: Path, scorer: Scorer, version: str, limit: int) -> Replayed:
    """Score the answers of a served log with a version.

    Args:
        home: of the log, for its ids and its snapshots of the item graph.
        log: folder of answers, ``day=*/*.parquet``, as ``prerank.core.served`` has them.
        scorer: of the version, over its index.
        version: its number.
        limit: more answers are sampled, by a seed.

    Raises:
        DataError: the log holds no answer, or none that the version can score.
        DamagedError: a file cannot be read.
    """
    total = _answers(log)
    if not total:
        raise DataError(
            f"{log} holds no answer. With `log_share` above 0, a deployment writes them down."
        )
    chosen = np.ones(total, bool)
    if total > limit:
        chosen[:] = False
        chosen[np.random.default_rng(SEED).choice(total, limit, replace=False)] = True
    ids, vectors = LogManifest.load(home).item_ids, _vectors(home, scorer.schema)
    seen = _Seen()
    with bar(total=int(chosen.sum()), desc="replay", unit="answer") as shown:
        for row in _rows(log, chosen):
            shown.update()
            if not row["items"]:
                seen.skipped[NO_ITEMS] = seen.skipped.get(NO_ITEMS, 0) + 1
                continue
            try:
                _add(seen, row, scorer, ids, vectors)
            except (ValueError, SafetensorError, DataError, KeyError) as error:
                why = f"its inputs are not of the version's features ({error})"
                seen.skipped[why] = seen.skipped.get(why, 0) + 1
    if not seen.rows:
        raise DataError(
            f"version {version} can score none of {total:,} answers: {next(iter(seen.skipped))}"
        )
    return _summed(seen, version)


def _answers(log: Path) -> int:
    return sum(_read(pq.read_metadata, f).num_rows for f in _files(log))


def _files(log: Path) -> list[Path]:
    return sorted(log.glob("day=*/[!.]*.parquet"))


def _read(read: Any, file: Path) -> Any:
    try:
        return read(file)
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"{file} cannot be read: {error}. Move it away.") from None


def _rows(log: Path, chosen: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """The chosen answers, a file in memory at a time."""
    start = 0
    for file in _files(log):
        table = _read(lambda f: pq.read_table(f, schema=REQUESTS, partitioning=None), file)
        own = chosen[start : start + len(table)]
        start += len(table)
        yield from table.filter(pa.array(own)).to_pylist()


def _vectors(home: Home, schema: FeatureSchema) -> dict[int, Path]:
    """Cutoff -> file of a snapshot of item vectors."""
    if not schema.graph:
        return {}
    folder = home.features_of(schema.hash())
    home.fetch(folder)
    return {cutoff_of(file): file for file in Graphs.of(folder, 0).files}


def _add(
    seen: _Seen, row: Mapping[str, Any], scorer: Scorer, ids: ItemIds, files: Mapping[int, Path]
) -> None:
    arrays = load(row["inputs"])
    inputs = FeatureInputs.restored(arrays)
    if len(inputs.near_cutoffs):
        inputs = FeatureInputs.restored(arrays, _snapshots(inputs, files))
    keys, told = ids.keys(row["items"]), dict(row["retriever"] or ())
    given = [told.get(name, [np.nan] * len(keys)) for name in scorer.schema.given]
    features = np.array(given, np.float32).T if given else None
    weights = weights_of(None, scorer.schema)
    scored = scorer.score(row["query"], inputs, keys, weights, features)
    seen.rows.append(_compared(np.array(row["scores"], np.float64), scored.scores, row))
    total = np.expm1(scored.request[REQUEST_NUMERIC.index("query:log_total")])
    seen.slices.append(
        {
            ALL: True,
            "head query": total >= HEAD_QUERY,
            "torso query": TORSO_QUERY <= total < HEAD_QUERY,
            "tail query": total < TORSO_QUERY,
            "new user": not len(inputs.hist_items),
            "degraded": bool(row["degraded"]),
        }
    )
    by = row["model_version"]
    seen.served_by[by] = seen.served_by.get(by, 0) + 1
    seen.cut_off += row["candidates"] > len(keys)
    seen.unknown += len(scored.unknown)
    seen.times.append(row["request_time"])


def _snapshots(inputs: FeatureInputs, files: Mapping[int, Path]) -> dict[int, ItemVectors]:
    wanted = {int(cutoff) for cutoff in inputs.near_cutoffs}
    if gone := wanted - set(files):
        raise ValueError(f"the snapshot of item vectors {min(gone)} is gone")
    return {cutoff: read_vectors(files[cutoff]) for cutoff in wanted}


def _compared(
    old: NDArray[np.float64], new: NDArray[np.float32], row: Mapping[str, Any]
) -> tuple[float, ...]:
    """Overlaps at ``KEPT`` and the cut, places moved, whether first and order change, the shift.

    The items stand in the order that was served; equal scores keep it.
    """
    n = len(new)
    order = np.argsort(-new, kind="stable")
    cut = min(max(row["candidates"] // 10, 1), n)
    overlaps = [float((order[:k] < k).mean()) for k in (*(min(k, n) for k in KEPT), cut)]
    moved = np.abs(order - np.arange(n)).mean()
    shift = float(np.mean(new - old))
    return (*overlaps, float(moved), float(order[0] != 0), float(not moved), shift)


def _summed(seen: _Seen, version: str) -> Replayed:
    numbers = np.array(seen.rows)
    slices = {}
    for name in seen.slices[0]:
        own = numbers[[bool(of[name]) for of in seen.slices]]
        if len(own):
            *overlaps, moved, first, same, shift = own.mean(0).tolist()
            names = [*map(str, KEPT), "cut"]
            overlap = dict(zip(names, overlaps, strict=True))
            slices[name] = Changed(len(own), overlap, moved, first, same, shift)
    times: Sequence[Any] = sorted(seen.times)
    return Replayed(
        version,
        dict(sorted(seen.served_by.items())),
        slices,
        seen.cut_off / len(numbers),
        seen.unknown,
        seen.skipped,
        f"{times[0]:%Y-%m-%d %H:%M}",
        f"{times[-1]:%Y-%m-%d %H:%M}",
    )
