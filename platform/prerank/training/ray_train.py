"""Training on Ray Train: an MLflow run per job, a checkpoint per epoch, resumed after failures."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray._private.worker import get_dashboard_url
from ray.train import UserCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.torch.torch_trainer import TorchTrainer

from interactrank.features.batch import Batch
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.errors import ConfigError, DataError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.progress import bar
from prerank.core.settings import typed
from prerank.registry.bundle import load_bundle, save_bundle
from prerank.training.fit import Progress, fit, total_steps
from prerank.training.reader import Reader, new_model
from prerank.training.warm import begin_warm

TRAINER = "trainer.pt"
FOLLOW_S = 0.5
"""How often the driver looks for a new epoch."""


class Epochs:
    """The epochs' metrics of a job, a line of JSON each, where whichever node can see them.

    Args:
        place: PRERANK_HOME.
        name: of the job.
    """

    def __init__(self, place: str, name: str) -> None:
        self.place, self.name = place, f"runs/{name}/progress.jsonl"

    def add(self, metrics: dict[str, Any]) -> None:
        """Add an epoch."""
        home, line = Home.at(self.place), json.dumps(metrics) + "\n"
        if home.store:
            home.store.append(self.name, line.encode())
            return
        with (home.root / self.name).open("a") as file:
            file.write(line)

    def read(self) -> list[dict[str, Any]]:
        """Those that there are."""
        home = Home.at(self.place)
        path = home.root / self.name
        if home.store:
            text = (home.store.read(self.name) or b"").decode()
        else:
            text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


class MlflowCallback(UserCallback):
    """Logs each epoch to the job's MLflow run, and to what the driver follows.

    Runs in Ray Train's controller, so it carries the tracking URI rather than trusting its
    surroundings.
    """

    def __init__(self, uri: str, run_id: str, epochs: Epochs, prefix: str) -> None:
        self.uri, self.run_id, self.epochs, self.prefix = uri, run_id, epochs, prefix

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Log rank 0's metrics at the epoch's step."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        first, now = metrics[0], int(time.time() * 1000)
        client = MlflowClient(tracking_uri=self.uri)
        client.log_batch(
            self.run_id,
            metrics=[
                Metric(self.prefix + k, float(v), now, int(first["epoch"]))
                for k, v in first.items()
                if isinstance(v, (int, float)) and np.isfinite(v)
            ],
        )
        self.epochs.add(first)


class JobTrainer(TorchTrainer):
    """Ray Train's, without its cleaner of placement groups where no dashboard runs.

    The cleaner asks the dashboard whether the controller lives. Where there is none it is still
    asking when the job ends, and the job waits twelve seconds for it. A Ray without a dashboard is
    a process's own, and takes its placement groups along.
    """

    def _create_default_callbacks(self) -> list[Any]:
        found: list[Any] = super()._create_default_callbacks()
        if get_dashboard_url():
            return found
        return [c for c in found if not isinstance(c, PlacementGroupCleanerCallback)]


def train_worker(settings: dict[str, Any]) -> None:
    """Run one Ray Train worker: its data shard, data-parallel steps, one checkpoint per epoch."""
    import ray.train
    from ray.train import Checkpoint
    from ray.train.torch import get_device, prepare_model

    home = Home.at(settings["home"])
    home.look()
    reader, config = Reader(home), typed(TrainConfig, settings["train"], "train")
    context = ray.train.get_context()
    device, rank = get_device(), context.get_world_rank()
    model = new_model(reader, typed(ModelConfig, settings["model"], "model"), config)
    if settings["warm"]:
        if home.store:
            home.store.take(settings["shared"])
        begin_warm(model, reader.catalogue, load_bundle(home.root / settings["warm"]))
    if rank:
        # The ranks start from the same weights, and then hide ids and drop units each their own.
        torch.manual_seed(config.seed + rank)
    many = context.get_world_size() > 1
    trainer = Trainer(
        model,
        config,
        total_steps(home, config, context.get_world_size()),
        device,
        wrap=(lambda m: prepare_model(m, parallel_strategy_kwargs={"find_unused_parameters": True}))
        if many
        else None,
    )
    since = Progress()
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            since = _resume(trainer, Path(folder), rank)
    shard = ray.train.get_dataset_shard("train")

    def batches(epoch: int) -> Iterator[Batch]:
        size = max(config.batch_requests // context.get_world_size(), 1)
        rng = np.random.default_rng((config.seed, epoch, rank))
        for table in shard.iter_batches(
            batch_size=size,
            batch_format="pyarrow",
            prefetch_batches=2,
            local_shuffle_buffer_size=8 * size,
            local_shuffle_seed=config.seed + epoch,
        ):
            # Copied by the thread that made it, ahead of the step.
            yield reader.batch(table, reader.negatives(rng, config.random_negatives)).to(device)

    def after_epoch(metrics: dict[str, Any], improved: bool, state: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            # Every rank adds its file; Ray makes one checkpoint of them.
            torch.save(state.pop("rng"), Path(folder) / f"rng-{rank}.pt")
            if rank == 0:
                torch.save(state, Path(folder) / TRAINER)
                save_bundle(Path(folder) / "bundle", model, reader.catalogue, settings["meta"])
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    fit(trainer, reader, batches, after_epoch, since)


def _resume(trainer: Trainer, folder: Path, rank: int) -> Progress:
    """Load a checkpoint into ``trainer``."""
    state = torch.load(folder / TRAINER, map_location=trainer.device, weights_only=True)
    own = folder / f"rng-{rank}.pt"
    # A rank that the job did not have before keeps its fresh generators.
    rng = torch.load(own, weights_only=True) if own.exists() else None
    trainer.load_state(state | {"rng": rng})
    return Progress(**state["progress"])


def follow(reported: Epochs, epochs: int, done: threading.Event) -> threading.Thread:
    """Show the epochs as a bar with the latest metrics, until ``done``."""

    def show() -> None:
        with bar(total=epochs, desc="train", unit="epoch") as shown:
            seen = 0
            while True:
                finished = done.is_set()
                rows = reported.read()
                for m in rows[seen:]:
                    shown.set_postfix(
                        loss=f"{m['train_loss']:.3f}",
                        mrr=f"{m['validation_mrr']:.4f}",
                        waiting=f"{m['waiting_share']:.0%}",
                    )
                    shown.update()
                seen = len(rows)
                if finished:
                    return
                done.wait(FOLLOW_S)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    return thread


def _examples(home: Home) -> Any:
    """The training examples, read on whichever node."""
    import ray

    folder = home.training_set / "train"
    if home.store:
        paths, system = home.store.objects(folder)
        return ray.data.read_parquet(paths, filesystem=system)
    return ray.data.read_parquet(str(folder))


def _storage(home: Home) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints."""
    if home.store:
        return {"storage_path": home.store.path("runs"), "storage_filesystem": home.store.system}
    return {"storage_path": str(home.runs)}


