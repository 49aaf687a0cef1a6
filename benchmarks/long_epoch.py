"""Where an epoch of a long log goes: 130,000 requests with one engaged item each, no impressions.

    python benchmarks/long_epoch.py --log LOG       # writes LOG/events.parquet, LOG/items.parquet
    prerank ingest --events LOG/events.parquet --items LOG/items.parquet --workdir HOME
    prerank features --workdir HOME; prerank training-set --workdir HOME
    OMP_NUM_THREADS=1 python benchmarks/long_epoch.py --home HOME [--steps 20]

Seconds are processor time, which other work on the machine disturbs less than it does the clock.
Steps and batches are measured on the first of an epoch, and said for all of it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from printed import markdown

from interactrank.model.config import ModelConfig
from interactrank.training.stacking import (
    auxiliary_requests,
    cross_fitted,
    fitted_on,
    hold_out,
    refit,
)
from interactrank.training.trainer import TrainConfig, Trainer
from prerank.core.home import Home
from prerank.training.fit import total_steps
from prerank.training.reader import Reader, new_model

REQUESTS, ITEMS, USERS, WORDS, TITLE, DAYS, SEED = 130_000, 5_000, 20_000, 3_000, 7, 60, 11
WARM_UP = 3


def write_log(folder: Path) -> None:
    """Queries are one to three words of the title of the item that is then clicked."""
    rng = np.random.default_rng(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    letters = ("bdfgklmnprst", "aeiou") * 2
    words = np.array(["".join(word) for word in itertools.product(*letters)][:WORDS])
    common = 1 / np.arange(1, WORDS + 1) ** 0.7
    titles = words[rng.choice(WORDS, (ITEMS, TITLE), p=common / common.sum())]
    popular = 1 / (np.arange(ITEMS) + 5) ** 0.8
    item = rng.choice(ITEMS, REQUESTS, p=popular / popular.sum())
    asked = zip(item, rng.integers(1, 4, REQUESTS), strict=True)
    users = np.minimum(rng.pareto(1.2, REQUESTS) * 200, USERS - 1).astype(np.int64)
    seconds = np.sort(rng.random(REQUESTS)) * DAYS * 86_400
    times = pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s").as_unit("us")
    events = {
        "request_id": [f"r{i}" for i in range(REQUESTS)],
        "request_time": times,
        "event_time": times + pd.Timedelta("20s"),
        "user_id": [f"u{u}" for u in users],
        "query": [" ".join(titles[i][rng.permutation(TITLE)[:n]]) for i, n in asked],
        "item_id": item,
        "action": "click",
    }
    pd.DataFrame(events).to_parquet(folder / "events.parquet")
    items = {
        "item_id": np.arange(ITEMS),
        "title": [" ".join(title) for title in titles],
        "category": [f"c{i % 40}" for i in range(ITEMS)],
    }
    pd.DataFrame(items).to_parquet(folder / "items.parquet")


def measured(home: Home, steps: int) -> dict[str, float]:
    """Processor seconds of each part of an epoch whose model is then kept."""
    torch.set_num_threads(1)
    config, reader, found = TrainConfig(epochs=1), Reader(home), dict[str, float]()
    model, whole = new_model(reader, ModelConfig(), config), total_steps(home, config)
    trainer, since = Trainer(model, config, whole), time.process_time()

    def lap(part: str, times: float = 1.0) -> None:
        nonlocal since
        found[part] = times * (time.process_time() - since)
        since = time.process_time()

    batches = list(itertools.islice(reader.epochs(config)(0), steps + WARM_UP))
    lap("batches", whole / len(batches))
    model.train()
    for batch in batches[:WARM_UP]:
        trainer.step(batch)
    since = time.process_time()
    for batch in batches[WARM_UP:]:
        trainer.step(batch)
    lap(f"{whole} steps", whole / (len(batches) - WARM_UP))
    auxiliary = auxiliary_requests(reader.auxiliary(config), trainer.device)
    validation = reader.held_out(config)
    since = time.process_time()
    held = hold_out(model, validation)
    lap("towers of held-out requests")
    cross_fitted(model.fusion, held, config.loss, True, auxiliary)
    lap("fits that choose the epoch")
    refit(model.fusion, fitted_on(held, auxiliary), config.loss)
    lap("fit of the fusion that is kept")
    return found


def main() -> None:
    """Write the log, or measure a home and print a Markdown table."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = ask.add_mutually_exclusive_group(required=True)
    what.add_argument("--log", type=Path, help="folder to write the log to")
    what.add_argument("--home", type=Path, help="home with a training set")
    ask.add_argument("--steps", type=int, default=20)
    args = ask.parse_args()
    if args.log:
        write_log(args.log)
        return
    found = measured(Home.at(args.home.resolve()), args.steps)
    found["all of it"] = sum(found.values())
    print(markdown(["part", "s"], [[part, f"{s:.1f}"] for part, s in found.items()]))


if __name__ == "__main__":
    main()
