"""What a training-set task spends its time on, beside a large catalogue.

    python benchmarks/training_set_task.py [--items 50000] [--requests 6000] [--out FILE]

A simulated log is ingested with its catalogue and as many items more that nobody has searched for;
their titles are drawn from the words of the simulated ones. Then one Ray task's work runs in this
process, over all training and validation days: once to warm up, and then as often as --repeats
says, of which the fastest is reported. The last line is what a task would take longer if it built
the catalogue's arrays itself, instead of mapping what ingest has built.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from printed import markdown, show

from interactrank.features.catalogue import Catalogue
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import connect
from prerank.dataset import build
from prerank.dataset.requests import event_days
from prerank.dataset.splits import plan_splits
from prerank.features.build import build_features
from prerank.ingest.catalogue import catalogue_of
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest
from prerank.simulate import simulate

SEED = 7
PARTS: list[tuple[str, Any, list[str]]] = [
    ("catalogue: map the arrays", build, ["load_catalogue"]),
    ("catalogue: look-up table", Catalogue, ["table"]),
    ("read requests", build, ["requests_between"]),
    ("as-of join", build, ["offline_inputs"]),
    ("candidates", build, ["shown_candidates", "sampled_candidates"]),
    ("arrays and cross features", build, ["request_arrays"]),
    ("to Arrow", build, ["to_table"]),
    ("write Parquet", pq, ["write_table"]),
]
"""Name of a part -> where the task looks up the functions that do it."""


def enlarged(items: pa.Table, count: int) -> pa.Table:
    """The catalogue, and items of new ids up to ``count`` with titles of the same words."""
    rng = np.random.default_rng(SEED)
    titles = [title.split() for title in items["title"].to_pylist()]
    words = np.array([word for title in titles for word in title])
    more = max(count - len(items), 0)
    copied = items.take(pa.array(rng.integers(0, len(items), more)))
    lengths = rng.choice([len(title) for title in titles], more)
    new = [" ".join(rng.choice(words, n)) for n in lengths]
    first = int(np.max(items["item_id"].to_numpy())) + 1
    for name, values in (
        ("item_id", pa.array(np.arange(first, first + more), items["item_id"].type)),
        ("title", pa.array(new, pa.string())),
    ):
        copied = copied.set_column(copied.schema.get_field_index(name), name, values)
    return pa.concat_tables([items, copied.cast(items.schema)])


def prepared(root: Path, items: int, requests: int) -> Home:
    """A home with the log's events, catalogue and features."""
    simulate(root / "sim", requests=requests, seed=SEED, progress=False)
    path = root / "items.parquet"
    pq.write_table(enlarged(pq.read_table(root / "sim" / "items.parquet"), items), path)
    home = Home.at(root / "home")
    connect()
    ingest(root / "sim" / "events", path, home, LogMapping())
    build_features(home)
    return home


def seconds_of(task: build.BuildTask) -> dict[str, float]:
    """Seconds of each part of a task; "" is the whole."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                seconds[part] += time.perf_counter() - began

        return run

    with ExitStack() as stack:
        for part, owner, names in PARTS:
            for name in names:
                work = timed(part, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, work))
        timed("", build.build_task)(task)
    return seconds


def main() -> None:
    """Print a row for each part."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--items", type=int, default=50_000)
    ask.add_argument("--requests", type=int, default=6_000)
    ask.add_argument("--repeats", type=int, default=3)
    ask.add_argument("--out", type=Path)
    args = ask.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = prepared(Path(folder), args.items, args.requests)
        splits = plan_splits(home, LogManifest.load(home))
        files = [file for day in event_days(home, 0, splits.test_from) for file in day]
        out = Path(folder) / "out"
        for split in ("train", "validation"):
            (out / split).mkdir(parents=True)
        task = build.BuildTask(0, home, files, splits, out)
        runs = [seconds_of(task) for _ in range(1 + args.repeats)][1:]
        seconds = min(runs, key=lambda run: run[""])
        table = pq.read_table(home.items)
        began = time.perf_counter()
        catalogue_of(table, LogMapping())
        built = time.perf_counter() - began
        written = sum(pq.read_metadata(p).num_rows for p in out.glob("*/*.parquet"))
    whole = seconds.pop("")
    seconds["the rest"] = whole - sum(seconds.values())
    parts = [*(name for name, *_ in PARTS), "the rest"]
    rows = [(name, f"{1e3 * seconds[name]:.1f}", f"{seconds[name] / whole:.1%}") for name in parts]
    rows.append(("**all**", f"{1e3 * whole:.1f}", "100%"))
    before = built / (whole - seconds[parts[0]] + built)
    show(
        f"{written:,} requests, {len(table):,} items; the fastest of {args.repeats} runs\n\n"
        + markdown(("part of the task", "ms", "share"), rows)
        + f"\n\nBuilding the arrays takes {1e3 * built:.0f} ms: {before:.1%} of such a task.\n",
        args.out,
    )


if __name__ == "__main__":
    main()
