r"""Does a setting pay? Whole trainings, with it and without, on validation.

    python benchmarks/compare.py --home HOME --change train.loss.log_q_power=0.5 \
        --change "train.loss.softmax=0,train.weight_decay=0" [--seeds 3] [--out TABLE.md]

HOME is an absolute path that `prerank run` has filled. Every --change is a row beside the job as it
is configured; KEY=VALUE are keys of the job's YAML, several of them with commas. Each row is
trained on the same newest training requests with several seeds, and measured on the later half of
the validation requests with their whole candidates (``prerank.evaluation.budget``); the test
split takes no part. Trainings lie under HOME/compared: broken off and run again, it goes on.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from printed import markdown, show

from prerank.config import JobConfig
from prerank.core.home import Home
from prerank.core.ray_tasks import connect
from prerank.evaluation.baselines.suite import MODELS
from prerank.evaluation.budget import Budget
from prerank.evaluation.trials import METRICS, Trial, run_trials

CONFIGURED = "as configured"


def changed(config: dict[str, Any], change: str) -> JobConfig:
    """The job of the YAML ``config`` with ``change`` made."""
    data = copy.deepcopy(config)
    for assignment in change.split(",") if change != CONFIGURED else ():
        path, _, value = assignment.partition("=")
        *sections, key = path.strip().split(".")
        within = data
        for section in sections:
            within = within.setdefault(section, {})
        within[key] = yaml.safe_load(value)
    return JobConfig.of(data)


def trials(config: dict[str, Any], model: str, change: str, seeds: int) -> list[Trial]:
    """A trial a seed of one row."""
    job = changed(config, change)
    own, train = MODELS[model].configs(job.model, job.train)
    return [
        Trial(f"{model} {change}", own, replace(train, seed=job.train.seed + s))
        for s in range(seeds)
    ]


def table(name: str, found: dict[str, list[dict[str, float]]]) -> str:
    """Means over seeds, and the difference of MRR to the configured job of the same seed."""
    base = np.array([m["mrr"] for m in found[CONFIGURED]])
    lines = []
    for change, metrics in found.items():
        mrr = np.array([m["mrr"] for m in metrics])
        cells = [f"{np.mean([m[k] for m in metrics]):.4f}" for k in METRICS]
        off = mrr - base
        spread = f" ± {off.std(ddof=1):.4f}" if len(off) > 1 else ""
        cells += [
            " ".join(f"{v:.4f}" for v in mrr),
            "" if change == CONFIGURED else f"{off.mean():+.4f}{spread}",
        ]
        lines.append([change, *cells])
    return markdown([name, *METRICS, "mrr, by seed", "mrr - configured"], lines)


def main() -> None:
    """Run what is missing, print a table for each home."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--home", action="append", required=True, help="repeatable")
    ask.add_argument("--change", action="append", required=True, metavar="KEY=VALUE")
    ask.add_argument("--config", type=Path, help="job YAML that the changes are made to")
    ask.add_argument("--model", choices=list(MODELS), default="interactrank")
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--train-requests", type=int, default=Budget.train_requests)
    ask.add_argument("--candidates", type=int, default=Budget.measured_candidates)
    ask.add_argument("--epochs", type=int, default=Budget.epochs)
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    config = (yaml.safe_load(args.config.read_text()) if args.config else None) or {}
    budget = Budget(
        train_requests=args.train_requests, measured_candidates=args.candidates, epochs=args.epochs
    )
    asked = {
        change: trials(config, args.model, change, args.seeds)
        for change in (CONFIGURED, *args.change)
    }
    flat = [trial for own in asked.values() for trial in own]
    connect()
    text = f"{args.model}, {args.seeds} seeds; {budget}\n"
    for folder in args.home:
        home = Home.at(Path(folder).resolve())
        done = iter(run_trials(home, home.root / "compared", flat, budget))
        found = {change: [next(done)["metrics"] for _ in own] for change, own in asked.items()}
        text += f"\n{table(home.root.name, found)}\n"
    show(text, args.out)


if __name__ == "__main__":
    main()
