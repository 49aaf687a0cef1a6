"""A round of a retraining: what was done is kept, what fails says how to go on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.object_stores import nodes

from prerank.config import JobConfig
from prerank.core.errors import DataError, PrerankError, StateError
from prerank.core.files import held
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.ingest.report import IngestReport
from prerank.retraining.rounds import (
    CHALLENGER,
    FAILURE,
    NOTHING_NEW,
    STAGES,
    Asked,
    Facts,
    Round,
    signature,
)
from prerank.retraining.run import Day, _Steps

ASKED = Asked("day 1", "", "config", 1, False)


class Work:
    """Stages that are counted; one of them may fail."""

    def __init__(self, fails: str = "", error: Exception | None = None) -> None:
        self.did: list[str] = []
        self.fails, self.error = fails, error or RuntimeError("no")

    def all(self, round_: Round, gone: tuple[str, ...] = ()) -> Round:
        for name in STAGES:
            round_.stage(name, partial(self.do, name), partial(self.there, name not in gone))
        return round_

    def there(self, there: bool, _: Facts) -> bool:
        return there

    def do(self, name: str) -> Facts:
        if name == self.fails:
            raise self.error
        self.did.append(name)
        return {"made": name}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path)


@pytest.mark.parametrize("fails", STAGES)
def test_it_goes_on_where_it_failed_and_does_nothing_twice(home: Home, fails: str) -> None:
    first, second = Work(fails), Work()
    with pytest.raises(PrerankError, match=f"stopped in the stage `{fails}`"):
        first.all(Round.of(home, ASKED))
    done = second.all(Round.of(home, ASKED))
    assert first.did + second.did == [*STAGES]
    assert done.number == 1
    assert done.done == {name: {"made": name} for name in STAGES}


@pytest.mark.parametrize("gone", STAGES)
def test_what_is_gone_is_made_again_with_all_that_comes_of_it(home: Home, gone: str) -> None:
    Work().all(Round.of(home, ASKED))
    again = Work()
    again.all(Round.of(home, ASKED), (gone,))
    assert again.did == [*STAGES[STAGES.index(gone) :]]


def test_another_day_is_another_round_though_one_was_cut_off(home: Home) -> None:
    ended = Work().all(Round.of(home, ASKED))
    ended.end(CHALLENGER)
    with pytest.raises(PrerankError):
        Work("check").all(Round.of(home, replace(ASKED, source="day 2")))
    third = Round.of(home, replace(ASKED, source="day 3"))
    assert third.number == 3
    assert third.done == {}
    # What the last model was trained on, not what the last round added.
    assert third.since == ended.done["update"]
    third.stage("update", lambda: {"made": "other"})
    third.end(NOTHING_NEW)
    assert Round.of(home, ASKED).since == ended.done["update"]


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (DataError("a bad row."), DataError, "a bad row. Retraining 1"),
        (OSError(errno.ENOSPC, "No space left"), StateError, "is full"),
        (KeyError("lost"), PrerankError, FAILURE),
    ],
)
def test_an_error_keeps_its_exit_code_and_says_what_stays(
    home: Home, error: Exception, kind: type[PrerankError], told: str
) -> None:
    with pytest.raises(kind, match="what is served stays as it is") as raised:
        Work("train", error).all(Round.of(home, ASKED))
    assert type(raised.value) is kind
    assert told in str(raised.value)
    written = home.root / "retraining" / "1" / FAILURE
    assert written.exists() == (kind is PrerankError)


FULL = """
import sys
from pathlib import Path
from tests.unit.test_retraining_rounds import ASKED, Home, Round, StateError

home, ballast = Home.at(sys.argv[1]), Path(sys.argv[1]) / "ballast"


def fill():
    try:
        with ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(512))
    except OSError as error:
        return {"errno": error.errno}


round_ = Round.of(home, ASKED)
round_.stage("update", lambda: {"rows": 1})
try:
    round_.stage("check", fill)
except StateError as error:
    print(error)
ballast.unlink()
print(*Round.of(home, ASKED).done)
"""


def test_a_disk_that_is_full_when_a_stage_is_written_down_loses_nothing(tmp_path: Path) -> None:
    """On a disk of 64 kB, which Linux gives a user who has a namespace of their own."""
    mount = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
    python = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, tmp_path, *python],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(done.stderr)
    lines = done.stdout.splitlines()
    (told,) = (line for line in lines if line.startswith(f"the disk of {tmp_path} is full"))
    assert "stopped in the stage `check`; what is served stays as it is" in told
    assert lines[-1] == "update", done.stderr


def test_two_nodes_do_not_write_down_one_round(tmp_path: Path) -> None:
    """One counts as dead, and wakes up when the other one has gone on."""
    with nodes(tmp_path) as store, store.node("a") as late:
        first = Round.of(late, ASKED)
        first.stage("update", lambda: {"made": "by a"})
        with store.node("b") as other:
            second = Round.of(other, ASKED)
            assert second.done == first.done
            second.stage("check", lambda: {"made": "by b"})
        with pytest.raises(StateError, match=r"current\.json was changed by another command"):
            first.stage("check", lambda: {"made": "by a"})
        with store.node("c") as third:
            assert Round.of(third, ASKED).done["check"] == {"made": "by b"}


def test_a_second_one_is_told_of_the_first(tmp_path: Path) -> None:
    with held(tmp_path / "retraining") as first, held(tmp_path / "retraining") as second:
        assert first
        assert not second
    with held(tmp_path / "retraining") as later:
        assert later


def test_a_file_that_changed_is_another_day(tmp_path: Path) -> None:
    found: list[Any] = []
    for text in ("one", "other"):
        (tmp_path / "day").write_text(text)
        found += [signature(tmp_path / "day"), signature(tmp_path), signature(tmp_path / "d*")]
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4] == found[5] != found[0]


@pytest.mark.parametrize(
    ("later", "stops"),
    [
        (Day("served, the day after", lambda: None, once=True), True),
        (Day("served, the day after", lambda: report(0), once=True), True),
        (Day("the log as it is", lambda: None), True),
        (Day("rows that a person gave", lambda: report(0)), False),
        (Day("served, the day after", lambda: None, max_bad=0.5, once=True), False),
    ],
)
def test_a_stop_for_bad_rows_holds_until_a_person_decides(
    home: Home, later: Day, stops: bool
) -> None:
    first = Round.of(home, ASKED)
    _Steps(home, JobConfig(), Day("served, a day", lambda: report(3), once=True), first)._add()
    assert first.stopped["told"] == "30% of 10 new rows were quarantined (served, a day: 3 x no)"
    second = Round.of(home, replace(ASKED, source="the next"))
    _Steps(home, JobConfig(), later, second)._add()
    assert bool(second.stopped) == stops
    assert Round.of(home, replace(ASKED, source="the third")).stopped == second.stopped


def report(bad: int) -> IngestReport:
    rows = {"in": 10, "out": 10 - bad, "quarantined": bad}
    manifest = cast(LogManifest, SimpleNamespace(rows=rows))
    return IngestReport(manifest, {"no": bad} if bad else {}, Path("quarantine"))
