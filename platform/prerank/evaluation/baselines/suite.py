"""Everything that is measured beside InteractRank, under one contract.

A ranker sees the same requests and candidates and gives one score per candidate; how it got them is
its own affair. Counts that a ranker uses are the as-of columns of x, never a count of its own.
What is fitted uses the stored training examples, chooses on validation, and is a folder under
``baselines/`` that ``load_ranker`` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from interactrank.model.architectures import ARCHITECTURES, config_of
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.files import removed, replaced, write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.evaluation.baselines import linear, trees
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.baselines.ranker import Ranker
from prerank.registry.bundle import META, read_meta


@dataclass(frozen=True)
class Neural:
    """How a neural baseline differs from the job's own ``model`` and ``train`` sections.

    ``loss`` holds what validation chose for it (``benchmarks/fusion_fit.py --two-tower``);
    ``benchmarks/tune.py`` gives every neural model as many trials.
    """

    architecture: str = "interactrank"
    model: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)

    def configs(self, model: ModelConfig, train: TrainConfig) -> tuple[ModelConfig, TrainConfig]:
        """The baseline's own configs, of the job's sizes."""
        own = config_of(self.architecture, model.to_dict() | dict(self.model))
        return own, replace(train, loss=replace(train.loss, **self.loss))


NEURAL: dict[str, Neural] = {
    "two_tower": Neural(model={"cross": False, "history": False}, loss={"softmax": 1.0}),
    "two_tower_sequence": Neural(model={"cross": False}, loss={"softmax": 1.0}),
    "inttower": Neural("inttower", model={"cross": False}, loss={"softmax": 1.0}),
}
MODELS: dict[str, Neural] = {"interactrank": Neural(), **NEURAL}
"""The model and its neural baselines, for comparisons that train them alike."""
FITTED = {"linear": linear.fit, "trees": trees.fit}
BASELINES = (*FITTED, *NEURAL)
"""Names that a job's ``baselines`` may list. popularity, BM25 and IQP cost nothing to have."""
DEFAULT = ("linear", "two_tower")
HISTORY = "history.json"


@dataclass(frozen=True)
class FitTask:
    """A baseline to be fitted into ``out``; ``model`` is what a neural one is built from.

    ``run_id`` is of the job's MLflow run, by which it is known which version it stands beside.
    """

    home: Home
    name: str
    model: ModelConfig
    train: TrainConfig
    out: Path
    run_id: str


def tasks(
    home: Home,
    names: Sequence[str],
    model: ModelConfig,
    train: TrainConfig,
    run_id: str,
    configured: int | None = None,
) -> list[FitTask]:
    """What ``fit_baseline`` needs of each baseline, the longest first.

    ``configured`` is the job's own seed (default: that of ``train``); of another, a baseline's
    folder bears the number.
    """
    number = None if configured in (None, train.seed) else train.seed
    return [
        FitTask(
            home,
            name,
            *(NEURAL[name].configs(model, train) if name in NEURAL else (model, train)),
            folder_of(home, name, number),
            run_id,
        )
        for name in sorted(names, key=lambda n: n in FITTED)
    ]


def fit_baseline(task: FitTask) -> None:
    """Fit one baseline (a Ray task); what happened stands in its folder, see ``history``."""
    import torch

    torch.set_num_threads(1)
    home, name = task.home, task.name
    with replaced(task.out) as folder:
        if name in NEURAL:
            from prerank.evaluation.baselines.neural import fit_neural

            rows = fit_neural(home, name, folder, task.model, task.train)
        else:
            schema = LogManifest.load(home).schema
            rows = FITTED[name](home, schema, folder, task.train.seed)
        write_json(folder / HISTORY, {"rows": rows, "run_id": task.run_id})


def history(home: Home, name: str) -> list[dict[str, Any]]:
    """The epochs of a neural baseline, or the trials that a fit chose from."""
    rows: list[dict[str, Any]] = _happened(home, name)["rows"]
    return rows


def run_of(home: Home, name: str) -> str:
    """Id of the MLflow run of the job that fitted a baseline; "" of one of an earlier release."""
    return str(_happened(home, name).get("run_id", ""))


def _happened(home: Home, name: str) -> dict[str, Any]:
    return home.read_json(folder_of(home, name) / HISTORY, "prerank train")


def folder_of(home: Home, name: str, seed: int | None = None) -> Path:
    """Where a fitted baseline lies; with ``seed``, what was trained with another than the job's."""
    return home.root / "baselines" / (name if seed is None else f"{name}-seed-{seed}")


def remove_seeds(home: Home) -> None:
    """Remove what a former job trained with other seeds."""
    home.look(home.root / "baselines")
    for folder in (home.root / "baselines").glob("*-seed-*"):
        removed(folder)


def fitted(home: Home) -> dict[str, Path]:
    """Folders of the baselines that a home has, by name."""
    found = {name: folder_of(home, name) for name in BASELINES}
    return {name: folder for name, folder in found.items() if (folder / META).exists()}


def load_ranker(name: str, folder: Path) -> Ranker:
    """The ranker of a folder that a fit wrote: a bundle, the linear model or the trees.

    Raises:
        StateError: it was fitted on another feature schema than this code computes.
    """
    _, meta = read_meta(folder)
    kinds: dict[str, Callable[[str, Path], Ranker]] = {
        "linear": linear.LinearRanker,
        "trees": trees.TreesRanker,
        **dict.fromkeys(ARCHITECTURES, TorchRanker.load),
    }
    return kinds[meta.get("architecture", "interactrank")](name, folder)
