"""`prerank tune`: which settings learn best, tried at origins of the past.

    trials (TPE), each at three origins, pruned after each  ->  the best, confirmed at a fourth

The first trial is the configuration itself. The best trial is the best of many on the same
requests, so its lead there says little: both are trained anew at the latest origin, with several
seeds, and compared on requests that chose nothing. The test split takes no part.

    tuning/<study>/journal.log      Optuna's storage: a search that was cut off goes on
    tuning/<study>/trials/          reciprocal ranks of each trial at each origin

A study is of one log, one configuration and one space; with others, another one begins.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import to_jsonable_python

from interactrank.metrics.ranking import mean, paired_test
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.errors import ConfigError, StateError
from prerank.core.files import publish, write_json
from prerank.core.home import Home
from prerank.core.leases import alone
from prerank.core.progress import bar
from prerank.core.ray_tasks import cluster_cpus, connect
from prerank.evaluation.folds import Folds
from prerank.evaluation.origins import ORIGINS, FoldBudget
from prerank.evaluation.results import Difference
from prerank.evaluation.search_space import Space, Value, defaults
from prerank.evaluation.studies import open_study
from prerank.evaluation.tuned import Tuned
from prerank.registry import tracking

if TYPE_CHECKING:
    from optuna import Trial

SEARCHED, CONFIRMED = ORIGINS[:-1], ORIGINS[-1]
"""Origins of the trials, and the one that chooses nothing."""
CONFIRM_SEEDS = 3
DEFAULT_BUDGET = FoldBudget()
RUN = "run_id"
"""Of a study's attributes: its MLflow run."""


class Search:
    """A study and its trials. ``tune`` makes one.

    Args:
        home: with a training set.
        model, train: the configuration that the search begins with.
        space: what is tried.
        budget: of each origin.
    """

    def __init__(
        self, home: Home, model: ModelConfig, train: TrainConfig, space: Space, budget: FoldBudget
    ) -> None:
        self.home, self.model, self.train = home, model, train
        self.space, self.budget = space, budget
        training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
        self.of: dict[str, Any] = to_jsonable_python(
            {
                "fingerprint": training["fingerprint"],
                "schema_hash": training["schema_hash"],
                "model": model.to_dict(),
                "train": asdict(train),
                "space": {name: asdict(setting) for name, setting in sorted(space.items())},
                "budget": asdict(budget),
            }
        )
        text = json.dumps(self.of, sort_keys=True)
        self.name = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = home.root / "tuning" / self.name
        self.folds = Folds(home, self.folder / "trials", model, train, budget)
        self.home.look(self.folder, deep=True)
        first = defaults(space, model, train)
        self.study = open_study(self._journal, self.name, first, self.of)

    @property
    def _journal(self) -> Path:
        return self.folder / "journal.log"

    def finished(self) -> int:
        """Trials that ended."""
        return sum(trial.state.is_finished() for trial in self.study.trials)

    def run(self, trials: int, deadline: float) -> bool:
        """Try until so many trials ended, or until ``deadline`` (time.monotonic).

        Returns:
            Whether the trials ended.
        """
        with bar(total=trials, initial=self.finished(), unit="trial") as shown:
            while (missing := trials - self.finished()) > 0:
                batch = self._batch(min(missing, cluster_cpus()))
                # Before there are results: without its values, a trial has none.
                publish(self._journal)
                if not self._tried(batch, deadline):
                    return False
                shown.n = self.finished()
                shown.set_postfix(best=f"{self.study.best_value:.4f}")
        return True

    def _batch(self, count: int) -> list[Trial]:
        """Trials that were cut off, else new ones."""
        from optuna.trial import Trial, TrialState

        cut_off = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        found = [Trial(self.study, trial._trial_id) for trial in cut_off][:count]
        while len(found) < count:
            found.append(self.study.ask())
        for trial in found:
            self._values(trial)
        return found

    def _values(self, trial: Trial) -> dict[str, Value]:
        """A trial's own, which it keeps."""
        return {name: setting.suggest(trial, name) for name, setting in self.space.items()}

    def _tried(self, batch: Sequence[Trial], deadline: float) -> bool:
        """Try a batch at one origin after the other; False where time ran out before."""
        from optuna.trial import TrialState

        for step, k in enumerate(SEARCHED):
            if time.monotonic() > deadline:
                return False
            self.folds.measure([(t.number, self._values(t)) for t in batch], k)
            kept = []
            for trial in batch:
                values = self.study.trials[trial.number].intermediate_values
                so_far = [self.folds.mrr(trial.number, c) for c in SEARCHED[: step + 1]]
                if step not in values:
                    trial.report(float(np.mean(so_far)), step)
                # Everything is compared with the first.
                if trial.number and step + 1 < len(SEARCHED) and trial.should_prune():
                    self.study.tell(trial, state=TrialState.PRUNED)
                    self._log(trial.number)
                else:
                    kept.append(trial)
            batch = kept
            publish(self._journal)
        for trial in batch:
            self.study.tell(
                trial, float(np.mean([self.folds.mrr(trial.number, k) for k in SEARCHED]))
            )
            self._log(trial.number)
        publish(self._journal)
        return True

    def confirm(self) -> Difference | None:
        """The best trial minus the first one, at the last origin; None where they are one."""
        best = self.study.best_trial
        if best.number == 0:
            return None
        asked = [(0, self.study.trials[0].params), (best.number, best.params)]
        seeds = range(CONFIRM_SEEDS)
        for seed in seeds:
            self.folds.measure(asked, CONFIRMED, seed)
        new, old = (
            np.mean([self.folds.ranks(n, CONFIRMED, s) for s in seeds], axis=0)
            for n in (best.number, 0)
        )
        test = paired_test(new, old)
        return Difference(test.mean_difference, test.ci, test.p_value)

    def trials(self) -> list[dict[str, Any]]:
        """What is known of each trial (``Tuned.trials``)."""
        return [self._told(trial.number) for trial in self.study.trials]

    def _told(self, number: int) -> dict[str, Any]:
        trial = self.study.trials[number]
        origins = [k for step, k in enumerate(SEARCHED) if step in trial.intermediate_values]
        ranks = [self.folds.ranks(number, k) for k in origins]
        # Of the mean over origins, each of which weighs the same.
        errors = [np.nanstd(r) / max(np.isfinite(r).sum(), 1) ** 0.5 for r in ranks]
        return {
            "number": number,
            "state": trial.state.name.lower(),
            "values": trial.params,
            "origins": len(origins),
            "by_origin": [mean(r) for r in ranks],
            "mrr": float(np.mean([mean(r) for r in ranks])) if ranks else None,
            "error": float(np.linalg.norm(errors) / len(errors)) if ranks else None,
        }

    def _log(self, number: int) -> None:
        """A trial as a child of the search's MLflow run."""
        import mlflow

        told = self._told(number)
        with mlflow.start_run(run_name=f"trial {number}", nested=True):
            mlflow.log_params(told["values"])
            mlflow.set_tag("state", told["state"])
            for step, value in enumerate(told["by_origin"]):
                mlflow.log_metric("mrr_at_origin", value, step=step)
            mlflow.log_metrics({"mrr": told["mrr"], "mrr_error": told["error"]})

    @contextmanager
    def logged(self) -> Iterator[None]:
        """The search's MLflow run, which goes on where it was cut off."""
        earlier = tracking.known(self.study.user_attrs.get(RUN))
        params = {"study": self.name, "fingerprint": self.of["fingerprint"]}
        with tracking.job_run(self.home, "tune", params, self.of, earlier) as run_id:
            self.study.set_user_attr(RUN, run_id)
            yield


