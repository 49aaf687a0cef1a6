"""The geometry of a plot over time, for a page that draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prerank.online_tests.course import Course
from prerank.online_tests.statistics import Interval

WIDTH, HEIGHT = 720, 250
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 12, 30
LINE = 15
"""Least distance of two labels."""
SETTLED = 0.1
"""Of all requests: bands of before are far wider than what there is to see, and are cut off."""


@dataclass(frozen=True)
class Line:
    """One line: ``path`` and ``band`` as SVG has them, the end of the line, and its label's y."""

    name: str
    path: str
    band: str
    end: tuple[float, float]
    label: float


@dataclass(frozen=True)
class Plot:
    """Lines with bands over the steps of a course.

    Attributes:
        x_ticks, y_ticks: place and text of each.
        zero: y of 0; None where it is not in the plot.
    """

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    zero: float | None


def rates(course: Course) -> Plot | None:
    """Fulfilment of each variant; None where there is no line to draw."""
    return _plot(course, course.rates, with_zero=False)


def differences(course: Course) -> Plot | None:
    """Difference of each variant to the control."""
    return _plot(course, course.differences, with_zero=True)


def _plot(
    course: Course, series: Mapping[str, Sequence[Interval]], *, with_zero: bool
) -> Plot | None:
    known = {name: _known(line) for name, line in series.items()}
    known = {name: points for name, points in known.items() if len(points) > 1}
    if not known:
        return None
    low, high = _span(course, known, with_zero)
    steps = len(course.times)

    def x(at: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at / (steps - 1))

    def y(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    ends = {name: y(points[-1][1].value) for name, points in known.items()}
    labels = _apart(ends)
    lines = []
    for name, points in known.items():
        band = [(x(at), y(one.high)) for at, one in points]
        band += [(x(at), y(one.low)) for at, one in reversed(points)]
        line = [(x(at), y(one.value)) for at, one in points]
        lines.append(Line(name, _path(line), _path(band), line[-1], labels[name]))
    return Plot(
        tuple(lines),
        tuple((x(at), text) for at, text in _dates(course)),
        tuple((y(value), _percent(value, signed=with_zero)) for value in _nice(low, high)),
        y(0.0) if with_zero else None,
    )


def _known(line: Sequence[Interval]) -> list[tuple[int, Interval]]:
    return [(at, one) for at, one in enumerate(line) if math.isfinite(one.low)]


def _span(
    course: Course, known: Mapping[str, Sequence[tuple[int, Interval]]], with_zero: bool
) -> tuple[float, float]:
    """What the plot shows: the bands since they have settled, and a little room."""
    least = SETTLED * course.requests[-1]
    seen = [
        one
        for points in known.values()
        for at, one in points
        if course.requests[at] >= least or at == points[-1][0]
    ]
    low, high = min(one.low for one in seen), max(one.high for one in seen)
    if with_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.05 * (high - low) or 0.01
    return low - room, high + room


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Places of labels near the ends of their lines, of which none covers another."""
    found: dict[str, float] = {}
    last = -math.inf
    for name in sorted(ends, key=lambda name: ends[name]):
        last = found[name] = max(ends[name], last + LINE)
    return found


def _dates(course: Course) -> list[tuple[int, str]]:
    """At most six steps and the time at which each ends."""
    steps = len(course.times)
    every = -(-steps // 6)
    form = "%Y-%m-%d" if course.hours >= 24 else "%m-%d %H:%M"
    return [
        (at, datetime.fromisoformat(course.times[at]).strftime(form))
        for at in range(0, steps, every)
    ]


def _nice(low: float, high: float) -> list[float]:
    """Four to eight round numbers between two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _percent(value: float, *, signed: bool) -> str:
    text = f"{100 * value:{'+' if signed else ''}.3g}"
    return f"{'0' if abs(value) < 1e-12 else text}%"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
