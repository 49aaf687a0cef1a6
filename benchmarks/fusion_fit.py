"""How the fusion is best fitted: endings of one training, compared.

    python benchmarks/fusion_fit.py --home HOME [--home HOME2] [--seeds 3] [--out TABLE.md]

HOME is an absolute path that `prerank run` has filled from a log without impressions. The towers
are trained on the newest training requests; every ending starts from those same towers. The
first half (by time) of the validation requests is what the fusion sees, the second
half is measured with the whole catalogue as candidates. The test split takes no part.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from printed import markdown, show

from interactrank.features.batch import Batch, collate, item_inputs
from interactrank.metrics.ranking import mean, request_metrics
from interactrank.model.config import ModelConfig
from interactrank.model.fusion import Fusion
from interactrank.model.interactrank import InteractRank
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import HeldOut, auxiliary_requests, hold_out, refit
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.home import Home
from prerank.evaluation.baselines.neural import finetune_on_validation
from prerank.evaluation.budget import Budget, chunks, measured_requests
from prerank.evaluation.trials import TrialReader
from prerank.training.reader import new_model

METRICS = ("hits@3", "hits@10", "mrr")
NO_DOT = -12.0
"""A scale of 100 sigmoid(-12) = .0006: what the cross features say alone."""


@dataclass(frozen=True)
class Ending:
    """What is done to trained towers before they are measured.

    ``held`` and ``auxiliary``: fit the fusion on held-out requests, and on training requests too.
    ``gated`` False drops the fusion's dependence on the request first, ``dot`` False its dot.
    """

    name: str
    held: bool = True
    auxiliary: bool = True
    gated: bool = True
    dot: bool = True
    log_q_power: float = LossConfig.log_q_power


ENDINGS = (
    Ending("as trained", held=False, auxiliary=False),
    Ending("held-out", auxiliary=False),
    Ending("held-out + training"),
    Ending("held-out + training, log Q 0.5", log_q_power=0.5),
    Ending("held-out + training, fixed weights", gated=False),
    Ending("held-out, no dot", auxiliary=False, dot=False),
    Ending("held-out + training, no dot", dot=False),
    Ending("held-out + training, no dot, fixed weights", dot=False, gated=False),
)


class Measured:
    """The measured requests with their whole catalogue, features computed once."""

    def __init__(self, home: Home, reader: TrialReader, budget: Budget) -> None:
        most = max(budget.measured_candidates // len(reader.catalogue), 1)
        self.reader, heads = reader, len(reader.schema.heads)
        self.parts: list[tuple[Batch, NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]] = []
        for arrays, _, _, unreachable in chunks(home, measured_requests(home, "validation", most)):
            batch = collate(arrays, reader.catalogue, reader.table, heads)
            self.parts.append((batch, arrays.labels & 1 > 0, arrays.offsets, unreachable))
        known = np.ones(len(reader.catalogue), bool)
        now = arrays.time.min()
        self.items = item_inputs(
            reader.catalogue,
            np.arange(len(known)) + 1,
            reader.catalogue.text_from <= now,
            reader.catalogue.category_from <= now,
            reader.catalogue.embedding_from <= now,
        )

    @torch.inference_mode()
    def of(self, model: InteractRank) -> list[float]:
        """HITS@3, HITS@10 and MRR of a model."""
        model.eval()
        vectors = model.encode_items(self.items)
        rows = []
        for batch, positive, offsets, unreachable in self.parts:
            dots = (model.encode_queries(batch)[:, 0] @ vectors.T).reshape(-1, 1)
            logits = model.fusion.logits(dots, batch.x, batch.request, batch.candidate_request)
            values = request_metrics(logits[:, 0].numpy(), positive, offsets, unreachable)
            rows.append([values[m] for m in METRICS])
        return [mean(np.concatenate(column)) for column in zip(*rows, strict=True)]


def drop_gates(fusion: Fusion) -> None:
    """Take the request out of a fusion: its gates, and the hidden units' weights of phi."""
    fusion.gate = None
    if fusion.units is not None:
        weight = fusion.units.weight[:, : fusion.crosses].detach().clone()
        fusion.units.weight = torch.nn.Parameter(weight)


