"""The journal of flags: what counts as of a time, whatever was published, and of which log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.online_log import MANIFEST, START, start_over

from prerank.core.errors import DamagedError
from prerank.core.feature_sets import described
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.times import HOUR_US
from prerank.core.trust import Flags, add_flags
from prerank.features.flag_steps import FlagSteps

AT = START // HOUR_US * HOUR_US


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    MANIFEST.save(home)
    return home


def publish(home: Home, cutoff: int) -> None:
    about = described(MANIFEST.schema) | {"last_cutoff_us": cutoff, "log_id": home.log_id}
    write_json(home.features_of(MANIFEST.schema.hash()) / "manifest.json", about)


def test_later_lines_take_the_place_of_earlier_ones(home: Home) -> None:
    assert Flags.load(home).as_of(AT) == {}
    assert add_flags(home, ["a", "b"], [0.0, 0.5], [AT, AT + 5]) == 0
    add_flags(home, ["a"], [1.0], [AT + 9])
    flags = Flags.load(home)
    assert flags.as_of(AT) == {}, "a flag is known after its time"
    assert flags.as_of(AT + 1) == {"a": 0.0}
    assert flags.as_of(AT + 10) == {"a": 1.0, "b": 0.5}


def test_a_late_flag_counts_from_what_was_published(home: Home) -> None:
    add_flags(home, ["a"], [0.5], [AT])
    publish(home, AT + HOUR_US)
    assert add_flags(home, ["a", "b"], [0.0, 0.0], [AT, AT + 2 * HOUR_US]) == 1
    flags = Flags.load(home)
    assert flags.known_us.tolist() == [AT, AT + HOUR_US, AT + 2 * HOUR_US]
    assert flags.as_of(AT + HOUR_US) == {"a": 0.5}


def test_flags_outlive_a_log_that_is_started_over(home: Home) -> None:
    """What was published of the log before binds them no more."""
    publish(home, AT + HOUR_US)
    add_flags(home, ["a"], [0.0], [AT])
    start_over(home)
    assert Flags.load(home).as_of(AT + 1) == {"a": 0.0}


@pytest.mark.parametrize("line", ["{", "3", '{"user_id": "a"}', '{"user_id": "a", "weight": null}'])
def test_a_damaged_line_is_named(home: Home, line: str) -> None:
    add_flags(home, ["a"], [0.0], [AT])
    home.flags.write_text(home.flags.read_text() + line + "\n")
    with pytest.raises(DamagedError, match="line 2 is damaged"):
        Flags.load(home)


def test_steps_are_the_changes_of_the_journals_weights() -> None:
    rng = np.random.default_rng(3)
    users = tuple(rng.choice(["a", "b", "ü", "z"], 60).tolist())
    known = AT + rng.integers(0, 30, 60) * HOUR_US // 2
    flags = Flags(users, rng.choice([0.0, 0.1, 1.0], 60), known)
    steps = FlagSteps.of(flags, HOUR_US, AT // HOUR_US + 12)
    assert (steps.delta != 0).all()
    for at in range(AT // HOUR_US, AT // HOUR_US + 14):
        # A snapshot holds what was known before its cutoff, but for what the last one lacks.
        told = flags.as_of(min(at, AT // HOUR_US + 12) * HOUR_US)
        for place, name in enumerate(steps.names.to_pylist()):
            own = slice(steps.starts[place], steps.starts[place + 1])
            weight = 256 + steps.delta[own][steps.bucket[own] < at].sum()
            assert weight == round(told.get(name, 1.0) * 256)
    digests = {FlagSteps.of(flags, HOUR_US, AT // HOUR_US + n).digest() for n in (0, 3, 9)}
    assert len(digests) == 3
    assert FlagSteps.of(Flags.none(), HOUR_US, 9).digest() != steps.digest()
