"""The training set: one example a request, with its candidates, labels and as-of features.

A Ray Data task takes some days of requests, joins them to the feature tables, computes x with the
function that serving calls, and writes Parquet. Only x is kept: the packed rows it came from would
be hundreds of gigabytes for a million requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from prerank.core.errors import DataError
from prerank.core.home import Home, replaced, write_json
from prerank.core.ray_tasks import ray_map
from prerank.dataset.candidates import (
    offline_inputs,
    request_arrays,
    sampled_candidates,
    shown_candidates,
)
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.requests import Splits, plan_splits, read_requests
from prerank.features.asof import micros
from prerank.features.build import schema_of

REQUESTS_PER_TASK = 6_000
ROW_GROUP = 512
Order = Callable[[range], Iterable[int]]
"""The numbers of a split's files, in time order -> the order in which they are read."""
RAGGED = {
    "text": ("text", "text_offsets"),
    "hist_items": ("hist_items", "hist_offsets"),
    "hist_actions": ("hist_actions", "hist_offsets"),
    "hist_times": ("hist_times", "hist_offsets"),
    "performing": ("performing", "performing_offsets"),
    "performing_counts": ("performing_counts", "performing_offsets"),
    "candidates": ("candidates", "offsets"),
    "labels": ("labels", "offsets"),
    "weights": ("weights", "offsets"),
    "log_q": ("log_q", "offsets"),
}
"""List column -> the array it holds, and the array of its bounds."""


def to_table(request_ids: list[str], arrays: RequestArrays) -> pa.Table:
    """Arrays of B requests as a table of B rows; :func:`to_arrays` inverts it."""
    columns: dict[str, Any] = {"request_id": request_ids, "time": arrays.time}
    for name, (values, offsets) in RAGGED.items():
        bounds = pa.array(getattr(arrays, offsets).astype(np.int64))
        columns[name] = pa.LargeListArray.from_arrays(bounds, pa.array(getattr(arrays, values)))
    columns["segments"] = _matrix(arrays.segments, np.arange(len(arrays) + 1))
    columns["request"] = _matrix(arrays.request, np.arange(len(arrays) + 1))
    columns["x"] = _matrix(arrays.x, arrays.offsets)
    return pa.table(columns)


def _matrix(values: NDArray[Any], rows: NDArray[np.int64]) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(
        pa.array(rows * values.shape[1]), pa.array(values.reshape(-1))
    )


