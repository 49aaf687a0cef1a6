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
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from interactrank.batch import Batch, RequestArrays, collate
from interactrank.catalogue import Catalogue
from interactrank.losses import total_loss
from interactrank.model import InteractRank, ModelConfig, Output
from interactrank.performing import PERFORMING_LENGTH
from interactrank.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.trainer import TrainConfig, Trainer

SCHEMA = FeatureSchema(
    ("click", "impression", "long_click", "save"),
    ("impression",),
    ("engagement", "save", "long_click"),
    ("price",),
)
WORDS = [f"w{i}" for i in range(5000)]


def catalogue(items: int, rng: np.random.Generator) -> Catalogue:
    """Items with titles of eight words."""
    titles = [" ".join(rng.choice(WORDS, 8)) for _ in range(items)]
    return Catalogue.build(
        np.arange(items),
        titles,
        [f"c{i % 50}" for i in range(items)],
        rng.random((items, 1), np.float32),
        np.zeros(items, np.int64),
    )


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
        performing=rng.integers(0, items, n * PERFORMING_LENGTH),
        performing_counts=np.ones(n * PERFORMING_LENGTH, np.float32),
        performing_offsets=np.arange(n + 1) * PERFORMING_LENGTH,
        request=rng.random((n, len(REQUEST_NUMERIC)), np.float32),
        candidates=chosen.ravel(),
        offsets=np.arange(n + 1) * per,
        x=rng.random((n * per, len(SCHEMA.cross)), np.float32),
        labels=labels.ravel(),
        weights=np.ones(n * per, np.float32),
        log_q=np.zeros(n * per, np.float32),
    )


def row_wise(batch: Batch) -> Batch:
    """The same examples with every request repeated for each of its candidates."""
    of = batch.candidate_request
    bounds = torch.cat((batch.text_offsets, torch.tensor([len(batch.text)])))
    width = int(bounds[1] - bounds[0])
    text = batch.text.view(-1, width)[of]
    items = {k: v for k, v in batch.items.items() if k not in ("text", "offsets")}
    pick = batch.candidate_item
    ends = torch.cat((batch.items["offsets"], torch.tensor([len(batch.items["text"])])))
    parts = [batch.items["text"][ends[i] : ends[i + 1]] for i in pick.tolist()]
    sizes = torch.tensor([len(p) for p in parts])
    rows = {k: v[pick] for k, v in items.items()}
    rows |= {"text": torch.cat(parts), "offsets": torch.cumsum(sizes, 0) - sizes}
    n = len(of)
    return batch.replace(
        text=text.reshape(-1),
        text_offsets=torch.arange(n) * width,
        hist_items=batch.hist_items[of],
        hist_actions=batch.hist_actions[of],
        hist_hours=batch.hist_hours[of],
        hist_mask=batch.hist_mask[of],
        request=batch.request[of],
        candidate_request=torch.arange(n),
        candidate_item=torch.arange(n),
        items=rows,  # type: ignore[arg-type]
    )


def timed(step: Callable[[], Any], steps: int, device: str) -> list[float]:
    """Seconds of each of ``steps`` runs, after three that are not counted."""
    out = []
    for i in range(steps + 3):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if i >= 3:
            out.append(time.perf_counter() - began)
    return out


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
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / spread(timed(lambda: a @ b, 20, device))[0]