def tune(
    home: Home,
    model: ModelConfig,
    train: TrainConfig,
    space: Space,
    trials: int,
    minutes: float | None = None,
    budget: FoldBudget = DEFAULT_BUDGET,
) -> Tuned:
    """Search for better settings than ``model`` and ``train``; goes on where it was cut off.

    Args:
        home: with a training set.
        model, train: the configuration to begin with.
        space: what is tried.
        trials: how many, those of before included.
        minutes: after which no further origin is begun; None for no limit.
        budget: of each origin.

    Raises:
        ConfigError: the space does not fit the configuration, or Optuna is not installed.
        StateError: there is no training set, or another search of this home runs.
        DataError: too few requests.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError(
            "Optuna is not installed: pip install 'interactrank-platform[tune]'"
        ) from None
    deadline = time.monotonic() + (float("inf") if minutes is None else 60 * minutes)
    with alone(home, home.root / "tuning", "search"):
        connect()
        tracking.connect(home)
        search = Search(home, model, train, space, budget)
        with search.logged():
            done = search.run(trials, deadline)
            return _found(search, done)


def _found(search: Search, done: bool) -> Tuned:
    import mlflow

    if not search.finished():
        raise StateError(
            "no trial ended in the time that it had; the same command goes on. Give --minutes more."
        )
    best = search.study.best_trial
    found = Tuned(
        search.name,
        search.trials(),
        best.number,
        {name: best.params[name] for name in search.space},
        search.confirm() if done else None,
        done,
    )
    path = search.folder / "results.json"
    write_json(path, asdict(found))
    mlflow.log_artifact(str(path))
    if found.gained is not None:
        mlflow.log_metric("gained_mrr", found.gained.difference)
    return found
