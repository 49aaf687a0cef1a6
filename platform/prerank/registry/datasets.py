"""The log as the input of an MLflow run: where it lies and which of its requests; no copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.meta_dataset import MetaDataset

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import iso


class LogSource(DatasetSource):
    """A canonical log: the place of its home, and the id of the log in it."""

    def __init__(self, place: str, log_id: str) -> None:
        self.place, self.log_id = place, log_id

    @staticmethod
    def _get_source_type() -> str:
        return "prerank_log"

    def load(self) -> Any:
        """The home of the log."""
        return Home.at(self.place)

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> LogSource:
        raise NotImplementedError

    def to_dict(self) -> dict[Any, Any]:
        """JSON form."""
        return {"home": self.place, "log": self.log_id}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> LogSource:
        """From what ``to_dict`` gave."""
        return cls(source_dict["home"], source_dict["log"])


class SplitOfLog(MetaDataset):
    """A split of a log, by its source alone."""

    @property
    def profile(self) -> None:
        """Nothing was counted."""
        return None


def log_inputs(home: Home, manifest: LogManifest, splits: Mapping[str, int]) -> None:
    """Log each split of the log as an input of the active run.

    Args:
        home: of the log.
        manifest: of the log.
        splits: where they begin and end, as ``prerank.dataset.splits.Splits`` has them.
    """
    source = LogSource(home.place, home.log.name)
    bounds = {
        "training": (manifest.first_time, iso(splits["validation_from"])),
        "validation": (iso(splits["validation_from"]), iso(splits["test_from"])),
        "testing": (iso(splits["test_from"]), iso(splits["closed_before"])),
    }
    for context, (first, before) in bounds.items():
        # MLflow takes data of one digest for the same, so a split has its own.
        digest = f"{manifest.fingerprint}-{context}"
        data = SplitOfLog(source, name=manifest.dataset, digest=digest)
        tags = {"requests_from": str(first), "requests_before": str(before)}
        mlflow.log_input(data, context=context, tags=tags)