def run_training(
    home: Home,
    name: str,
    model: ModelConfig,
    train: TrainConfig,
    uri: str,
    run_id: str,
    meta: dict[str, Any],
    workers: int | None = None,
    prefix: str = "",
    warm: Path | None = None,
) -> tuple[Path, list[dict[str, Any]]]:
    """Fit on the cluster; returns the best checkpoint's bundle folder and the epochs' metrics.

    ``workers`` None means one for each GPU of the cluster, or one on CPU; each trains on its shard,
    and the shards are of one size (fewer than ``workers`` requests are left out of an epoch).
    The epochs' metrics stand in the MLflow run under their name after ``prefix``. ``warm`` is the
    bundle folder of a version whose towers it begins with (``prerank.training.warm``). A job whose
    worker dies, or one of the same name that was cut off, goes on from its last checkpoint as if
    nothing had happened.

    Raises:
        DataError: no validation request has a positive.
        ConfigError: the model's config names a cross feature that the log does not have.
    """
    import ray
    from ray.train.v2.api.config import (
        CheckpointConfig,
        FailureConfig,
        RunConfig,
        ScalingConfig,
    )

    examples = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    if not examples["validation_positives"]:
        raise DataError(
            "no validation request has a positive, so no epoch can be told from another: give a "
            "longer log, or check the mapping's `heads`."
        )
    try:
        model.signs(LogManifest.load(home).schema.cross)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    gpus = int(ray.cluster_resources().get("GPU", 0))
    reported, folder = Epochs(home.place, name), home.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    # Footers are read anew at every epoch, by 32 actors if Ray is not told otherwise. One reads
    # those of many files at once.
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    trainer = JobTrainer(
        train_worker,
        train_loop_config={
            "home": home.place,
            "model": model.to_dict(),
            "train": asdict(train),
            "meta": meta,
            "warm": warm and str(warm.relative_to(home.root)),
            "shared": home.store.share([warm]) if home.store and warm else {},
        },
        scaling_config=ScalingConfig(num_workers=workers or max(gpus, 1), use_gpu=gpus > 0),
        datasets={"train": _examples(home)},
        run_config=RunConfig(
            name=name,
            **_storage(home),
            failure_config=FailureConfig(max_failures=1),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute="validation_mrr"
            ),
            callbacks=[MlflowCallback(uri, run_id, reported, prefix)],
        ),
    )
    done = threading.Event()
    watcher = follow(reported, train.epochs, done)
    try:
        result = trainer.fit()
    finally:
        done.set()
        watcher.join()
    best = result.get_best_checkpoint("validation_mrr", "max")
    assert best is not None, "every epoch reports a checkpoint"
    checkpoint = folder / Path(best.path).name
    if home.store:
        best.to_directory(str(checkpoint))
    return checkpoint / "bundle", reported.read()