def fit(
    model: InteractRank,
    ending: Ending,
    held: list[HeldOut],
    auxiliary: list[HeldOut],
    loss: LossConfig,
) -> None:
    """Fit the fusion as ``ending`` says, in place."""
    fusion = model.fusion
    if not ending.gated:
        drop_gates(fusion)
    if not ending.dot:
        fusion.raw_scale.data.fill_(NO_DOT)
        held = [replace(h, dots=torch.zeros_like(h.dots)) for h in held]
    data = [*held, *auxiliary] if ending.auxiliary else held
    refit(fusion, data, replace(loss, log_q_power=ending.log_q_power))


def endings_of(
    home: Home,
    budget: Budget,
    config: TrainConfig,
    model_config: ModelConfig,
    measured: Callable[[TrialReader], Measured],
) -> Iterator[tuple[str, list[float]]]:
    """Train towers once; the metrics of each ending."""
    reader = TrialReader(home, budget, ())
    target = measured(reader)
    batches = list(
        reader.split("train", config.batch_requests, config.seed, config.random_negatives)
    )
    model = new_model(reader, model_config, config)
    trainer = Trainer(model, config, config.epochs * len(batches))
    for epoch in range(config.epochs):
        random.Random(config.seed + epoch).shuffle(batches)
        trainer.epoch(epoch, batches, ())
    validation = list(reader.split("validation", config.batch_requests))
    held = hold_out(model, validation)
    auxiliary = auxiliary_requests(reader.auxiliary(config), "cpu")
    for ending in ENDINGS:
        if not model.fusion.crosses and ending.held:
            continue
        own = copy.deepcopy(model)
        if ending.held:
            fit(own, ending, held, auxiliary, config.loss)
        yield ending.name, target.of(own)
    if not model.fusion.crosses:
        finetune_on_validation(trainer, reader)
        yield "fine-tuned on held-out requests", target.of(model)


def compared(home: Home, budget: Budget, args: argparse.Namespace) -> str:
    """One home's table: a row for each softmax weight and ending, means over seeds."""
    cache: list[Measured] = []

    def target(reader: TrialReader) -> Measured:
        if not cache:
            cache.append(Measured(home, reader, budget))
        return cache[0]

    model = ModelConfig(fusion_hidden=args.hidden)
    if args.two_tower:
        model = replace(model, cross=False, history=False)
    rows: dict[tuple[float, str], list[list[float]]] = defaultdict(list)
    for softmax, seed in itertools.product(args.softmax, range(1, args.seeds + 1)):
        loss = LossConfig(softmax=softmax, listwise=args.listwise)
        config = TrainConfig(epochs=budget.epochs, seed=seed, loss=loss)
        for ending, metrics in endings_of(home, budget, config, model, target):
            rows[softmax, ending].append(metrics)
            print(
                home.root.name,
                softmax,
                seed,
                f"{ending:<44}",
                " ".join(f"{m:.4f}" for m in metrics),
                flush=True,
            )
    lines = []
    for (softmax, ending), found in rows.items():
        cells = [f"{m:.4f}" for m in np.mean(found, axis=0)]
        if len(found) > 1:
            spread = np.std(found, axis=0, ddof=1)
            cells = [f"{c} ± {s:.4f}" for c, s in zip(cells, spread, strict=True)]
        lines.append([f"{softmax:g}", ending, *cells])
    return markdown(["softmax", home.root.name, *METRICS], lines)


def main() -> None:
    """Print a table for each home."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--home", action="append", required=True)
    ask.add_argument("--seeds", type=int, default=1)
    ask.add_argument("--epochs", type=int, default=3)
    ask.add_argument("--train-requests", type=int, default=Budget.train_requests)
    ask.add_argument("--candidates", type=int, default=10_000_000, help="measured, about")
    ask.add_argument("--softmax", type=float, nargs="+", default=[0.1, 1.0])
    ask.add_argument("--listwise", type=float, default=1.0)
    ask.add_argument("--hidden", type=int, default=ModelConfig.fusion_hidden, help="units of g")
    ask.add_argument("--two-tower", action="store_true", help="measure the two-tower instead")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    budget = Budget(
        train_requests=args.train_requests,
        measured_candidates=args.candidates,
        validation_requests=10_000,
        epochs=args.epochs,
    )
    torch.set_num_threads(1)
    tables = [compared(Home.at(Path(h).resolve()), budget, args) for h in args.home]
    text = f"Second half of validation, whole catalogue; {budget}\n\n" + "\n\n".join(tables) + "\n"
    show(text, args.out)


if __name__ == "__main__":
    main()
