"""The baselines of a log: those that need no fitting, and those that a job fitted beside a version.

What was fitted stands beside the version of the same job: both learned from the same requests, and
the ranking reads the features that this version reads. Its files are JSON, safetensors and
LightGBM's text; none can run code.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interactrank.features.schema import FeatureSchema
from prerank.core.errors import NotReadyError, PrerankError, StateError
from prerank.core.home import Home
from prerank.dataset.catalogue import load_catalogue, load_titles
from prerank.evaluation.baselines import suite
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.simple import Bm25Ranker, ColumnRanker
from prerank.registry.bundle import META, read_meta
from prerank.serving.answer import Stamp
from prerank.serving.loading import stamp

Row = dict[str, Any]

COLUMNS = {"popularity": "a:engage:all", "iqp": "q:engage:all"}
"""Baselines that are one cross feature."""
SIMPLE = {
    "bm25": "BM25 of the query against the titles",
    "popularity": "what is engaged with most, whatever the query",
    "iqp": "what searchers of this very query engaged with",
}
FITTED = {
    "linear": "a linear model over the same cross features",
    "trees": "LightGBM's trees over the same cross features",
    "two_tower": "two towers alone, without cross features and history",
    "two_tower_sequence": "two towers that read the history, without cross features",
    "inttower": "IntTower, whose towers meet in several layers",
}
ABOUT = SIMPLE | FITTED
EXPLAINED = ("linear", "trees")
"""Those whose scores are sums over features."""

NOT_FITTED = "not fitted here; name it in `baselines` of the job's configuration, and train"
NO_RUN = "fitted beside a version that is not known; train again"
NO_VERSION = "fitted by a job that no version which is listed here comes from; train again"


@dataclass
class Fit:
    """A baseline that a job fitted.

    Attributes:
        folder: where it lies.
        stamp: of its meta data; another one means another fit.
        run_id: of the job's MLflow run; "" where it is not known.
        ranker: once it was loaded.
    """

    folder: Path
    stamp: Stamp
    run_id: str
    ranker: Ranker | None = None


class Baselines:
    """The baselines of one log. What takes time to make is made when it is first asked for.

    Args:
        home: that was ingested.
    """

    def __init__(self, home: Home) -> None:
        self._home, self._log = home, home.pin()
        self._lock = threading.Lock()
        self._bm25: Bm25Ranker | None = None
        self._fits: dict[str, Fit] = {}

    def look(self) -> None:
        """See which baselines were fitted; of one that was fitted anew, forget the former one."""
        found: dict[str, Fit] = {}
        for name in FITTED:
            folder = suite.folder_of(self._home, name)
            self._home.fetch(folder / META, folder / suite.HISTORY)
            if (now := stamp(folder / META)) is None:
                continue
            before = self._fits.get(name)
            if before is None or before.stamp != now:
                before = Fit(folder, now, self._run_of(name))
            found[name] = before
        with self._lock:
            self._fits = found

    def beside(self, name: str, versions: Mapping[str, str]) -> str:
        """The ranker whose features a fitted baseline reads: the version of its job.

        Args:
            name: of ``FITTED``.
            versions: rankers by the id of the MLflow run of their job.

        Raises:
            NotReadyError: it cannot be offered; the message says why, and the remedy.
        """
        fit = self._fits.get(name)
        if fit is None:
            raise NotReadyError(NOT_FITTED)
        if not fit.run_id:
            raise NotReadyError(NO_RUN)
        if fit.run_id not in versions:
            raise NotReadyError(NO_VERSION)
        return versions[fit.run_id]

    def offered(self, versions: Mapping[str, str], numbers: Mapping[str, str]) -> list[Row]:
        """What one may choose from; what cannot be chosen has a ``problem``.

        Args:
            versions: as for ``beside``.
            numbers: of these versions, by ranker.
        """
        rows = []
        for name, about in ABOUT.items():
            row: Row = {
                "id": name,
                "title": name,
                "kind": "baseline",
                "loaded": True,
                "explained": name in EXPLAINED,
                "about": about,
            }
            if name in FITTED:
                try:
                    row["title"] += f" (version {numbers[self.beside(name, versions)]})"
                except NotReadyError as error:
                    row["problem"] = str(error)
            rows.append(row)
        return rows

    def ranker(self, name: str, schema: FeatureSchema) -> Ranker:
        """A baseline that reads the features of ``schema``.

        Raises:
            NotReadyError: a package that it needs is not installed.
            StateError: it was fitted on other features, or its files are damaged.
        """
        if name in COLUMNS:
            return ColumnRanker(name, schema, COLUMNS[name])
        try:
            with self._lock:
                return self._fitted(name, schema) if name in FITTED else self._of_titles()
        except ModuleNotFoundError as error:
            raise NotReadyError(
                f"{name} needs the package {error.name}, which is not installed here: "
                "pip install 'interactrank-platform[train]'"
            ) from None

    def _run_of(self, name: str) -> str:
        try:
            return suite.run_of(self._home, name)
        except PrerankError:
            return ""

    def _of_titles(self) -> Ranker:
        if self._bm25 is None:
            catalogue, titles = load_catalogue(self._log), load_titles(self._log)
            self._bm25 = Bm25Ranker.fit(catalogue, titles)
        return self._bm25

    def _fitted(self, name: str, schema: FeatureSchema) -> Ranker:
        fit = self._fits[name]
        if fit.ranker is None:
            self._home.fetch(fit.folder)
            if read_meta(fit.folder)[0] != schema:
                raise StateError(
                    f"{name} was fitted on other features than the version of its job reads: "
                    "train again"
                )
            try:
                fit.ranker = suite.load_ranker(name, fit.folder)
            except (ModuleNotFoundError, PrerankError):
                raise
            except Exception:
                raise StateError(f"the files of {name} cannot be read: train again") from None
        return fit.ranker
