"""Training throughput: our request-grouped step against a plain row-wise loop, in one run.

    python benchmarks/training.py [--device cuda] [--size paper] [--requests 512] [--candidates 64]

Both train the same towers on the same synthetic requests. The row-wise loop is what a plain
PyTorch job does: one example is one (request, candidate) pair, so the query tower runs once a
candidate. Times are medians of steps after a warm-up, devices synchronised around each; the spread
is the 10th and 90th percentile. On CUDA the share of the card's own bf16 matrix rate is given,
measured in the same run. Needs interactrank alone (torch, numpy, numba, safetensors).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from interactrank.features.batch import Batch, RequestArrays, collate, item_inputs
from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.features.top_items import TOP_ITEMS_LENGTH
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank, Output
from interactrank.training.trainer import TrainConfig, Trainer

SCHEMA = FeatureSchema(
    ("click", "impression", "long_click", "save"),
    ("impression",),
    ("engagement", "save", "long_click"),
    ("price",),
)
SEED, WARM_UP = 7, 3
REQUEST_SIDE = (
    "query",
    "hist_items",
    "hist_actions",
    "hist_hours",
    "hist_mask",
    "top_items",
    "top_items_share",
    "request",
)
PARTS = ("query tower", "item tower", "fusion", "loss", "optimiser", "waiting", "the rest")
WORDS = [f"w{i}" for i in range(5000)]


def catalogue(items: int, rng: np.random.Generator) -> Catalogue:
    """Items with titles of eight words."""
    titles = [" ".join(rng.choice(WORDS, 8)) for _ in range(items)]
    numbers = rng.random((items, 1), np.float32)
    kinds = [f"c{i % 50}" for i in range(items)]
    return Catalogue.build(np.arange(items), titles, kinds, numbers, np.zeros(items, np.int64))


def requests(n: int, per: int, items: int, rng: np.random.Generator) -> RequestArrays:
    """``n`` requests of four words, 50 past events and ``per`` candidates, two of them engaged."""
    history, text = 50, rng.integers(1, 1 << 15, (n, 30)).astype(np.int32)
    labels = np.zeros((n, per), np.int64)
    labels[:, :2] = 1
    chosen = np.stack([rng.choice(items, per, replace=False) for _ in range(n)])
    return RequestArrays(
        time=np.full(n, 10**15),
        text=text.ravel(),
        text_offsets=np.arange(n + 1) * 30,
        hist_items=rng.integers(0, items, n * history),
        hist_actions=np.zeros(n * history, np.int64),
        hist_times=np.full(n * history, 10**15 - 10**10),
        hist_offsets=np.arange(n + 1) * history,
        top_items=rng.integers(0, items, n * TOP_ITEMS_LENGTH),
        top_items_counts=np.ones(n * TOP_ITEMS_LENGTH, np.float32),
        top_items_offsets=np.arange(n + 1) * TOP_ITEMS_LENGTH,
        request=rng.random((n, len(REQUEST_NUMERIC)), np.float32),
        candidates=chosen.ravel(),
        offsets=np.arange(n + 1) * per,
        x=rng.random((n * per, len(SCHEMA.cross)), np.float32),
        labels=labels.ravel(),
        weights=np.ones(n * per, np.float32),
        log_q=np.zeros(n * per, np.float32),
    )


def row_wise(batch: Batch, items: Catalogue) -> Batch:
    """The same examples with every request, and every item, repeated for each of its candidates."""
    of, n = batch.candidate_request, len(batch.candidate_request)
    width, known = len(batch.text) // len(batch.query), np.ones(n, bool)
    rows = batch.items["rows"][batch.candidate_item].numpy()
    return batch.replace(
        **{name: getattr(batch, name)[of] for name in REQUEST_SIDE},
        text=batch.text.view(-1, width)[of].reshape(-1),
        text_offsets=torch.arange(n) * width,
        candidate_request=torch.arange(n),
        candidate_item=torch.arange(n),
        items=item_inputs(items, rows, known, known, known),
    )


def clock(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(step: Callable[[], Any], steps: int, device: str) -> list[float]:
    """Seconds of each of ``steps`` runs, after a few that are not counted."""
    out = []
    for _ in range(steps + WARM_UP):
        began = clock(device)
        step()
        out.append(clock(device) - began)
    return out[WARM_UP:]


def spread(seconds: list[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile."""
    low, mid, high = np.percentile(seconds, (10, 50, 90))
    return float(mid), float(low), float(high)


