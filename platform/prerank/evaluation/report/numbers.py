"""How one value of a report is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TypeGuard

from prerank.evaluation.results import FULL, Ablation, Interval, Measured

FASTEST = 0.001
"""Microseconds per candidate below which a measured time says nothing."""


def is_finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show: not None, NaN or infinite."""
    return value is not None and math.isfinite(value)


def share(value: float | None) -> str:
    """Three decimals without the leading zero; a dash where there is no value."""
    if not is_finite(value):
        return "-"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"


def signed(value: float) -> str:
    """As ``share``, with a plus or a true minus before it, or both where it rounds to 0."""
    if abs(value) < 0.0005:
        return "±.000"
    return ("+" if value >= 0 else "−") + share(abs(value))


def number(value: float | None, least: float = 0.0) -> str:
    """Three digits; what is below ``least`` shows as that."""
    if not is_finite(value):
        return "-"
    if value < least:
        return f"< {least:g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(ci: Interval | None) -> str:
    """Both ends, or nothing where they are not known."""
    return f"{share(ci[0])}-{share(ci[1])}" if ci and is_finite(ci[0]) else ""


def spread(values: Sequence[float] | None) -> str:
    """Standard deviation over seeds, or nothing where there is one value or none."""
    if not values or len(values) < 2 or not all(map(is_finite, values)):
        return ""
    return f"+-{share(stdev(values))}"


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def p_value(value: float) -> str:
    """With its sign of comparison: "< .001", "= .055"."""
    return "< .001" if value < 0.001 else f"= {share(value)}"


def ordered(models: Mapping[str, Measured]) -> list[str]:
    """Names of rankers, best MRR first; those without one last."""

    def key(name: str) -> float:
        mrr = models[name].mean("mrr")
        return -mrr if is_finite(mrr) else math.inf

    return sorted(models, key=key)


def by_loss(variants: Mapping[str, Ablation]) -> list[str]:
    """FULL first, then the variants that lose most by MRR; those without one last."""

    def key(name: str) -> tuple[bool, float]:
        seeds = variants[name].seeds("mrr")
        return name != FULL, fmean(seeds) if seeds else 1.0

    return sorted(variants, key=key)


def best_of(models: Sequence[Measured], metric: str) -> str:
    """The best value of ``metric`` as printed: rankers that print alike share the honour."""
    return share(max(filter(is_finite, (m.mean(metric) for m in models)), default=None))
