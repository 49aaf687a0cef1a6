"""What benchmarks/over_http.py found, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from printed import markdown

OURS, PLAIN = "ours", "plain"
Values = Mapping[str, Sequence[float]]
"""What was measured of a service: name -> the value of each repeat."""
Cell = tuple[int, str]
"""How many candidates, and the form of the body."""
Found = Mapping[Cell, Mapping[str, Values]]
"""Cell -> service -> its values."""
WHO = ("candidates", "form", "service")
LATENCY = (
    *WHO,
    "alone, p50 ms",
    "peak /s",
    "saturation /s",
    "at half: p50 ms",
    "p99 ms",
    "p99.9 ms",
    "requests",
    "cores: service/Redis/generator",
)
OVERLOAD = (
    *WHO,
    "offered /s",
    "goodput /s",
    "of peak",
    "503",
    "late",
    "degraded, of answers",
    "memory, MB",
)
RATIOS = (
    "candidates",
    "form",
    "saturation, ours / plain (goal at 10,000 int64: 3)",
    "scorer in process, ms",
    "with the read, ms",
    "alone - scorer, ms (goal: 3)",
    "p99 / p50 at half (goal: 3)",
    "goodput at twice / peak (goal: 80%)",
)


def tables(found: Found, scorer: Mapping[int, Mapping[str, float]]) -> str:
    """Latency and rates; overload; ratios beside their goals.

    Args:
        found: of each cell and service.
        scorer: number of candidates -> milliseconds in one process (``over_http.in_process``).
    """
    rows = list(_services(found))
    ratios = [_ratios(cell, services, scorer[cell[0]]) for cell, services in found.items()]
    return "\n\n".join(
        [
            markdown(LATENCY, [[*who, *_latency(values)] for who, values in rows]),
            markdown(OVERLOAD, [[*who, *_overload(values)] for who, values in rows]),
            markdown(RATIOS, ratios),
        ]
    )


def _services(found: Found) -> Iterator[tuple[list[str], Values]]:
    for (n, form), services in found.items():
        for name, values in services.items():
            yield [f"{n:,}", form, name], values


def _latency(values: Values) -> list[str]:
    half = values["half"]
    cores = (np.median(values[f"{of}_cores"]) for of in ("service", "redis", "generator"))
    return [
        _spread(values["alone"]),
        _spread(values["peak"], 0),
        _spread(values["saturation"], 0),
        _spread(values["half_p50"]),
        _of_pool(half, 0.99),
        _of_pool(half, 0.999),
        str(len(half)),
        "/".join(f"{share:.2f}" for share in cores),
    ]


def _overload(values: Values) -> list[str]:
    return [
        _spread([2 * rate for rate in values["saturation"]], 0),
        _spread(values["goodput"], 0),
        f"{np.median(values['goodput']) / np.median(values['peak']):.0%}",
        # Counts of a whole load, less those of its end: a share may come out just below zero.
        *(f"{max(np.median(values[n]), 0):.0%}" for n in ("refused", "late", "degraded")),
        f"{values['memory_before'][0]:,.0f} to {values['memory_after'][-1]:,.0f}",
    ]


def _ratios(cell: Cell, services: Mapping[str, Values], scorer: Mapping[str, float]) -> list[str]:
    ours, other = services[OURS], services.get(PLAIN)
    alone, half = float(np.median(ours["alone"])), ours["half"]
    rates = [float(np.median(s["saturation"])) for s in (ours, other) if s]
    return [
        f"{cell[0]:,}",
        cell[1],
        f"{rates[0] / rates[1]:.1f}" if other else "",
        f"{scorer['score']:.1f}",
        f"{scorer['both']:.1f}",
        f"{alone - scorer['score']:.1f}",
        f"{np.quantile(half, 0.99) / np.median(half):.1f}",
        f"{np.median(ours['goodput']) / np.median(ours['peak']):.0%}",
    ]


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Median (lowest to highest)."""
    middle, low, high = np.median(values), min(values), max(values)
    if len(values) == 1:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def _of_pool(values: Sequence[float], q: float) -> str:
    """A percentile, where ten requests or so lie above it at the least."""
    if len(values) * (1 - q) < 1:
        return ""
    return f"{np.quantile(values, q):,.1f}"
