"""Training examples: arrays of requests, and the Parquet tables that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.catalogue import Catalogue
from interactrank.features.engagement import cross_features
from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs
from interactrank.features.schema import FeatureSchema
from prerank.core.home import Home
from prerank.dataset.candidates import Candidates

Order = Callable[[range], Iterable[int]]
"""The numbers of a split's files, in time order -> the order in which they are read."""


RAGGED = {
    "text": ("text", "text_offsets"),
    "hist_items": ("hist_items", "hist_offsets"),
    "hist_actions": ("hist_actions", "hist_offsets"),
    "hist_times": ("hist_times", "hist_offsets"),
    "top_items": ("top_items", "top_items_offsets"),
    "top_items_counts": ("top_items_counts", "top_items_offsets"),
    "candidates": ("candidates", "offsets"),
    "labels": ("labels", "offsets"),
    "weights": ("weights", "offsets"),
    "log_q": ("log_q", "offsets"),
}
"""List column -> the array it holds, and the array of its bounds."""
TEACHER = "teacher"
"""A list column like those, of logs with scores of a full ranker."""


def to_table(request_ids: list[str], arrays: RequestArrays) -> pa.Table:
    """Arrays of B requests as a table of B rows; ``to_arrays`` inverts it."""
    columns: dict[str, Any] = {"request_id": request_ids, "time": arrays.time}
    teacher = {TEACHER: (TEACHER, "offsets")} if len(arrays.teacher) else {}
    for name, (values, offsets) in (RAGGED | teacher).items():
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
    teacher = {TEACHER: (TEACHER, "offsets")} if TEACHER in table.column_names else {}
    for name, (values, offsets) in (RAGGED | teacher).items():
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


def read_split(home: Home, split: str, order: Order = iter) -> Iterator[pa.Table]:
    """Tables of a split, one file at a time, in time order or in the ``order`` of their numbers."""
    home.fetch(home.training_set / split)
    paths = sorted((home.training_set / split).glob("*.parquet"))
    for i in order(range(len(paths))):
        yield pq.read_table(paths[i])


def split_sizes(home: Home, split: str) -> list[int]:
    """Requests of each table that ``read_split`` gives, without reading them."""
    home.fetch(home.training_set / split)
    paths = sorted((home.training_set / split).glob("*.parquet"))
    return [pq.read_metadata(path).num_rows for path in paths]


def request_arrays(
    schema: FeatureSchema,
    queries: list[str],
    inputs: FeatureInputs,
    candidates: Candidates,
    catalogue: Catalogue,
    table: IdTable,
) -> RequestArrays:
    """Compute x and the request statistics, and put the arrays of B requests together."""
    created = catalogue.created_at(table.rows(candidates.ids))
    return RequestArrays.of(
        schema,
        queries,
        inputs,
        candidates=candidates.ids,
        offsets=candidates.offsets,
        x=cross_features(
            schema,
            inputs,
            candidates.ids,
            candidates.offsets,
            created,
            candidates.retriever_features,
        ),
        labels=candidates.labels,
        weights=candidates.weights,
        log_q=candidates.log_q,
        teacher=candidates.teacher,
    )
