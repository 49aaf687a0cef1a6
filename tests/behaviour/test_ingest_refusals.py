"""What ingest refuses: a named error with its remedy, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prerank.core.errors import ConfigError, DataError
from prerank.core.home import Home
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest

Case = Any
"""The class of that name in conftest.py, which a test module cannot import."""


def corrupt(case: Case) -> None:
    (case.root / "log").mkdir()
    (case.root / "log" / "0.parquet").write_bytes(b"PAR1 this is not Parquet PAR1")
    case.items.to_parquet(case.root / "items.parquet")
    ingest(case.root / "log", case.root / "items.parquet", case.home, LogMapping())


def numeric_times(frame: pd.DataFrame) -> pd.DataFrame:
    seconds = {n: frame[n].astype("int64") // 10**9 for n in ("request_time", "event_time")}
    return frame.assign(**seconds)


REFUSED: dict[str, tuple[Any, type[Exception] | tuple[type[Exception], ...], str]] = {
    "empty log": (lambda c: c.ingest(c.log(0)), DataError, "is empty"),
    "missing column": (
        lambda c: c.ingest(c.log().rename(columns={"query": "quary"})),
        ConfigError,
        "no column 'query'.*Did you mean 'quary'.*user_id",
    ),
    "mapped column missing": (
        lambda c: c.ingest(c.log(), events={"query": "terms"}),
        ConfigError,
        "no column 'terms'",
    ),
    "missing catalogue column": (
        lambda c: c.ingest(c.log(), items={"category": "genre"}),
        ConfigError,
        "no column 'genre'",
    ),
    "missing embedding": (
        lambda c: c.ingest(c.log(), items={"embedding": "vec"}),
        ConfigError,
        "no column 'vec'",
    ),
    "embeddings of two dimensions": (
        lambda c: c.ingest(
            c.log(), c.items.assign(vec=[[1.0, 2.0]] * 6 + [[1.0]]), items={"embedding": "vec"}
        ),
        DataError,
        "vectors of 1 and 2 numbers",
    ),
    "embedding of text": (
        lambda c: c.ingest(
            c.log(), c.items.assign(vec=c.items["title"]), items={"embedding": "vec"}
        ),
        ConfigError,
        "'vec' is (large_)?string",
    ),
    "no embedding at all": (
        lambda c: c.ingest(
            c.log(),
            c.items.assign(vec=pd.Series([None] * 7, dtype=object).map(lambda _: [])),
            items={"embedding": "vec"},
        ),
        (ConfigError, DataError),
        "'vec'",
    ),
    "missing segment": (lambda c: c.ingest(c.log(), segments=["country"]), ConfigError, "country"),
    "files that differ": (
        lambda c: c.ingest([c.log(), c.log().drop(columns="position")]),
        ConfigError,
        "only one has 'position'",
    ),
    "unreadable file": (corrupt, DataError, r"0\.parquet cannot be read as Parquet"),
    "unknown action": (
        lambda c: c.ingest(c.log(), actions={"click": "click"}),
        ConfigError,
        "Unknown action 'impression'.*actions:",
    ),
    "reserved action": (lambda c: c.ingest(c.log().assign(action="engage")), ConfigError, "rename"),
    "only exposure": (lambda c: c.ingest(c.log().assign(action="view")), DataError, "no head"),
    "ids as actions": (
        lambda c: c.ingest(c.log(300).assign(action=[f"a{i}" for i in range(300)])),
        ConfigError,
        "distinct values",
    ),
    "times in 1970": (
        lambda c: c.ingest(numeric_times(c.log()), time_unit="ms"),
        ConfigError,
        "1970.*time_unit: s",
    ),
    "times in 2200": (
        lambda c: c.ingest(
            numeric_times(c.log()).assign(request_time=lambda f: f["request_time"] * 1000),
            time_unit="s",
        ),
        ConfigError,
        "time_unit: ms",
    ),
    "no time unit": (lambda c: c.ingest(numeric_times(c.log())), ConfigError, "time_unit: s"),
    "relative log": (
        lambda c: ingest(Path("log"), c.root, c.home, LogMapping()),
        ConfigError,
        "is relative",
    ),
    "missing log": (
        lambda c: ingest(c.root / "nowhere", c.root, c.home, LogMapping()),
        ConfigError,
        "does not exist",
    ),
    "relative home": (
        lambda c: ingest(c.root, c.root, Home(Path("home")), LogMapping()),
        ConfigError,
        "relative path",
    ),
    "folder without Parquet": (
        lambda c: ingest(c.root, c.root, c.home, LogMapping()),
        DataError,
        r"no file of a known format.*\*\.csv",
    ),
    "integer log, text catalogue": (
        lambda c: c.ingest(c.log(), c.items.assign(item_id="pin-" + c.items["title"])),
        DataError,
        "must not be mixed",
    ),
    "text log, integer catalogue": (
        lambda c: c.ingest(c.log().assign(item_id="pin")),
        DataError,
        "'pin'",
    ),
    "files of two id types": (
        lambda c: c.ingest([c.log(), c.log().assign(item_id=lambda f: f["item_id"].astype(str))]),
        DataError,
        "must not be mixed",
    ),
    "item twice": (
        lambda c: c.ingest(c.log(), pd.concat([c.items, c.items.assign(title="other")])),
        DataError,
        "stands twice",
    ),
    "numeric column that is none": (
        lambda c: c.ingest(c.log(), c.items.assign(price="dear"), items={"numeric": ["price"]}),
        ConfigError,
        "'price'.*not numeric",
    ),
    "session mapped as request": (
        lambda c: c.ingest(c.log().assign(request_id="s1")),
        DataError,
        "request_id: null",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_remedy_and_nothing_left_behind(case: Case, name: str) -> None:
    act, error, message = REFUSED[name]
    with pytest.raises(error, match=f"(?s){message}"):
        act(case)
    assert not case.home.manifest.exists()
    assert not case.home.events.exists()


def test_a_failed_ingest_leaves_the_last_good_one(case: Case) -> None:
    case.ingest(case.log())
    with pytest.raises(DataError):
        case.ingest(case.log().assign(request_id="s1"))
    assert len(case.events()) == 40
    assert case.home.manifest.exists()
