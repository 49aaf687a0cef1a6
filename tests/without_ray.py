"""The stages of the pipeline in this process: their tasks run one after the other, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

STAGES = ("ingest.run", "features.build", "dataset.build")


def in_turn(run: Callable[[Any], Any], tasks: Sequence[Any], name: str) -> list[Any]:
    """``prerank.core.ray_tasks.ray_map`` in this process."""
    return [run(task) for task in tasks]


@contextmanager
def stages_here() -> Iterator[None]:
    """No stage starts Ray."""
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            patch.setattr(f"prerank.{stage}.ray_map", in_turn)
        patch.setattr("prerank.ingest.run.cluster_cpus", lambda: 1)
        yield
