"""Feature tables that are brought on day by day are those of one build, however the days fall."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.growing_log import DAY, START, Log, files, same, tables
from tests.kills import killed
from tests.shown_log import estimates_often, log_of

from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.files import settled
from prerank.features import corrections, shard
from prerank.features.config import FeatureConfig
from prerank.features.parts import bounded

CASES = [
    (0, 1, 0, None, 0, False),
    (1, 6, 30, 1, 0, False),
    (2, 24, 0, 2, 3, True),
    (3, 48, 5, None, 4, True),
    (5, 6, 30, 1, 4, True),
]


@pytest.mark.parametrize(("seed", "hours", "lag", "cap", "flags", "shown"), CASES)
def test_days_one_by_one_make_the_tables_of_one_build(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    hours: int,
    lag: int,
    cap: int | None,
    flags: int,
    shown: bool,
) -> None:
    """With late events, late flags, pauses in which windows end, and files that are merged; and of
    a log that has exposure, with impressions and clicks on them that come later.
    """
    estimates_often(monkeypatch)
    limit = 2

    def merging(*args: Any, **options: Any) -> None:
        bounded(*args, **options | {"limit": limit})

    for room in (shard, corrections):
        monkeypatch.setattr(room, "bounded", merging)
    monkeypatch.setattr(shard, "MAX_PARTS", limit)
    log = log_of(tmp_path / "log", seed, hours, shown, lag, cap)
    rng = np.random.default_rng(seed)
    before: dict[str, pa.Table] = {}
    for step in range(6):
        published = log.published() or START
        log.flag(flags, published - 5 * DAY, published + 5 * DAY)
        days = int(rng.choice([1, 1, 2, 3, 12, 35])) if step else 20
        log.grow(days, busy=rng.choice([2.0, 9.0]), late=rng.choice([0.0, 2.0]))
        for name, rows in tables(log.home):
            if name in before:
                stamp = pc.max(before[name]["event_timestamp"])
                published = rows.filter(pc.less_equal(rows["event_timestamp"], stamp))
                assert published.equals(before[name]), "a published row changed"
            before[name] = rows
    whole = log.anew(tmp_path / "whole")
    same(log.home, whole)
    told, told_of_whole = (manifest_of_log(home).get("exposure") for home in (log.home, whole))
    assert told == told_of_whole
    assert not shown or (told and len(told["propensities"]) > 2)
    per_shard = Counter((path.rpartition("/")[0], path[-32:-16]) for path in files(log.home))
    assert max(per_shard.values()) <= limit


def test_a_day_adds_files_and_changes_none(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 4, 1)
    log.grow(5, 9.0, 0.0)
    folder = tables_of_log(log.home)
    before = {name: (folder / name).read_bytes() for name in files(log.home)}
    named = manifest_of_log(log.home)["tables"]
    log.grow(1, 9.0, 1.0)
    assert files(log.home) > before.keys()
    assert all((folder / name).read_bytes() == data for name, data in before.items())
    assert manifest_of_log(log.home)["tables"] == named
    again = files(log.home)
    log.build()
    assert files(log.home) == again, "nothing was new"


def test_late_events_alone_wait_for_the_next_cutoff(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 5, 1)
    log.grow(3, 9.0, 0.0)
    before, published = dict(tables(log.home)), log.published()
    log.add(log.drawn(START, published, 20), published)
    log.build()
    assert log.published() == published
    assert all(rows.equals(before[name]) for name, rows in tables(log.home))
    log.grow(1, 9.0, 0.0)
    same(log.home, log.anew(tmp_path / "whole"))


def test_events_that_the_tables_missed_are_counted_by_a_build_of_all(tmp_path: Path) -> None:
    """As when an ingest began before a build and ended after it: they seem to be known to it."""
    log = Log(tmp_path / "log", 6, 1)
    log.grow(3, 9.0, 0.0)
    named, published = manifest_of_log(log.home)["tables"], log.published()
    log.add(log.drawn(START, published, 5), 0)
    log.grow(1, 9.0, 0.0)
    assert manifest_of_log(log.home)["tables"] != named
    same(log.home, log.anew(tmp_path / "whole"))


def test_another_cadence_builds_all_and_none_keeps_the_one_that_is(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 7, 6)
    log.grow(3, 9.0, 0.0)
    log.config = FeatureConfig()
    assert log.build()["cadence_hours"] == 6
    log.config = FeatureConfig(cadence_hours=24)
    assert log.build()["cadence_hours"] == 24
    same(log.home, log.anew(tmp_path / "whole"))


def test_a_build_that_is_killed_has_published_all_or_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 8, 24)
    log.grow(9, 3.0, 0.0)
    log.grow(2, 3.0, 1.0)
    old = dict(tables(log.home))
    published = log.published()
    log.add(log.drawn(published, published + 2 * DAY, 9), published)
    whole = log.anew(tmp_path / "whole")
    new = dict(tables(whole))
    states = []
    at = 1
    while killed(log.build, at):
        settled(log.home.features)
        found = dict(tables(log.home))
        states.append(all(rows.equals(new[name]) for name, rows in found.items()))
        assert states[-1] or all(rows.equals(old[name]) for name, rows in found.items())
        at += 1 if states[-1] else 12
    assert len(states) > 5
    same(log.home, whole)


def test_another_cap_builds_all(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 12, 6)
    log.grow(9, 9.0, 0.0)
    log.config = FeatureConfig(cadence_hours=6, user_cap=1)
    named = manifest_of_log(log.home)["tables"]
    assert log.build()["tables"] != named
    same(log.home, log.anew(tmp_path / "whole"))


def test_a_flag_alone_waits_for_the_next_cutoff(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 13, 6)
    log.grow(9, 9.0, 0.0)
    before, named = dict(tables(log.home)), manifest_of_log(log.home)["tables"]
    log.flag(5, START, log.published())
    log.build()
    assert all(rows.equals(before[name]) for name, rows in tables(log.home))
    log.grow(1, 9.0, 0.0)
    assert manifest_of_log(log.home)["tables"] == named
    same(log.home, log.anew(tmp_path / "whole"))


def test_flags_that_the_tables_missed_are_counted_by_a_build_of_all(tmp_path: Path) -> None:
    """As when they were told while a build ran, which had read the journal before."""
    log = Log(tmp_path / "log", 14, 6)
    log.grow(9, 9.0, 0.0)
    named = manifest_of_log(log.home)["tables"]
    log.flag(3, START, START + DAY)
    text = log.home.flags.read_text().replace(f": {log.published()}", ": 0")
    log.home.flags.write_text(text)
    log.grow(1, 9.0, 0.0)
    assert manifest_of_log(log.home)["tables"] != named
    same(log.home, log.anew(tmp_path / "whole"))
