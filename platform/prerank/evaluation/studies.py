"""Optuna's part of a search: its storage, its sampler, its pruner."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prerank.evaluation.search_space import Value

if TYPE_CHECKING:
    from optuna import Study

RANDOM_TRIALS, UNPRUNED = 8, 4
"""Trials before TPE begins to learn from them, and before any is pruned."""
OF_SEARCH = "of_search"
"""Of a study's attributes: what it is of."""


def open_study(
    journal: Path, name: str, first: Mapping[str, Value], of: Mapping[str, Any]
) -> Study:
    """The study of a journal, a file that is made if there is none.

    Args:
        journal: Optuna's storage; a process that was killed within a line of it loses that line.
        name: of the study.
        first: values of its first trial.
        of: what it is of, for who looks at the journal.
    """
    import optuna
    from optuna.pruners import MedianPruner
    from optuna.samplers import TPESampler
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=MedianPruner(n_startup_trials=UNPRUNED),
        )
        # With one seed, a search that goes on would draw again what it has drawn.
        study.sampler = TPESampler(
            seed=len(study.trials), n_startup_trials=RANDOM_TRIALS, multivariate=True
        )
    if not study.trials:
        study.set_user_attr(OF_SEARCH, dict(of))
        study.enqueue_trial(dict(first))
    return study