def matmul_flops(model: nn.Module, run: Callable[[], Any]) -> int:
    """Multiply-adds x 2 of every Linear in one forward pass."""
    total = 0

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Linear)
        total += 2 * out.numel() * layer.in_features

    hooks = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Linear)]
    run()
    for h in hooks:
        h.remove()
    return total


def ceiling(device: str) -> float:
    """The device's bf16 matrix rate on random data, FLOP/s."""
    # Without bf16 instructions a processor takes seconds for a large product.
    n = 8192 if device == "cuda" else 256
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / spread(timed(lambda: a @ b, 20, device))[0]


class Timed(Trainer):
    """A trainer whose steps say how long each part took, backward pass included.

    The backward pass goes through the parts in the reverse order of the forward pass, so the
    moment at which the gradient of a part's output is there parts it from the next.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: dict[str, float] = {}
        self.since, self.forward = 0.0, self.marked
        towers = (self.model.query_tower, "query tower"), (self.model.item_tower, "item tower")
        for tower, part in towers:
            tower.register_forward_hook(lambda *_, part=part: self.lap(part))

    def lap(self, part: str) -> None:
        """The time since the last lap was ``part``'s."""
        now = clock(self.device.type)
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.since
        self.since = now

    def marked(self, batch: Batch) -> Output:
        """The forward pass, with the backward pass marked where it enters a part."""
        self.lap("the rest")
        with self.autocast():
            out: Output = self.model(batch)
        self.lap("fusion")
        out.logits.register_hook(lambda _: self.lap("loss"))
        out.items.register_hook(lambda _: self.lap("fusion"))
        out.queries.register_hook(lambda _: self.lap("item tower"))
        return out

    def loss(self, batch: Batch) -> torch.Tensor:
        """The total loss."""
        loss = super().loss(batch)
        self.lap("loss")
        return loss

    def update(self) -> None:
        """Apply the gradients."""
        self.lap("query tower")
        super().update()
        self.lap("optimiser")


@dataclass(frozen=True)
class Variant:
    """A way to train: an example a row, or grouped by request; in bf16; compiled."""

    rows: bool = False
    bf16: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        form, kind = "row-wise" if self.rows else "grouped", "bf16" if self.bf16 else "fp32"
        return f"{form} {kind}" + " compiled" * self.compiled


VARIANTS = (
    Variant(rows=True),
    Variant(),
    Variant(compiled=True),
    Variant(rows=True, bf16=True),
    Variant(bf16=True),
    Variant(bf16=True, compiled=True),
)


