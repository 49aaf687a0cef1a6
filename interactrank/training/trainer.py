"""The training loop, free of any platform: batches in, a trained model and a history out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from interactrank.features.batch import Batch
from interactrank.metrics.ranking import mean, request_metrics
from interactrank.model.interactrank import InteractRank, Output
from interactrank.training.losses import ItemFrequency, LossConfig, total_loss


@dataclass(frozen=True)
class TrainConfig:
    """Optimiser, schedule and losses.

    Attributes:
        epochs: passes over the training requests, at most.
        batch_requests: requests per optimiser step, over all workers. Fits of the fusion take as
            many at a time, 256 at most.
        random_negatives: items of the catalogue that join each batch as negatives of the softmax
            loss, since impressions lack easy ones. A log without impressions has random candidates
            as it is, and needs none.
        learning_rate: highest learning rate of the towers (AdamW).
        fusion_learning_rate: highest learning rate of the fusion.
        weight_decay: weight decay of the towers; the fusion has none.
        warmup_steps: steps over which the learning rate rises to its highest; it then falls along
            a cosine.
        clip_norm: largest norm of a step's gradients.
        patience: epochs in a row that may gain less than ``min_delta`` before training stops.
        min_delta: least gain of validation MRR over the best epoch before that counts as one.
        bf16: compute the forward pass in bfloat16.
        stacking: refit the fusion on held-out requests after training
            (``interactrank.training.stacking``).
        seed: seed of weights, order of requests, dropout and random negatives.
        loss: shares of the losses.
    """

    epochs: int = 8
    batch_requests: int = 256
    random_negatives: int = 512
    learning_rate: float = 3e-3
    fusion_learning_rate: float = 5e-2
    weight_decay: float = 1e-4
    warmup_steps: int = 50
    clip_norm: float = 5.0
    patience: int = 2
    min_delta: float = 1e-3
    bf16: bool = False
    stacking: bool = True
    seed: int = 7
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass
class EpochReport:
    """What an epoch did. ``waiting_share`` is the share of wall time spent waiting for data."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_mrr: float
    seconds: float
    waiting_share: float
    steps: int


def fit_statistics(model: InteractRank, batches: Iterable[Batch]) -> None:
    """Set the standardisation of x and the ranges of request statistics from training batches."""
    sample = list(batches)
    if model.config.cross:
        model.fusion.fit(torch.cat([b.x for b in sample]), torch.cat([b.request for b in sample]))
        assert model.query_tower.numeric is not None
        model.query_tower.numeric.fit(torch.cat([b.request for b in sample]))


def mark_trained(model: InteractRank, batch: Batch) -> None:
    """Remember the items this batch engaged: their ids are worth an embedding of their own.

    With several ranks, what any of them engaged: the forward pass would else take rank 0's mask.
    """
    # What was not engaged is sent to row 0, which stands for no item: a boolean index would make
    # the host wait for the device.
    rows = batch.items["rows"][batch.candidate_item]
    model.trained[torch.where(batch.labels.sum(1) > 0, rows, 0)] = True
    if dist.is_initialized():
        # A byte an item; the gradient of its id embedding, reduced each step too, has over a
        # hundred.
        known = model.trained.to(torch.uint8)
        dist.all_reduce(known, dist.ReduceOp.MAX)
        model.trained.copy_(known)
    model.trained[0] = False


class Trainer:
    """One model's optimiser, schedule and step.

    ``wrap`` lets Ray Train put DistributedDataParallel around the forward pass.
    """

    def __init__(
        self,
        model: InteractRank,
        config: TrainConfig,
        total_steps: int,
        device: torch.device | str = "cpu",
        wrap: Callable[[InteractRank], Callable[[Batch], Output]] | None = None,
    ) -> None:
        self.model, self.config, self.device = model.to(device), config, torch.device(device)
        self.forward = wrap(model) if wrap else model
        fusion = list(model.fusion.parameters())
        inside = {id(p) for p in fusion}
        towers = [p for p in model.parameters() if id(p) not in inside]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": towers, "lr": config.learning_rate},
                {"params": fusion, "lr": config.fusion_learning_rate, "weight_decay": 0.0},
            ],
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _warm_cosine(step, config.warmup_steps, total_steps)
        )
        self.frequency = ItemFrequency(len(model.trained), self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where the config asks for it."""
        if not self.config.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def loss(self, batch: Batch) -> Tensor:
        """Total loss of a batch on the device."""
        log_q = self.frequency.update(batch.items["rows"]) * self.config.loss.softmax_log_q
        with self.autocast():
            output = self.forward(batch)
        return total_loss(output.float(), batch, log_q, self.config.loss)

    def step(self, batch: Batch) -> Tensor:
        """One optimiser step; returns the loss, on the device, which need not have it yet."""
        batch = batch.to(self.device)
        mark_trained(self.model, batch)
        loss = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.update()
        return loss.detach()

    def update(self) -> None:
        """Apply the gradients, cut to ``clip_norm``, and go on in the schedule."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.schedule.step()

    def epoch(
        self, number: int, batches: Iterable[Batch], validation: Iterable[Batch]
    ) -> EpochReport:
        """Train one epoch, then measure loss and MRR on the validation batches."""
        self.model.train()
        began, waited, losses = time.perf_counter(), 0.0, []
        source = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            losses.append(self.step(batch))
        # Reading the losses waits for the device, and belongs to the epoch's time.
        train_loss = float(torch.stack(losses).double().mean()) if losses else math.nan
        seconds = time.perf_counter() - began
        loss, mrr = self.validate(validation)
        return EpochReport(
            number,
            train_loss,
            loss,
            mrr,
            seconds,
            waited / max(seconds, 1e-9),
            len(losses),
        )

    @torch.inference_mode()
    def validate(self, batches: Iterable[Batch]) -> tuple[float, float]:
        """Mean loss and mean MRR of the ranking head over validation batches."""
        self.model.eval()
        losses, ranks = [], []
        for batch in batches:
            batch = batch.to(self.device)
            output = self.model(batch)
            log_q = torch.zeros(output.items.shape[0], device=self.device)
            losses.append(float(total_loss(output, batch, log_q, self.config.loss)))
            counts = (
                torch.bincount(batch.candidate_request, minlength=output.queries.shape[0])
                .cpu()
                .numpy()
            )
            offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
            scores = output.logits[:, 0].float().cpu().numpy()
            positive = batch.labels[:, 0].cpu().numpy() > 0
            ranks.append(request_metrics(scores, positive, offsets)["mrr"])
        if not losses:
            return math.nan, math.nan
        return float(np.mean(losses)), mean(np.concatenate(ranks))

    def state(self) -> dict[str, Any]:
        """Everything this rank needs to resume; ``load_state`` takes it back.

        The random generators' states (``rng``) are the rank's own, the rest is every rank's.
        """
        return {
            "rng": self._generators(),
            "model": {k: v.clone() for k, v in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "seen": self.frequency.seen,
            "batches": self.frequency.batches,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from ``state``; with ``rng`` None the random generators stay as they are."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.frequency.seen, self.frequency.batches = state["seen"], state["batches"]
        rng = state["rng"] or {}
        if "cpu" in rng:
            torch.set_rng_state(rng["cpu"])
        if "cuda" in rng and self.device.type == "cuda":
            torch.cuda.set_rng_state(rng["cuda"], self.device)

    def _generators(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states


def _warm_cosine(step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    done = min((step - warmup) / max(total - warmup, 1), 1.0)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
