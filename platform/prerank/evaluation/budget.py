"""What every trial of a comparison gets: the same requests to learn from and to be measured on.

The newest of the training requests, as many epochs, and the same measured requests with their whole
candidates, features as-of, as ``prerank.evaluation.run`` has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.inputs import FeatureInputs
from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.candidates import catalogue_candidates, shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import read_split, request_arrays
from prerank.dataset.requests import event_days, requests_between
from prerank.dataset.splits import Splits
from prerank.features.offline import offline_inputs

CANDIDATES_PER_CHUNK = 300_000
SAMPLE_SEED = 0
"""One sample for all trials, whatever their own seed."""


@dataclass(frozen=True)
class Budget:
    """What every trial gets. ``split`` is where it is measured: "validation" or "test".

    The defaults make a trial of less than a core minute on both real logs: the ablation with three
    seeds, 72 trials, takes less than half an hour a log on two cores.
    """

    train_requests: int = 8_000
    validation_requests: int = 4_000
    measured_candidates: int = 6_000_000
    epochs: int = 2
    split: str = "validation"


def newest(home: Home, limit: int) -> list[pa.Table]:
    """The last ``limit`` training requests, in time order: a job on a shorter log."""
    kept: list[pa.Table] = []
    for table in read_split(home, "train", reversed):
        kept.insert(0, table.slice(max(len(table) - limit, 0)))
        limit -= len(kept[0])
        if not limit:
            break
    return kept


def middle(home: Home) -> int:
    """Time (microseconds) that halves the validation requests.

    Raises:
        DataError: there are none.
    """
    home.fetch(home.training_set / "validation")
    paths = sorted((home.training_set / "validation").glob("*.parquet"))
    times = [pa.parquet.read_table(p, columns=["time"])["time"].to_numpy() for p in paths]
    if not sum(map(len, times)):
        raise DataError("the validation split has no request: nothing to compare trials on.")
    return int(np.median(np.concatenate(times)))


def measured_requests(home: Home, split: str, limit: int) -> pa.Table:
    """Requests that trials are measured on: of the test split, or validation's second half.

    At most ``limit``, a seeded sample in time order.
    """
    manifest = LogManifest.load(home)
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    splits = Splits(**training["splits"])
    low = splits.test_from if split == "test" else middle(home)
    high = splits.closed_before if split == "test" else splits.test_from
    high = min(high, splits.closed_before)
    requests = pa.concat_tables(
        requests_between(files, manifest, low, high) for files in event_days(home, low, high)
    )
    if len(requests) <= limit:
        return requests
    drawn = np.random.default_rng(SAMPLE_SEED).choice(len(requests), limit, replace=False)
    return requests.take(pa.array(np.sort(drawn)))


def chunks(
    home: Home, requests: pa.Table
) -> Iterator[tuple[RequestArrays, list[str], FeatureInputs, NDArray[np.int64]]]:
    """Arrays, queries, inputs and unreachable counts of requests with all their candidates."""
    manifest = LogManifest.load(home)
    schema, catalogue = manifest.schema, load_catalogue(home)
    table, shown = catalogue.table(), manifest.has_impressions
    step = max(CANDIDATES_PER_CHUNK // per_request(home), 1)
    # Joined once: a join scans the feature table, however few requests it is for.
    joined = offline_inputs(home, requests)
    for start in range(0, len(requests), step):
        chunk = requests.slice(start, step)
        candidates = (
            shown_candidates(chunk) if shown else catalogue_candidates(chunk, catalogue.ids)
        )
        queries, inputs = chunk["query"].to_pylist(), joined.slice(start, start + len(chunk))
        arrays = request_arrays(schema, queries, inputs, candidates, catalogue, table)
        yield arrays, queries, inputs, candidates.unreachable


def per_request(home: Home) -> int:
    """Candidates of a request, about."""
    manifest = LogManifest.load(home)
    return 64 if manifest.has_impressions else max(int(manifest.items), 1)
