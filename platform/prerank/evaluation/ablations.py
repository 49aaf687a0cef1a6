"""What each part of the model is worth: leave it out, train anew, measure the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from interactrank.features.schema import FeatureSchema
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.errors import ConfigError
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.evaluation.budget import Budget
from prerank.evaluation.results import FULL
from prerank.evaluation.trials import METRICS, Trial, run_trials
from prerank.registry import tracking

FILE = "ablations.json"
COMPARED = ("recall@cut", "mrr")
"""Metrics whose difference to the full model is shown."""
FAMILIES: dict[str, tuple[str, ...]] = {
    "exact query": ("q:",),
    "segments": ("s:",),
    "compact query": ("c:",),
    "tokens": ("t:",),
    "sub-words": ("g:", "sparse:g:"),
    "popularity": ("a:", "item:log_popularity"),
    "user x item": ("user:", "sparse:user:"),
    "sparse query": ("sparse:",),
    "item age": ("item:log_age_days", "item:age_unknown"),
    "fresh items": ("fresh:",),
    "item graph": ("graph:",),
    "item vectors": ("cosine:",),
    "retriever": ("retriever:",),
    "list position": ("anchor:",),
    "candidate features": ("candidate:",),
}
"""Family of cross features -> what its columns begin with; "exposure" is of several levels."""

Model = Callable[[ModelConfig], ModelConfig]


@dataclass(frozen=True)
class Variant:
    """One named change. ``parts`` says what was changed, in a few words."""

    name: str
    parts: str
    model: Model = field(default=lambda model: model)
    train: Callable[[TrainConfig], TrainConfig] = field(default=lambda train: train)
    masked: tuple[str, ...] = ()


def _model(**changes: Any) -> Model:
    return lambda model: replace(model, **changes)


def _loss(**changes: Any) -> Callable[[TrainConfig], TrainConfig]:
    return lambda train: replace(train, loss=replace(train.loss, **changes))


def _plain(model: ModelConfig) -> ModelConfig:
    """MLP layers as wide as the mask blocks that they replace."""
    if not model.mask_blocks:
        return model
    return replace(
        model, mask_blocks=0, hidden=(model.mask_blocks * model.mask_width, *model.hidden)
    )


def families(schema: FeatureSchema) -> dict[str, tuple[str, ...]]:
    """Family -> its columns, where the schema has some; columns of no family are "other"."""
    shown = schema.exposure_cross
    found = {
        f: tuple(c for c in schema.cross if c.startswith(starts) and c not in shown)
        for f, starts in FAMILIES.items()
    }
    found["exposure"] = shown
    known = {c for columns in found.values() for c in columns}
    found["other"] = tuple(c for c in schema.cross if c not in known)
    return {family: columns for family, columns in found.items() if columns}


def variants(schema: FeatureSchema) -> list[Variant]:
    """Every variant, the full model first."""
    return [
        Variant(FULL, "nothing left out"),
        Variant("no history", "user sequence", _model(history=False)),
        Variant("no pooling", "learned pooling of the user sequence", _model(pooling=False)),
        Variant("no attention", "query attention over the user sequence", _model(attention=False)),
        Variant("no time", "time embedding of the user sequence", _model(time_encoding=False)),
        Variant("no masknet", "mask blocks: plain MLP layers as wide", _plain),
        Variant("no softmax loss", "in-batch sampled softmax", train=_loss(softmax=0.0)),
        Variant(
            "no listwise loss", "softmax over a request's candidates", train=_loss(listwise=0.0)
        ),
        Variant(
            "no log Q",
            "corrections for sampled candidates and in-batch negatives",
            train=_loss(log_q_power=0.0, softmax_log_q=False),
        ),
        Variant(
            "no stacking",
            "refit of the fusion on held-out requests",
            train=lambda train: replace(train, stacking=False),
        ),
        Variant("no top items", "the query's top items", _model(top_items=False)),
        Variant(
            "fixed fusion weights", "dependence of the fusion on the request", _model(gated=False)
        ),
        Variant(
            "no cross features", f"all {len(schema.cross)} cross features", masked=schema.cross
        ),
        *(
            Variant(f"no {family}", f"cross features: {', '.join(columns)}", masked=columns)
            for family, columns in families(schema).items()
        ),
        Variant("linear g", "hidden units of g(x)", _model(fusion_hidden=0)),
    ]


def trials_of(
    model: ModelConfig, train: TrainConfig, schema: FeatureSchema, seeds: int
) -> dict[str, list[Trial]]:
    """Trials of each variant, one per seed."""
    return {
        v.name: [
            Trial(v.name, v.model(model), replace(v.train(train), seed=train.seed + s), v.masked)
            for s in range(seeds)
        ]
        for v in variants(schema)
    }


def ablate(
    home: Home,
    model: ModelConfig,
    train: TrainConfig,
    seeds: int,
    budget: Budget,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Train and measure every variant with ``seeds`` seeds; what is done already is kept.

    ``only`` names the variants to measure beside the full model; all of them if it is empty.

    Writes ``ablations.json`` under ``home`` and logs an MLflow run.

    Returns:
        ``dataset``, ``split``, ``about`` (the budget in words) and ``ablations``: variant ->
        ``parts`` and ``metrics``, a list with one value per seed for each metric.

    Raises:
        ConfigError: ``only`` names none of the variants.
    """
    manifest = LogManifest.load(home)
    known = {v.name: v for v in variants(manifest.schema)}
    if unknown := [name for name in only if name not in known]:
        raise ConfigError(f"--only {unknown[0]!r}: the variants are {', '.join(known)}")
    asked = trials_of(model, train, manifest.schema, seeds)
    asked = {name: own for name, own in asked.items() if not only or name in (FULL, *only)}
    flat = [trial for own in asked.values() for trial in own]
    done = run_trials(home, home.root / "ablations" / budget.split, flat, budget)
    by_name: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    for trial, result in zip(flat, done, strict=True):
        by_name[trial.name].append(result["metrics"])
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    results = {
        "dataset": manifest.dataset,
        "split": budget.split,
        "about": _about(training, train, seeds, budget),
        "ablations": {
            name: {
                "parts": known[name].parts,
                "metrics": {m: [row[m] for row in by_name[name]] for m in METRICS},
            }
            for name in asked
        },
    }
    write_json(home.root / FILE, results)
    _log(home, results, seeds)
    return results