class Bench:
    """The synthetic log, and what is measured on it."""

    def __init__(self, args: argparse.Namespace) -> None:
        rng = np.random.default_rng(SEED)
        self.device, self.steps = args.device, args.steps
        self.examples = args.requests * args.candidates
        self.config = ModelConfig.paper() if args.size == "paper" else ModelConfig()
        self.items = catalogue(args.items, rng)
        self.arrays = requests(args.requests, args.candidates, args.items, rng)
        grouped = collate(self.arrays, self.items, self.items.table(), len(SCHEMA.heads))
        self.batches = {False: grouped.to(self.device)}
        if any(name.startswith("row-wise") for name in args.only):
            self.batches[True] = row_wise(grouped, self.items).to(self.device)

    def trainer(self, v: Variant, kind: type[Trainer] = Trainer) -> Trainer:
        """A fresh trainer of a variant, from the same weights."""
        torch.manual_seed(SEED)
        train = replace(TrainConfig(), bf16=v.bf16, warmup_steps=1)
        model = InteractRank(self.config, SCHEMA, self.items)
        wrap: Any = torch.compile if v.compiled else None
        return kind(model, train, 1000, self.device, wrap=wrap)

    def measure(self, v: Variant, base: float | None, top: float) -> dict[str, float]:
        """Throughput of a variant beside ``base`` seconds per step and ``top`` FLOP/s."""
        trainer, batch = self.trainer(v), self.batches[v.rows]
        flops = 3 * matmul_flops(trainer.model, lambda: trainer.model(batch))
        mid, low, high = spread(timed(lambda: trainer.step(batch), self.steps, self.device))
        return {
            "seconds": mid,
            "p10": low,
            "p90": high,
            "examples_per_s": self.examples / mid,
            "ratio": (base or mid) / mid,
            "flops": flops,
            "of_ceiling": flops / mid / top,
        }

    def parts(self, v: Variant) -> dict[str, float]:
        """Median seconds of each part of a step that puts its own batch together before it.

        "waiting" is that, and the copy to the device: what a step would wait for if nothing were
        made ahead of it. A job makes batches ahead, and reports what is left of it.
        """
        trainer = self.trainer(v, Timed)
        assert isinstance(trainer, Timed)
        table, found = self.items.table(), []
        for _ in range(self.steps + WARM_UP):
            trainer.seconds, trainer.since = {}, clock(self.device)
            batch = collate(self.arrays, self.items, table, len(SCHEMA.heads)).to(self.device)
            trainer.lap("waiting")
            trainer.step(batch)
            trainer.lap("the rest")
            found.append(trainer.seconds)
        return {part: spread([own[part] for own in found[WARM_UP:]])[0] for part in PARTS}


def main() -> None:
    """Measure, print the tables as Markdown, then one JSON line."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ask.add_argument("--size", choices=("default", "paper"), default="default")
    ask.add_argument("--requests", type=int, default=256)
    ask.add_argument("--candidates", type=int, default=64)
    ask.add_argument("--items", type=int, default=20_000)
    ask.add_argument("--steps", type=int, default=20)
    ask.add_argument(
        "--only",
        nargs="+",
        choices=[str(v) for v in VARIANTS],
        metavar="VARIANT",
        default=[str(v) for v in VARIANTS],
        help="rows of the table",
    )
    args = ask.parse_args()
    bench, top = Bench(args), ceiling(args.device)
    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "CPU"
    print(
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads; {args.size} sizes, "
        f"{args.requests} requests x {args.candidates} candidates, {args.steps} steps; "
        f"bf16 matrix ceiling {top / 1e12:.2f} TFLOP/s\n\n"
        "| variant | ms/step | p10 | p90 | examples/s | ratio | of ceiling |\n" + "|---" * 7 + "|"
    )
    chosen = [v for v in VARIANTS if str(v) in args.only]
    found: dict[str, Any] = {}
    for v in chosen:
        base = found[str(chosen[0])]["seconds"] if found else None
        row = found[str(v)] = bench.measure(v, base, top)
        ms = " | ".join(f"{1e3 * row[k]:.1f}" for k in ("seconds", "p10", "p90"))
        print(
            f"| {v} | {ms} | {row['examples_per_s']:,.0f} | {row['ratio']:.2f} | "
            f"{row['of_ceiling']:.1%} |",
            flush=True,
        )
    print("\n| part, ms | " + " | ".join(PARTS) + " |\n" + "|---" * (len(PARTS) + 1) + "|")
    for v in chosen:
        if not v.rows and not v.compiled:
            split = found[f"parts of {v}"] = bench.parts(v)
            print(f"| {v} | " + " | ".join(f"{1e3 * s:.1f}" for s in split.values()) + " |")
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
