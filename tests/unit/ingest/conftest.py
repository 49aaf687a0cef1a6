"""Ingest in this process: its tasks run one after the other, without Ray."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from prerank.core.home import Home
from prerank.ingest.mapping import LogMapping
from prerank.ingest.report import IngestReport
from prerank.ingest.run import ingest

Ingested = Callable[..., tuple[IngestReport, Home]]


def _in_turn(run: Callable[[Any], Any], tasks: Sequence[Any], name: str) -> list[Any]:
    return [run(task) for task in tasks]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    """Ingests events and items from places, each time into a home of its own."""
    root = tmp_path_factory.mktemp("homes")
    homes = itertools.count()

    def run(
        events: str | Path, items: str | Path, home: Home | None = None, /, **mapping: Any
    ) -> tuple[IngestReport, Home]:
        home = home or Home.at(root / str(next(homes)))
        chosen = LogMapping.model_validate({"name": "log", **mapping})
        return ingest(events, items, home, chosen), home

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prerank.ingest.run.ray_map", _in_turn)
        patch.setattr("prerank.ingest.run.cluster_cpus", lambda: 1)
        yield run