def _about(training: Mapping[str, Any], train: TrainConfig, seeds: int, budget: Budget) -> str:
    where = (
        "the later half of the validation requests"
        if budget.split == "validation"
        else "the test requests"
    )
    return (
        f"{min(training['train_requests'], budget.train_requests):,} of "
        f"{training['train_requests']:,} training requests, at most "
        f"{min(train.epochs, budget.epochs)} epochs, {seeds} seeds; measured on {where}, "
        f"at most {budget.measured_candidates:,} candidates"
    )


def _log(home: Home, results: dict[str, Any], seeds: int) -> None:
    import mlflow

    params = {"dataset": results["dataset"], "split": results["split"], "seeds": seeds}
    with tracking.job_run(home, "ablate", params, {"about": results["about"]}):
        means = {
            name: {m: float(np.mean(v)) for m, v in own["metrics"].items()}
            for name, own in results["ablations"].items()
        }
        tracking.log_results(means, [home.root / FILE])
        mlflow.log_text(table(results), "ablations.txt")


def load_results(home: Home) -> dict[str, Any]:
    """What the last ``ablate`` returned; empty if there was none."""
    path = home.root / FILE
    return home.read_json(path, "prerank ablate") if path.exists() else {}


def table(results: dict[str, Any]) -> str:
    """Variants × metrics: means over seeds, and differences to the full model.

    ± is the standard deviation, over seeds, of the difference to the full model of the same seed.
    """
    own = results["ablations"]
    # What was measured by an earlier release may lack some.
    shown = [m for m in METRICS if m in own[FULL]["metrics"]]
    compared = [m for m in COMPARED if m in shown]
    lines = [
        f"{results['dataset']}: {results['about']}",
        f"{'':<20}"
        + "".join(f"{m:>12}" for m in shown)
        + "".join(f"   {m + ' - full':<19}" for m in compared).rstrip(),
    ]
    for name, variant in own.items():
        means = "".join(f"{np.mean(variant['metrics'][m]):>12.4f}" for m in shown)
        changes = [_change(variant["metrics"][m], own[FULL]["metrics"][m]) for m in compared]
        told = "" if name == FULL else "".join(f"   {change:<19}" for change in changes)
        lines.append(f"{name:<20}{means}{told}".rstrip())
    return "\n".join(lines)


def _change(values: Sequence[float], full: Sequence[float]) -> str:
    difference = np.array(values) - np.array(full)
    spread = f" ± {difference.std(ddof=1):.4f}" if len(difference) > 1 else ""
    return f"{difference.mean():+.4f}{spread}"
