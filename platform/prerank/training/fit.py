"""The fit loop: epochs with early stopping, and what is saved after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import distributed as dist

from interactrank.features.batch import Batch
from interactrank.training.stacking import (
    auxiliary_requests,
    calibrate,
    cross_fitted,
    fitted_on,
    hold_out,
    refit,
)
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.home import Home
from prerank.training.prefetch import Prefetcher
from prerank.training.reader import Reader


@dataclass(frozen=True)
class Progress:
    """Where a job stands: epochs done, best validation MRR, epochs since it last gained enough."""

    epochs: int = 0
    best: float = -1.0
    epochs_without_gain: int = 0


def fit(
    trainer: Trainer,
    reader: Reader,
    batches: Callable[[int], Iterable[Batch]],
    after_epoch: Callable[[dict[str, Any], bool, dict[str, Any]], None],
    since: Progress = Progress(),
) -> None:
    """Run epochs with early stopping; ``after_epoch(metrics, improved, state)`` reports each.

    While ``after_epoch`` runs, a model that improved is what is to be saved: its fusion is stacked
    on the validation split (``interactrank.training.stacking``) and calibrated where candidates
    were shown. Training then goes on from before that. Validation metrics are cross-fitted.

    Args:
        trainer: the model and its optimiser.
        reader: reads the validation split.
        batches: epoch number -> this worker's training batches.
        after_epoch: called with the epoch's metrics, whether validation MRR improved, and the
            trainer's state and ``progress`` to resume from.
        since: where a checkpoint left off.
    """
    config, fusion = trainer.config, trainer.model.fusion
    stacked = config.stacking and fusion.crosses > 0
    with Prefetcher(batches, range(since.epochs, config.epochs)) as prefetcher:
        auxiliary = auxiliary_requests(reader.auxiliary(config) if stacked else (), trainer.device)
        validation = reader.held_out(config)
        while since.epochs < config.epochs and since.epochs_without_gain < max(config.patience, 1):
            report = trainer.epoch(since.epochs, prefetcher.epoch(), ())
            held = hold_out(trainer.model, validation)
            measured = cross_fitted(fusion, held, config.loss, stacked, auxiliary)
            loss, mrr = of_rank_zero(measured)
            report = replace(report, validation_loss=loss, validation_mrr=mrr)
            # Of equal epochs any may be kept, so each must be fit to be.
            improved = mrr >= since.best
            gained = mrr > since.best + config.min_delta
            since = Progress(
                since.epochs + 1,
                mrr if improved else since.best,
                0 if gained else since.epochs_without_gain + 1,
            )
            state = trainer.state() | {"progress": asdict(since)}
            if stacked and held and improved:
                refit(fusion, fitted_on(held, auxiliary), config.loss)
            if held and improved and reader.shown:
                calibrate(fusion, held)
            after_epoch({**asdict(report), "best_mrr": since.best}, improved, dict(state))
            trainer.load_state(state)


def of_rank_zero(values: tuple[float, float]) -> tuple[float, float]:
    """Rank 0's values on every rank: a rank that stopped early alone would hang the others."""
    if not dist.is_initialized():
        return values
    box = [values]
    dist.broadcast_object_list(box)
    return box[0]


def total_steps(home: Home, config: TrainConfig, workers: int = 1) -> int:
    """Optimiser steps of a whole job."""
    summary = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    return config.epochs * max(-(-summary["train_requests"] // config.batch_requests // workers), 1)
