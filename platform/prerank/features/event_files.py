"""Event files of a log: which hold something new, and how they are divided among tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from prerank.features.snapshots import Span

TASK_ROWS = 500_000
"""Events of a task of the first pass, unless a file has more."""


def since(files: Sequence[Path], span: Span) -> tuple[list[Path], int]:
    """Files with events that became known after ``span`` began, and the events of the others."""
    if span.after is None:
        return [*files], 0
    new, known = [], 0
    for file in files:
        metadata = pq.read_metadata(file)
        at = metadata.schema.names.index("known_time")
        groups = [metadata.row_group(g).column(at) for g in range(metadata.num_row_groups)]
        bounds = [group.statistics for group in groups]
        told = all(b is not None and b.has_min_max for b in bounds)
        if told and all(b.max_raw < span.after * span.cadence_us for b in bounds):
            known += metadata.num_rows
        else:
            new.append(file)
    return new, known


def rows_of(files: Sequence[Path]) -> list[int]:
    """Events of each file."""
    return [pq.read_metadata(file).num_rows for file in files]


def divided(files: Sequence[Path]) -> list[tuple[str, ...]]:
    """Files by task: a few tasks at least, and no more rows in one than there need be."""
    return _divided([[file] for file in files])


def divided_days(files: Sequence[Path]) -> list[tuple[str, ...]]:
    """The same, of which a task has all that it has a file of: the days are their folders."""
    days: dict[Path, list[Path]] = {}
    for file in files:
        days.setdefault(file.parent, []).append(file)
    return _divided([*days.values()])


def _divided(parts: Sequence[Sequence[Path]]) -> list[tuple[str, ...]]:
    rows = [sum(rows_of(part)) for part in parts]
    count = min(len(parts), max(4, -(-sum(rows) // TASK_ROWS)))
    if not count:
        return []
    # By where the middle of a part's rows lies among all.
    middle = np.cumsum(rows) - np.array(rows) / 2
    task = np.minimum(middle * count // max(sum(rows), 1), count - 1)
    found = [
        [str(f) for p, t in zip(parts, task, strict=True) if t == n for f in p]
        for n in range(count)
    ]
    return [tuple(group) for group in found if group]
