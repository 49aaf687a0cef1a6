"""A training job on Ray Train: a killed worker costs nothing, and several workers act as one."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train.v2.api import config as ray_config
from safetensors.torch import load_file

from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig, Trainer, mark_trained
from prerank.core.home import Home
from prerank.dataset.examples import read_split
from prerank.evaluation.baselines.neural import finetune_on_validation
from prerank.registry import tracking
from prerank.registry.bundle import WEIGHTS
from prerank.training import ray_train as train
from prerank.training.fit import Progress, fit
from prerank.training.ray_train import run_training
from prerank.training.reader import Reader, new_model

SMALL = ModelConfig(
    width=8,
    text_width=8,
    id_width=8,
    mask_blocks=1,
    mask_width=16,
    hidden=(16,),
    dropout=0.1,
    id_dropout=0.2,
)
SETTINGS = TrainConfig(epochs=2, batch_requests=64, patience=9, warmup_steps=5)
Worker = Callable[[dict[str, Any]], None]


@pytest.fixture
def home(tmp_path: Path, tiny_world: Home) -> Home:
    """The tiny world with runs of its own."""
    own = Home.at(tmp_path / "home")
    own.root.mkdir()
    for name in ("log", "training_set"):
        (own.root / name).symlink_to(tiny_world.root / name)
    return own


def job(home: Home, name: str, workers: int = 1) -> tuple[Path, list[dict[str, Any]], str]:
    """Bundle, history and MLflow run of a training job."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tracking.job_run(home, name, {}, asdict(SETTINGS)) as run_id:
        uri = tracking.tracking_uri(home)
        bundle, history = run_training(home, name, SMALL, SETTINGS, uri, run_id, {}, workers)
    return bundle, history, run_id


def last_state(home: Home, name: str) -> dict[str, Any]:
    """What the job's last checkpoint would resume from."""
    newest = max((home.runs / name).glob(f"checkpoint_*/{train.TRAINER}"))
    state: dict[str, Any] = torch.load(newest, weights_only=True)
    return state


