"""What several trainings of a ranker came to: the mean of its seeds, and how far they lie apart.

Trainings that differ by their seed alone are measured as rankers of their own, under ``label``. The
metrics of each request are then averaged over them, so that every table, interval and paired test
is of the mean over seeds; its interval says what other requests would change, the spread over seeds
what another training would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from interactrank.metrics.ranking import METRICS, mean
from prerank.evaluation.done import Done

MARK = " seed "


def label(name: str, seed: int) -> str:
    """What the training of a ranker with ``seed`` is measured as."""
    return f"{name}{MARK}{seed}"


def labelled(models: Mapping[str, Mapping[int, Path]]) -> dict[str, Path]:
    """Label -> folder, of each ranker's folder by seed; of one seed, by the ranker's own name."""
    return {
        name if len(own) == 1 else label(name, seed): folder
        for name, own in models.items()
        for seed, folder in own.items()
    }


def by_ranker(names: Sequence[str]) -> dict[str, list[str]]:
    """The labels of each ranker, in their order."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition(MARK)[0], []).append(name)
    return found


def averaged(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """``frame``, a row per request, with the mean over its seeds for each ranker of ``names``."""
    columns: dict[str, pd.Series | np.ndarray] = {c: frame[c] for c in frame.columns}
    for ranker, own in by_ranker(names).items():
        if len(own) == 1:
            continue
        metrics = [c.partition("|")[2] for c in frame.columns if c.startswith(f"{own[0]}|")]
        for metric in metrics:
            values = [columns.pop(f"{name}|{metric}") for name in own]
            columns[f"{ranker}|{metric}"] = np.mean(values, axis=0)
    return pd.DataFrame(columns)


def seed_metrics(
    frame: pd.DataFrame, names: Sequence[str]
) -> dict[str, dict[str, Sequence[float]]]:
    """Ranker -> metric -> its mean over requests for each seed, of rankers with several."""
    return {
        ranker: {m: [mean(frame[f"{name}|{m}"].to_numpy()) for name in own] for m in METRICS}
        for ranker, own in by_ranker(names).items()
        if len(own) > 1
    }


def of_first(done: Sequence[Done], names: Sequence[str]) -> list[Done]:
    """Costs, and histograms of predictions, of each ranker's first seed, by ranker."""
    first = {own[0]: ranker for ranker, own in by_ranker(names).items()}
    return [
        Done(
            d.requests,
            d.candidates,
            {first[n]: cost for n, cost in d.costs.items() if n in first},
            {(first[n], head): h for (n, head), h in d.histograms.items() if n in first},
        )
        for d in done
    ]
