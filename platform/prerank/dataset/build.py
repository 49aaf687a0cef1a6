"""The training set: one example per request, with its candidates, labels and as-of features.

A Ray Data task takes some days of requests, joins them to the feature tables, computes x with the
function that serving calls, and writes Parquet. Only x is kept: the packed rows it came from would
be hundreds of gigabytes for a million requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from prerank.core.errors import DataError
from prerank.core.feature_sets import require_features
from prerank.core.files import replaced, write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import ray_map
from prerank.core.travel import Carried
from prerank.core.trust import Flags
from prerank.dataset.candidates import sampled_candidates, shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import request_arrays, to_table
from prerank.dataset.requests import event_days, requests_between, trusted
from prerank.dataset.splits import Splits, plan_splits
from prerank.features.offline import offline_inputs

ROW_GROUP = 512


@dataclass(frozen=True)
class BuildTask:
    """Some days of events, to become files of both splits under ``out``.

    ``trust``: weights of the users who have a flag (``prerank.core.trust``).
    """

    number: int
    home: Home
    files: list[str]
    splits: Splits
    out: Path
    trust: Mapping[str, float] = field(default_factory=dict)

    def writes(self) -> list[Path]:
        """A file of each split that has requests of these days."""
        return [self.out / split / part_of(self.number) for split in ("train", "validation")]


@dataclass(frozen=True)
class Counts:
    """What one task wrote to one split. ``positives`` are candidates with a label."""

    requests: int = 0
    candidates: int = 0
    positives: int = 0


@dataclass(frozen=True)
class Written:
    """What one task wrote, by split."""

    train: Counts
    validation: Counts


def build_training_set(home: Home) -> dict[str, Any]:
    """Write train and validation examples; returns (and writes) the training set's manifest.

    Raises:
        StateError: there is no log, or there are no features.
        DataError: the features are of another log, or no request has a positive.
    """
    home = home.pin()
    manifest = LogManifest.load(home)
    require_features(home, manifest)
    home.fetch(home.events)
    splits = plan_splits(home, manifest)
    with replaced(home.training_set) as out:
        for name in ("train", "validation"):
            (out / name).mkdir()
        groups = event_days(home, 0, splits.test_from)
        # What a training at that time could have known: labels are judged later than features.
        trust = Flags.load(home).as_of(splits.test_from)
        tasks = [BuildTask(i, home, files, splits, out, trust) for i, files in enumerate(groups)]
        done = ray_map(Carried(build_task, writes=BuildTask.writes), tasks, "training set")
        totals = {
            f"{split}_{part.name}": sum(getattr(getattr(d, split), part.name) for d in done)
            for split in ("train", "validation")
            for part in fields(Counts)
        }
        if not totals["train_positives"]:
            raise DataError("no training request has a positive: check the mapping's `heads`.")
        summary = {
            "splits": asdict(splits),
            "fingerprint": manifest.fingerprint,
            "schema_hash": manifest.schema.hash(),
            "candidates": "impressions" if manifest.has_impressions else "sampled",
            **totals,
        }
        write_json(out / "manifest.json", summary)
    return summary


def part_of(number: int) -> str:
    """Name of the file that a task writes to a split."""
    return f"part-{number:05d}.parquet"


def build_task(task: BuildTask) -> Written:
    """Write the examples of some days."""
    home, splits = task.home, task.splits
    home.fetch(*map(Path, task.files))
    manifest = LogManifest.load(home)
    schema, catalogue = manifest.schema, load_catalogue(home)
    table = catalogue.table()

    def write(split: str, low: int, high: int) -> Counts:
        high = min(high, splits.closed_before)
        requests = trusted(requests_between(task.files, manifest, low, high), task.trust)
        if not requests.num_rows:
            return Counts()
        inputs = offline_inputs(home, requests)
        if manifest.has_impressions:
            candidates = shown_candidates(requests)
        else:
            candidates = sampled_candidates(schema, requests, inputs, table)
        queries = requests["query"].to_pylist()
        arrays = request_arrays(schema, queries, inputs, candidates, catalogue, table)
        pq.write_table(
            to_table(requests["request_id"].to_pylist(), arrays),
            task.out / split / part_of(task.number),
            compression="zstd",
            row_group_size=ROW_GROUP,
        )
        return Counts(len(arrays), len(arrays.candidates), int((arrays.labels > 0).sum()))

    return Written(
        write("train", 0, splits.validation_from),
        write("validation", splits.validation_from, splits.test_from),
    )
