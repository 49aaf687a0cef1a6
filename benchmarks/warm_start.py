"""What a training saves that begins with the towers of the version of before.

    python benchmarks/warm_start.py --before HOME --home HOME [--seeds N] [--out FILE]
    python benchmarks/warm_start.py --chain N --home HOME [--seeds N] [--keep FOLDER] [--out FILE]

HOME is a folder that has a training set; ``--before`` is the same log some days earlier. A
version is trained on the earlier log, as a job trains it. On the later one a model is then trained
from nothing (cold) and from that version's towers (warm), with schedules of several lengths. All
are measured on the same requests: the later half of the later log's validation requests, with
their whole candidates (``prerank.evaluation.trials``). The test split takes no part.

``--chain`` asks instead what becomes of the towers when each version begins with those before it:
so many trainings on the later log, each from the last one's towers. Training requests are the same
for all, as they nearly are from day to day. What was trained is kept in ``--keep``, so that a chain
that was cut off goes on.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from printed import markdown, show

from interactrank.features.catalogue import Catalogue
from interactrank.metrics.ranking import mean, paired_test
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.training.trainer import TrainConfig
from prerank.core.files import written
from prerank.core.home import Home
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.budget import Budget
from prerank.evaluation.trials import Trial, fitted, measured
from prerank.registry.bundle import Bundle, load_bundle, save_bundle
from prerank.training.warm import begin_warm, unlike

LONG = TrainConfig.epochs
BUDGET = Budget(1 << 30, 1 << 30, epochs=LONG)


@dataclass(frozen=True)
class Way:
    """How a training begins, how many epochs its schedule has, and its share of the rate."""

    warm: bool
    epochs: int
    rate: float = 1.0

    def __str__(self) -> str:
        """In words."""
        rate = "" if self.rate == 1.0 else f", {self.rate:g} of the rate"
        return f"{'warm' if self.warm else 'cold'}, {self.epochs} epochs{rate}"


WAYS = [
    Way(False, LONG),
    *(Way(False, n) for n in (4, 2, 1)),
    *(Way(True, n) for n in (LONG, 4, 2, 1)),
    *(Way(True, n, 0.3) for n in (2, 1)),
]


def before(home: Home, seed: int, folder: Path) -> Bundle:
    """The version that a job on ``home`` trains."""
    trainer, reader, _ = fitted(
        home, Trial("before", ModelConfig(), TrainConfig(seed=seed)), BUDGET
    )
    save_bundle(folder, trainer.model, reader.catalogue, {})
    return load_bundle(folder)


def run(
    home: Home, way: Way, seed: int, bundle: Bundle | None, keep: Path | None = None
) -> tuple[dict[str, NDArray[np.float64]], int, float]:
    """Metrics by request, epochs run, and seconds of processor time of the training.

    The model is saved in ``keep``, where one is given.
    """

    def begin(model: InteractRank, catalogue: Catalogue) -> None:
        if bundle is not None and way.warm:
            assert not unlike(model.schema, model.config, bundle.meta)
            begin_warm(model, catalogue, bundle)

    train = TrainConfig(seed=seed, epochs=way.epochs)
    train = replace(
        train,
        learning_rate=train.learning_rate * way.rate,
        warmup_steps=min(train.warmup_steps, train.warmup_steps * way.epochs // 2),
    )
    began = resource.getrusage(resource.RUSAGE_SELF)
    trainer, reader, epochs = fitted(home, Trial("way", ModelConfig(), train), BUDGET, begin)
    ended = resource.getrusage(resource.RUSAGE_SELF)
    seconds = sum(getattr(ended, n) - getattr(began, n) for n in ("ru_utime", "ru_stime"))
    if keep is not None:
        save_bundle(keep, trainer.model, reader.catalogue, {})
    ranker = TorchRanker("way", trainer.model, reader.catalogue)
    return measured(home, [ranker], reader, BUDGET)["way"], epochs, seconds


def chain(later: Home, links: int, seeds: list[int], keep: Path) -> str:
    """A table of trainings, each from the towers of the one before; the first one from nothing.

    Means over the seeds, each of which has a chain of its own.
    """
    lines: list[list[str]] = []
    first = np.zeros(0)
    for link in range(links + 1):
        found = [_link(later, link, seed, keep / str(seed)) for seed in seeds]
        ranks = np.mean([f["mrr"] for f in found], 0)
        first = first if link else ranks
        test = paired_test(ranks, first)
        low, high = test.ci
        gained = f"{test.mean_difference:+.4f} ({low:+.4f} to {high:+.4f})" if link else ""
        ran, took = (f"{np.mean([f[name] for f in found]):.{d}f}" for name, d in SPENT)
        lines.append([str(link), f"{mean(ranks):.4f}", gained, ran, took])
        print(*lines[-1], flush=True)
    head = ["versions before it", "mrr", "minus the first (95%)", "epochs run", "CPU s of training"]
    return markdown(head, lines)


SPENT = ("epochs", 1), ("seconds", 0)


def _link(later: Home, link: int, seed: int, keep: Path) -> dict[str, NDArray[Any]]:
    """Metrics by request and what a training took; it is done once."""
    done = keep / f"{link}.npz"
    if not done.exists():
        bundle = load_bundle(keep / str(link - 1)) if link else None
        own = keep / str(link)
        own.mkdir(parents=True, exist_ok=True)
        found, ran, took = run(later, Way(link > 0, LONG), seed, bundle, own)
        with written(done) as file:
            np.savez(file, mrr=found["mrr"], epochs=ran, seconds=took)
    return dict(np.load(done))


def main() -> None:
    """Print a line for each way: means over seeds, and the difference to the first way."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--before", help="home of the log of some days before")
    ask.add_argument("--home", required=True)
    ask.add_argument("--seeds", type=int, default=1)
    ask.add_argument("--chain", type=int, help="trainings in a row, in place of the ways")
    ask.add_argument("--keep", type=Path, help="folder of what a chain has trained")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    torch.set_num_threads(1)
    later = Home.at(Path(args.home).resolve())
    if args.chain:
        seeds = [TrainConfig.seed + s for s in range(args.seeds)]
        with TemporaryDirectory() as folder:
            keep = args.keep or Path(folder)
            show(chain(later, args.chain, seeds, keep) + "\n", args.out)
        return
    if args.before is None:
        ask.error("--before is needed, but for a --chain")
    earlier = Home.at(Path(args.before).resolve())
    values: dict[Way, list[NDArray[np.float64]]] = {way: [] for way in WAYS}
    epochs: dict[Way, list[float]] = {way: [] for way in WAYS}
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    for seed in range(7, 7 + args.seeds):
        with TemporaryDirectory() as folder:
            bundle = before(earlier, seed, Path(folder))
        for way in WAYS:
            own, ran, took = run(later, way, seed, bundle)
            values[way].append(own["mrr"])
            epochs[way].append(ran)
            seconds[way].append(took)
            print(seed, way, f"mrr {mean(own['mrr']):.4f}, {ran} epochs, {took:.0f} s", flush=True)
    lines = []
    for way in WAYS:
        test = paired_test(np.mean(values[way], 0), np.mean(values[WAYS[0]], 0))
        low, high = test.ci
        gained = f"{test.mean_difference:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(
            [
                str(way),
                f"{np.mean([mean(v) for v in values[way]]):.4f}",
                gained if way != WAYS[0] else "",
                f"{np.mean(epochs[way]):.1f}",
                f"{np.mean(seconds[way]):.0f}",
            ]
        )
    head = ["way", "mrr", f"minus {WAYS[0]} (95%)", "epochs run", "CPU s of training"]
    show(f"{later.root.name} after {earlier.root.name}\n\n{markdown(head, lines)}\n", args.out)


if __name__ == "__main__":
    main()