def to_arrays(table: pa.Table, crosses: int, requests: int) -> RequestArrays:
    """Arrays of the table's requests, for ``crosses`` columns of x and ``requests`` statistics."""
    found: dict[str, NDArray[Any]] = {"time": table["time"].to_numpy()}
    for name, (values, offsets) in RAGGED.items():
        column = table[name].combine_chunks()
        found[values] = column.flatten().to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        found[offsets] = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    segments = table["segments"].combine_chunks().flatten().to_numpy()
    found["segments"] = segments.reshape(len(table), len(segments) // max(len(table), 1)).copy()
    for name, width in (("request", requests), ("x", crosses)):
        flat = table[name].combine_chunks().flatten().to_numpy()
        # Arrow's memory is read-only, which torch warns about.
        found[name] = flat.reshape(-1, width).copy()
    return RequestArrays(**found)


def event_days(
    home: Home, from_us: int = 0, to_us: int = 1 << 62, per_task: int | None = None
) -> list[list[str]]:
    """Event files in groups of whole days of about ``per_task`` requests, by time.

    Only days that may hold requests of [from_us, to_us) are listed. ``per_task`` is
    REQUESTS_PER_TASK where it is left out.
    """
    most = REQUESTS_PER_TASK if per_task is None else per_task
    groups: list[list[str]] = []
    rows = 0
    for day in sorted(home.events.glob("day=*")):
        start = int(np.datetime64(day.name.removeprefix("day="), "us").astype(np.int64))
        if start >= to_us or start + 86_400_000_000 <= from_us:
            continue
        files = sorted(str(f) for f in day.glob("*.parquet"))
        ids = pa.concat_tables(
            pq.read_table(f, columns=["request_id"], partitioning=None) for f in files
        )
        count = pc.count_distinct(ids["request_id"]).as_py()
        if not groups or rows + count > most:
            groups.append([])
            rows = 0
        groups[-1] += files
        rows += count
    return groups


def requests_between(
    files: list[str], manifest: dict[str, Any], from_us: int, to_us: int
) -> pa.Table:
    """Requests of event ``files`` with from_us <= request_time < to_us."""
    requests = read_requests([Path(f) for f in files], manifest)
    time = micros(requests["request_time"])
    return requests.filter(pa.array((time >= from_us) & (time < to_us)))


def build_training_set(home: Home) -> dict[str, Any]:
    """Write train and validation examples; returns (and writes) the training set's manifest.

    Raises:
        StateError: there is no log, or there are no features.
        DataError: the features are of another log, or no request has a positive.
    """
    manifest = home.read_json(home.manifest, "prerank ingest")
    features = home.read_json(home.features / "manifest.json", "prerank features")
    if features["fingerprint"] != manifest["fingerprint"]:
        raise DataError("the features were built from another log. Run `prerank features` again.")
    splits = plan_splits(home, manifest)
    with replaced(home.training_set) as out:
        for name in ("train", "validation"):
            (out / name).mkdir()
        groups = event_days(home, 0, splits.test_from)
        pieces = [
            {"home": str(home.root), "files": files, "task": i, "out": str(out)}
            | {"splits": asdict(splits)}
            for i, files in enumerate(groups)
        ]
        done = ray_map(_build_task, pieces, "training set")
        totals = {k: sum(d[k] for d in done) for k in done[0]}
        if not totals["train_positives"]:
            raise DataError("no training request has a positive: check the mapping's `heads`.")
        summary = {
            "splits": asdict(splits),
            "fingerprint": manifest["fingerprint"],
            "schema_hash": schema_of(manifest).hash(),
            "candidates": "impressions" if manifest["has_impressions"] else "sampled",
            **totals,
        }
        write_json(out / "manifest.json", summary)
    return summary


def _build_task(piece: dict[str, Any]) -> dict[str, Any]:
    home, splits = Home.at(piece["home"]), Splits(**piece["splits"])
    manifest = home.read_json(home.manifest, "prerank ingest")
    schema, catalogue = schema_of(manifest), load_catalogue(home, manifest)
    table = catalogue.table()
    counts: dict[str, Any] = {}
    bounds = {"train": (0, splits.validation_from),
              "validation": (splits.validation_from, splits.test_from)}  # fmt: skip
    for split, (low, high) in bounds.items():
        high = min(high, splits.closed_before)
        requests = requests_between(piece["files"], manifest, low, high)
        counts |= {f"{split}_{k}": 0 for k in ("requests", "candidates", "positives")}
        if not requests.num_rows:
            continue
        inputs = offline_inputs(home, requests)
        if manifest["has_impressions"]:
            candidates = shown_candidates(requests)
        else:
            candidates = sampled_candidates(requests, inputs, table)
        queries = requests["query"].to_pylist()
        arrays = request_arrays(schema, queries, inputs, candidates, catalogue, table)
        path = Path(piece["out"]) / split / f"part-{piece['task']:05d}.parquet"
        pq.write_table(to_table(requests["request_id"].to_pylist(), arrays), path,
                       compression="zstd", row_group_size=ROW_GROUP)  # fmt: skip
        counts |= {
            f"{split}_requests": len(arrays),
            f"{split}_candidates": len(arrays.candidates),
            f"{split}_positives": int((arrays.labels > 0).sum()),
        }
    return counts


def read_split(home: Home, split: str, order: Order = iter) -> Iterator[pa.Table]:
    """Tables of a split, a file at a time, in time order or in the ``order`` of their numbers."""
    paths = sorted((home.training_set / split).glob("*.parquet"))
    for i in order(range(len(paths))):
        yield pq.read_table(paths[i])


def split_sizes(home: Home, split: str) -> list[int]:
    """Requests of each table that :func:`read_split` gives, without reading them."""
    paths = sorted((home.training_set / split).glob("*.parquet"))
    return [pq.read_metadata(path).num_rows for path in paths]
