"""How an experiment went: what each step tells is what a report of that time told."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.online_log import MANIFEST
from tests.served_files import START, answer, event, write_answers, write_events

from prerank.core.home import Home
from prerank.online_tests import plot
from prerank.online_tests.course import HOURS, MOST_STEPS, Course, step_of
from prerank.online_tests.credit import Period
from prerank.online_tests.page import html, write
from prerank.online_tests.results import Results
from prerank.online_tests.run import online_results
from prerank.online_tests.statistics import Interval

DAYS, USERS = 5, 300


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An experiment of some days, in which half of the users come each day."""
    home = Home.at(tmp_path / "home")
    MANIFEST.save(home)
    rng = np.random.default_rng(3)
    answers, events = [], []
    for user in range(USERS):
        variant, chance = ("treatment", 0.5) if user % 2 else ("control", 0.3)
        for day in range(DAYS):
            if rng.random() < 0.5:
                request = f"r{user}-{day}"
                at = START + timedelta(days=day)
                answers.append(answer(request, f"u{user}", variant, request_time=at))
                if rng.random() < chance:
                    own = event(request, f"u{user}", at=at + timedelta(minutes=1))
                    events.append(own)
    write_answers(home, answers)
    write_events(home, events)
    return home


def about(one: Interval) -> Any:
    """Sums over users in another order differ by the last digit."""
    return pytest.approx(vars(one))


def run(home: Home, days: int = DAYS) -> Results:
    return online_results(home, "test", Period(until=START + timedelta(days=days)), 1_000)


def test_each_step_is_what_a_report_of_that_time_says(home: Home) -> None:
    course = run(home).course
    assert course.hours == 6
    assert len(course.times) == DAYS
    for day in range(DAYS):
        then = run(home, day + 1)
        for name, one in then.variants.items():
            assert vars(course.rates[name][day]) == about(one.rates["fulfilment"])
        two = then.compared["treatment"].differences["fulfilment"]
        assert vars(course.differences["treatment"][day]) == about(two)
        assert course.requests[day] == sum(one.requests for one in then.variants.values())
    assert list(course.times) == sorted(course.times)


def test_it_is_drawn_with_0_marked_and_told_in_the_json(home: Home, tmp_path: Path) -> None:
    results = run(home)
    data, page = write(results, tmp_path / "out")
    text = page.read_text()
    plots = re.findall(r'<svg class="plot".*?</svg>', text, re.S)
    assert [svg.count("<polyline") for svg in plots] == [2, 1]
    assert [svg.count('class="zero"') for svg in plots] == [0, 1]
    for svg in plots:
        ys = [
            float(y)
            for path in re.findall(r'points="([^"]+)"', svg)
            for y in re.findall(r",(\S+)", path)
        ]
        assert 0 <= min(ys) <= max(ys) <= plot.HEIGHT
    told = json.loads(data.read_text())["course"]
    assert len(told["differences"]["treatment"]) == DAYS


@pytest.mark.parametrize("mode", ["shadow", "interleave"])
def test_what_nobody_compared_by_its_rate_has_no_course(tmp_path: Path, mode: str) -> None:
    home = Home.at(tmp_path / "home")
    MANIFEST.save(home)
    write_answers(home, [answer(f"r{n}", f"u{n}", "treatment", mode=mode) for n in range(9)])
    results = online_results(home, "test", Period(), 1_000)
    assert results.course == Course()
    assert "How it went" not in html(results)


@pytest.mark.parametrize(
    ("length", "hours"), [(0, 1), (30, 1), (100, 6), (24 * 30, 24), (24 * 300, 24 * 8)]
)
def test_a_step_is_as_long_as_few_steps_need(length: int, hours: int) -> None:
    step = step_of(START, START + timedelta(hours=length))
    assert step == timedelta(hours=hours)
    assert length / hours <= MOST_STEPS - 1
    assert hours in HOURS or hours % 24 == 0


def course(**rates: Any) -> Course:
    lines = {name: tuple(line) for name, line in rates.items()}
    (steps,) = {len(line) for line in lines.values()}
    times = tuple(f"2026-03-{day + 1:02}T00:00:00Z" for day in range(steps))
    return Course(24, times, tuple(range(100, 100 * steps + 1, 100)), lines, lines)


def test_labels_stand_apart_and_early_bands_are_cut_off() -> None:
    wide, narrow = Interval(0.3, -9.0, 9.0), Interval(0.3, 0.29, 0.31)
    lines = {name: [wide, *[narrow] * 20] for name in ("one", "two", "three")}
    drawn = plot.rates(course(**lines))
    assert drawn is not None
    places = sorted(line.label for line in drawn.lines)
    assert np.diff(places).min() >= plot.LINE
    (first, *_, last) = [text for _, text in drawn.y_ticks]
    assert float(first[:-1]) >= 28.5
    assert float(last[:-1]) <= 31.5
    assert len(drawn.x_ticks) <= 6


def test_one_point_is_no_line() -> None:
    unknown = Interval(float("nan"), float("nan"), float("nan"))
    assert plot.rates(Course()) is None
    assert plot.differences(course(one=[unknown, Interval(0.1, 0.0, 0.2)])) is None