def dying_once(marker: Path, at_step: int) -> Worker:
    """The training function of a worker that is killed before a step, the first time it gets there.

    The process sends itself SIGKILL, so nothing of it can run any more. Made of closures: a Ray
    worker cannot import this module.
    """
    work = train.train_worker

    def mortal(settings: dict[str, Any]) -> None:
        step = Trainer.step

        def checked(self: Trainer, batch: Any) -> torch.Tensor:
            if self.schedule.last_epoch == at_step and not marker.exists():
                marker.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, batch)

        Trainer.step = checked  # type: ignore[method-assign]
        work(settings)

    return mortal


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_worker_costs_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    requests = home.read_json(home.training_set / "manifest.json", "")["train_requests"]
    steps = -(-requests // SETTINGS.batch_requests)
    whole, history, _ = job(home, "whole")
    marker = tmp_path / "died"
    monkeypatch.setattr(train, "train_worker", dying_once(marker, steps + steps // 2))
    resumed, again, run_id = job(home, "killed")
    assert int(marker.read_text()) != os.getpid()
    assert [h["epoch"] for h in again] == list(range(SETTINGS.epochs))
    for name in ("train_loss", "validation_loss", "validation_mrr", "best_mrr", "steps"):
        assert [h[name] for h in again] == [h[name] for h in history], name
    logged = MlflowClient().get_metric_history(run_id, "train_loss")
    assert [(m.step, m.value) for m in logged] == [(h["epoch"], h["train_loss"]) for h in history]
    assert whole.parent.name.split("_")[0] == resumed.parent.name.split("_")[0]
    one, other = last_state(home, "whole"), last_state(home, "killed")
    assert one["progress"] == other["progress"]
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    ours, theirs = load_file(whole / WEIGHTS), load_file(resumed / WEIGHTS)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def recording(folder: Path) -> Worker:
    """The training function of a worker that writes down what it trained on and ended with."""
    work = train.train_worker

    def observed(settings: dict[str, Any]) -> None:
        import ray.train

        step, seen = Trainer.step, []

        def noted(self: Trainer, batch: Any) -> torch.Tensor:
            rows = batch.items["rows"].unique()
            seen.append((self, len(batch.text_offsets), rows))
            return step(self, batch)

        Trainer.step = noted  # type: ignore[method-assign]
        work(settings)
        last = seen[0][0]
        seen[:] = [s for s in seen if s[0] is last]
        torch.save(
            {
                "requests": sum(n for _, n, _ in seen),
                "batches": len(seen),
                "rows": torch.cat([r for *_, r in seen]),
                "known": last.model.trained,
                "frequency": (last.frequency.seen, last.frequency.batches),
                "weights": dict(last.model.named_parameters()),
            },
            folder / f"rank-{ray.train.get_context().get_world_rank()}.pt",
        )

    return observed


class HalfACoreEach(ray_config.ScalingConfig):
    """Two workers and the data's tasks on a Ray of two cores."""

    def __init__(self, **options: Any) -> None:
        super().__init__(resources_per_worker={"CPU": 0.5}, **options)


@pytest.mark.slow
def test_two_workers_share_the_data_and_what_they_learn_of_items(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_config, "ScalingConfig", HalfACoreEach)
    monkeypatch.setattr(train, "train_worker", recording(tmp_path))
    _, history, _ = job(home, "pair", workers=2)
    ranks = [torch.load(tmp_path / f"rank-{r}.pt", weights_only=True) for r in range(2)]
    assert len(history) == SETTINGS.epochs
    for name, value in ranks[0]["weights"].items():
        assert torch.equal(value, ranks[1]["weights"][name]), name

    # The shards are disjoint and hold everything: but for one request where the number is odd.
    requests = home.read_json(home.training_set / "manifest.json", "")["train_requests"]
    each = [r["requests"] / SETTINGS.epochs for r in ranks]
    assert each == [requests // 2] * 2

    reader = Reader(home)
    alone = new_model(reader, SMALL, SETTINGS)
    for table in read_split(home, "train"):
        mark_trained(alone, reader.batch(table))
    known = ranks[0]["known"]
    assert torch.equal(known, ranks[1]["known"])
    if requests % 2 == 0:
        assert torch.equal(known, alone.trained)
    assert not (known & ~alone.trained).any()
    assert known.sum() >= alone.trained.sum() - 5

    (seen, batches), (other, also) = (r["frequency"] for r in ranks)
    assert batches == also == sum(r["batches"] for r in ranks)
    assert torch.equal(seen, other)
    rows = torch.cat([r["rows"] for r in ranks])
    assert torch.equal(seen, torch.bincount(rows, minlength=len(seen)).to(seen.dtype))


class _Still:
    """A trainer whose model never learns."""

    def __init__(self, real: Any) -> None:
        self.model, self.config, self.device = real.model, real.config, real.device
        self.state, self.load_state = real.state, real.load_state

    def epoch(self, number: int, *_: Any) -> Any:
        from interactrank.training.trainer import EpochReport

        return EpochReport(number, 0.0, 0.0, 0.0, 0.0, 0.0, 0)


def test_early_stopping_goes_on_from_where_it_was(home: Home) -> None:
    config = TrainConfig(epochs=9, batch_requests=256, patience=3)
    reader = Reader(home)
    trainer: Any = _Still(Trainer(new_model(reader, SMALL, config), config, 9))

    def epochs(since: Progress) -> tuple[list[int], Progress]:
        ran, states = [], []

        def after(metrics: dict[str, Any], _: bool, state: dict[str, Any]) -> None:
            ran.append(metrics["epoch"])
            states.append(Progress(**state["progress"]))

        fit(trainer, reader, lambda _: (), after, since)
        return ran, states[-1] if states else since

    ran, end = epochs(Progress())
    assert ran == [0, 1, 2, 3]
    assert end == Progress(4, end.best, 3)
    assert epochs(Progress(2, end.best, 1))[0] == [2, 3]
    assert epochs(end) == ([], end), "a job that had stopped early was trained on"


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_towers_never_learn_from_validation_requests(home: Home, counts: bool, shown: bool) -> None:
    config = TrainConfig(epochs=1, batch_requests=256)
    reader = Reader(home)
    reader.shown = shown
    model = new_model(reader, replace(SMALL, cross=counts, history=counts), config)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    after: dict[str, torch.Tensor] = {}
    trainer = Trainer(model, config, 9)
    fit(trainer, reader, lambda _: (), lambda *_: after.update(copy.deepcopy(model.state_dict())))
    towers = [k for k in before if not k.startswith("fusion.")]
    assert towers
    assert all(torch.equal(before[k], after[k]) for k in towers)


def test_finetuning_teaches_the_towers_alone_and_leaves_the_trainer_as_it_was(home: Home) -> None:
    config, reader = TrainConfig(epochs=1, batch_requests=64), Reader(home)
    model = new_model(reader, replace(SMALL, cross=False, history=False), config)
    one = Trainer(model, config, 9)
    one.epoch(0, reader.epochs(config)(0), ())
    model.trained[:] = False
    validation = list(reader.split("validation", config.batch_requests))
    loss = one.validate(validation)[0]
    before = copy.deepcopy(model.state_dict())
    rest = copy.deepcopy({k: v for k, v in one.state().items() if k not in ("model", "rng")})
    finetune_on_validation(one, reader)
    after = model.state_dict()
    fusion = [k for k in before if k.startswith("fusion.")]
    assert fusion
    assert all(torch.equal(before[k], after[k]) for k in fusion)
    changed = "item_tower.body.mlp.0.weight"
    assert not torch.equal(before[changed], after[changed])
    for held_out in validation:
        engaged = held_out.items["rows"][held_out.candidate_item[held_out.labels.sum(1) > 0]]
        assert model.trained[engaged].all()
    assert not model.training
    now = {k: v for k, v in one.state().items() if k not in ("model", "rng")}
    assert str(now) == str(rest)
    assert one.validate(validation)[0] < loss