def parts(trainer: Trainer, batch: Batch, steps: int, device: str) -> dict[str, float]:
    """Median seconds of each part of a step (forward parts alone, then the rest)."""
    model = trainer.model
    log_q = torch.zeros(len(batch.items["rows"]), device=device)

    def forward() -> Output:
        with trainer.autocast():
            return model(batch)  # type: ignore[no-any-return]

    out = forward()
    full = Output(out.logits.float(), out.queries.float(), out.items.float())

    def auto(f: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> None:
            with trainer.autocast(), torch.no_grad():
                f()

        return call

    dots = torch.zeros(len(batch.x), len(model.schema.heads), device=device)
    median = lambda f: spread(timed(f, steps, device))[0]  # noqa: E731
    return {
        "query tower": median(auto(lambda: model.encode_queries(batch))),
        "item tower": median(auto(lambda: model.encode_items(batch.items))),
        "fusion": median(
            auto(lambda: model.fusion.logits(dots, batch.x, batch.request, batch.candidate_request))
        ),
        "loss": median(auto(lambda: total_loss(model, full, batch, log_q, trainer.config.loss))),
        "whole step": median(lambda: trainer.step(batch)),
    }


def variants(device: str) -> dict[str, dict[str, bool]]:
    """What is measured."""
    out = {
        "row-wise fp32": {"rows": True, "bf16": False, "compiled": False},
        "grouped fp32": {"rows": False, "bf16": False, "compiled": False},
        "grouped bf16": {"rows": False, "bf16": True, "compiled": False},
    }
    if device == "cuda":
        out["row-wise bf16"] = {"rows": True, "bf16": True, "compiled": False}
        out["grouped bf16 compiled"] = {"rows": False, "bf16": True, "compiled": True}
    return out


def main() -> None:
    """Measure and print one table, then one JSON line."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ask.add_argument("--size", choices=("default", "paper"), default="default")
    ask.add_argument("--requests", type=int, default=256)
    ask.add_argument("--candidates", type=int, default=64)
    ask.add_argument("--items", type=int, default=20_000)
    ask.add_argument("--steps", type=int, default=10)
    args = ask.parse_args()
    rng = np.random.default_rng(7)
    config = ModelConfig.paper() if args.size == "paper" else ModelConfig()
    items = catalogue(args.items, rng)
    arrays = requests(args.requests, args.candidates, args.items, rng)
    grouped = collate(arrays, items, items.table(), len(SCHEMA.heads))
    batches = {False: grouped.to(args.device), True: row_wise(grouped).to(args.device)}
    examples = args.requests * args.candidates
    top = ceiling(args.device)
    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "CPU"
    print(
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads; {args.size} sizes, "
        f"{args.requests} requests x {args.candidates} candidates; "
        f"bf16 matrix ceiling {top / 1e12:.1f} TFLOP/s\n"
    )
    results: dict[str, Any] = {}
    print(
        f"{'variant':24} {'ms/step':>9} {'p10':>8} {'p90':>8} {'examples/s':>11} {'ratio':>6} "
        f"{'TFLOP/s':>8} {'of ceiling':>10}"
    )
    for label, v in variants(args.device).items():
        torch.manual_seed(7)
        train = replace(TrainConfig(), bf16=v["bf16"], warmup_steps=1)
        model = InteractRank(config, SCHEMA, items)
        compiled = torch.compile if v["compiled"] else None
        trainer = Trainer(model, train, 1000, args.device, wrap=compiled)  # type: ignore[arg-type]
        batch = batches[v["rows"]]
        flops = 3 * matmul_flops(model, lambda b=batch, m=model: m(b))  # type: ignore[misc]
        mid, low, high = spread(
            timed(lambda b=batch, t=trainer: t.step(b), args.steps, args.device)
        )  # type: ignore[misc]
        base = results.get("row-wise fp32", {}).get("seconds", mid)
        results[label] = {
            "seconds": mid,
            "p10": low,
            "p90": high,
            "examples_per_s": examples / mid,
            "ratio": base / mid,
            "flops": flops,
            "of_ceiling": flops / mid / top,
        }
        print(
            f"{label:24} {1e3 * mid:9.2f} {1e3 * low:8.2f} {1e3 * high:8.2f} "
            f"{examples / mid:11,.0f} "
            f"{base / mid:6.2f} {flops / mid / 1e12:8.2f} {flops / mid / top:10.1%}",
            flush=True,
        )
        if label == "grouped bf16" or (args.device == "cpu" and label == "grouped fp32"):
            results[f"parts of {label}"] = parts(trainer, batch, args.steps, args.device)
    for label, split in results.items():
        if label.startswith("parts"):
            print(f"\n{label}: " + ", ".join(f"{k} {1e3 * s:.2f} ms" for k, s in split.items()))
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
