"""What settling does to a model that is calibrated: ranking and calibration before and after.

    python benchmarks/settling.py --home HOME [--seeds 2] [--out TABLE.md]

HOME is an absolute path that `prerank run` or `prerank demo` has filled from a log with
impressions. InteractRank and the two-tower are trained on the training split, stacked and
calibrated on the first half of the validation requests, and measured on the second half; then they
settle on that first half and are measured again. The test split takes no part.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from printed import markdown, show

from interactrank.metrics.calibration import calibration_error, histogram
from interactrank.metrics.ranking import mean, request_metrics
from interactrank.model.interactrank import InteractRank
from prerank.config import JobConfig
from prerank.core.home import Home
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.baselines.suite import MODELS
from prerank.evaluation.trials import Budget, Trial, TrialReader, chunks, fitted, measured_requests

EVERY = 1 << 40
COLUMNS = ("MRR", "predicted", "observed", "ECE")


def measured(home: Home, model: InteractRank, reader: TrialReader) -> list[float]:
    """MRR; mean predicted and observed engagement of the first head, and its ECE."""
    ranker, histograms, mrr = TorchRanker("measured", model, reader.catalogue), [], []
    for arrays, queries, _, unreachable in chunks(
        home, measured_requests(home, "validation", EVERY)
    ):
        engaged = arrays.labels & 1 > 0
        chances = ranker.probabilities(arrays, queries)[:, 0]
        histograms.append(histogram(chances, engaged))
        mrr.append(request_metrics(chances, engaged, arrays.offsets, unreachable)["mrr"])
    tallied = np.sum(histograms, axis=0)
    count, predicted, observed = tallied.sum(0)
    return [
        mean(np.concatenate(mrr)),
        predicted / count,
        observed / count,
        calibration_error(tallied),
    ]


def main() -> None:
    """Print a row for each model, seed, and before or after."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--home", required=True)
    ask.add_argument("--config", type=Path, help="job YAML")
    ask.add_argument("--seeds", type=int, default=2)
    ask.add_argument("--epochs", type=int, default=Budget.epochs)
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    torch.set_num_threads(1)
    home, job = Home.at(Path(args.home).resolve()), JobConfig.load(args.config)
    budget = Budget(train_requests=EVERY, validation_requests=EVERY, epochs=args.epochs)
    found: dict[str, list[list[float]]] = defaultdict(list)
    for seed in range(job.train.seed, job.train.seed + args.seeds):
        for name in ("interactrank", "two_tower"):
            config, train = MODELS[name].configs(job.model, replace(job.train, seed=seed))
            trial = Trial(name, config, replace(train, settle_passes=0))
            trainer, reader, _ = fitted(home, trial, budget)
            found[f"{name}, not settled"].append(measured(home, trainer.model, reader))
            trainer.settle(*reader.settling(train))
            found[f"{name}, settled"].append(measured(home, trainer.model, reader))
    rows = [
        [row, *(", ".join(f"{v:.3f}" for v in column) for column in zip(*seeds, strict=True))]
        for row, seeds in found.items()
    ]
    table = markdown(["by seed", *COLUMNS], rows)
    text = f"Second half of validation; at most {args.epochs} epochs\n\n{table}\n"
    show(text, args.out)


if __name__ == "__main__":
    main()
