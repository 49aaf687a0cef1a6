"""What a report may show, and how one value of it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, TypeGuard

METRICS = ("hits@1", "hits@3", "hits@10", "mrr", "ndcg@10", "recall@cut", "auc")
"""Columns of every table, in this order."""

LEAD = "interactrank"
BASELINE = "two_tower"
WHOLE = "full"
"""The ablation's variant from which nothing was taken."""

FASTEST = 0.001
"""Microseconds a candidate below which a measured time says nothing."""


class DatasetFacts(TypedDict, total=False):
    """What was evaluated on. ``requests``: split -> count; ``time_span``: first and last request.

    ``candidates`` says in words where the candidates come from; ``reachable_share`` is the share of
    positives that are among them.
    """

    name: str
    requests: dict[str, int]
    users: int
    queries: int
    items: int
    time_span: tuple[str, str]
    positives: int
    candidates: str
    reachable_share: float


class Results(TypedDict, total=False):
    """Everything a report may show; only ``dataset`` (its name) and ``models`` are needed.

    Attributes:
        dataset: facts about the log.
        split: the split the metrics come from, e.g. "test".
        models: name -> ``{metric: mean, …, "ci": {metric: [low, high]}, "cost":
            {"flops_per_candidate", "bytes_per_candidate", "us_per_candidate"}}``.
        oracles: as ``models``; knows what no ranker may know.
        paired: name -> metric -> ``{"difference", "ci": [low, high], "p"}`` against the two-tower.
        versus: other ranker -> as ``paired``: interactrank minus that ranker.
        cut: ``{"reference": {"name", "top"} | None, "models": {name: {metric: mean, …, "ci"}}}``
            with metrics recall@cut, recall@100, recall@1000 and agreement, as far as measured.
        calibration: ``{"models": {name: {head: {"ece", "predicted", "observed", "impressions",
            "curve": [[count, predicted, observed], …]}}}}``, or ``{"absent": why}``.
        counterfactual: ``{"models": {name: {"dcg", "mrr", "ci"}}, "propensities": {"first_place",
            "value", "engagements", "strata"}, "requests", "effective_engagements"}``, or
            ``{"absent": why}``.
        ablations: variant -> ``{"metrics": {metric: [one value a seed]}, "parts": what was taken
            out}``; the variant "full" is what the others are compared with.
        slices: slice -> ``{"requests": count, name: {metric: mean}, …}``.
        reachable_ceiling: metric -> the best value any order of these candidates could reach.
        training: name -> ``[{"epoch", "train_loss", "validation_loss", "validation_mrr"}, …]``.
        fusion_weights: (feature, weight) pairs.
        ingest: sentences on what was read, quarantined or assumed.
        features: sentences on snapshots, rows and caps.
        stages: stage -> seconds.
    """

    dataset: DatasetFacts
    split: str
    models: dict[str, dict[str, Any]]
    oracles: dict[str, dict[str, Any]]
    paired: dict[str, dict[str, dict[str, Any]]]
    versus: dict[str, dict[str, dict[str, Any]]]
    cut: dict[str, Any]
    calibration: dict[str, Any]
    counterfactual: dict[str, Any]
    ablations: dict[str, dict[str, Any]]
    slices: dict[str, dict[str, Any]]
    reachable_ceiling: dict[str, float]
    training: dict[str, list[dict[str, float]]]
    fusion_weights: list[tuple[str, float]]
    ingest: list[str]
    features: list[str]
    stages: dict[str, float]


def known(value: Any) -> TypeGuard[float]:
    """Whether there is a number: neither None nor NaN."""
    return value is not None and not math.isnan(value)


def share(value: Any) -> str:
    """Three decimals without the leading zero; a dash where there is no value."""
    if not known(value):
        return "-"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"


def signed(value: float) -> str:
    """As :func:`share`, with a plus or a true minus before it, or both where it rounds to 0."""
    if abs(value) < 0.0005:
        return "±.000"
    return ("+" if value >= 0 else "−") + share(abs(value))


def number(value: Any, least: float = 0.0) -> str:
    """Three digits; what is below ``least`` shows as that."""
    if not known(value):
        return "-"
    if value < least:
        return f"< {least:g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(ci: Sequence[float] | None) -> str:
    """Both ends, or nothing where they are not known."""
    return f"{share(ci[0])}-{share(ci[1])}" if ci and known(ci[0]) else ""


def ordered(models: Mapping[str, dict[str, Any]]) -> list[str]:
    """Model names, best MRR first; those without one last."""

    def key(name: str) -> float:
        mrr: Any = models[name].get("mrr")
        return -mrr if known(mrr) else math.inf

    return sorted(models, key=key)


def best_of(models: Mapping[str, dict[str, Any]], metric: str) -> str:
    """The best value of ``metric`` as printed: models that print alike share the honour."""
    return share(max((m[metric] for m in models.values() if known(m.get(metric))), default=None))


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def p_value(value: float) -> str:
    """With its sign of comparison: "< .001", "= .055"."""
    return "< .001" if value < 0.001 else f"= {share(value)}"


COMPARED = ("hits@3", "mrr")
