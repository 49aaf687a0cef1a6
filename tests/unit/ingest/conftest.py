"""Ingest in this process: its tasks run one after the other, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@pytest.fixture
def ingested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ingested:
    """Ingests events and items from places, each time into a home of its own."""
    monkeypatch.setattr("prerank.ingest.run.ray_map", _in_turn)
    monkeypatch.setattr("prerank.ingest.run.cluster_cpus", lambda: 1)
    homes = iter(range(100))

    def run(
        events: str | Path, items: str | Path, home: Home | None = None, /, **mapping: Any
    ) -> tuple[IngestReport, Home]:
        home = home or Home.at(tmp_path / "homes" / str(next(homes)))
        home.root.parent.mkdir(exist_ok=True)
        chosen = LogMapping.model_validate({"name": "log", **mapping})
        return ingest(events, items, home, chosen), home

    return run
