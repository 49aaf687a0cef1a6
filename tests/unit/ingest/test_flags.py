"""A team's file of flags: any format, all of it or nothing, and a mistake by its row and field."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.object_stores import nodes
from tests.online_log import MANIFEST, START

from prerank import cli
from prerank.core.errors import ConfigError, DataError, StateError
from prerank.core.home import Home
from prerank.core.trust import Flags, add_flags
from prerank.ingest.flags import Flagged, flag_users
from prerank.ingest.publish import new_log

TIME = "2026-03-01T12:00:00Z"
MICROS = 1_772_366_400_000_000


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    MANIFEST.save(home)
    folder = home.events / "day=2026-03-01"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["u1", "u1", "7"]}), folder / "part-0.parquet")
    return home


def write(root: Path, name: str) -> Path:
    frame = pd.DataFrame(
        {"user_id": ["u1", "nobody", "u1"], "weight": [0, 0.25, 1], "known_at": [TIME] * 3}
    )
    path = root / name
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame["known_at"] = pd.to_datetime(frame["known_at"])
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["flags.csv", "flags.jsonl", "flags.parquet"])
def test_flags_are_read_from_any_format(home: Home, tmp_path: Path, name: str) -> None:
    assert flag_users(home, write(tmp_path, name)) == Flagged(3, 2, 0, 1)
    flags = Flags.load(home)
    assert flags.users == ("u1", "nobody", "u1")
    assert flags.weights.tolist() == [0.0, 0.25, 1.0]
    assert flags.known_us.tolist() == [MICROS] * 3


def test_user_ids_are_read_as_the_logs_are(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "flags.csv"
    path.write_text(f"user_id,weight,known_at\n7.0,0,{TIME}\n")
    assert flag_users(home, path).unknown == 0
    pd.DataFrame({"user_id": [7.0], "weight": [0], "known_at": [TIME]}).to_parquet(
        tmp_path / "flags.parquet"
    )
    assert flag_users(home, tmp_path / "flags.parquet").unknown == 0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (f",0.5,{TIME}", "user_id of row 2 is missing"),
        (f"a,1.5,{TIME}", r"weight of row 2 is no number from 0 to 1 \('1.5'\)"),
        (f"a,-0.1,{TIME}", "weight of row 2"),
        (f"a,,{TIME}", "weight of row 2"),
        (f"a,low,{TIME}", "weight of row 2"),
        (f"a,NaN,{TIME}", "weight of row 2"),
        ("a,0.5,", "known_at of row 2"),
        ("a,0.5,soon", "known_at of row 2"),
        ("a,0.5,1500-01-01", "known_at of row 2"),
        ("a,0.5", "no rows"),
    ],
)
def test_a_wrong_row_is_named_and_no_flag_is_taken(
    home: Home, tmp_path: Path, row: str, says: str
) -> None:
    path = tmp_path / "flags.csv"
    path.write_text(f"user_id,weight,known_at\nb,0.5,{TIME}\n{row}\n")
    with pytest.raises(DataError, match=says) as raised:
        flag_users(home, path)
    assert "flags.csv" in str(raised.value)
    assert not home.flags.exists()


def test_a_file_that_holds_no_flags_is_refused(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "flags.csv"
    path.write_text("user_id,trust,known_at\na,1,2026-01-01\n")
    with pytest.raises(DataError, match="no column 'weight'"):
        flag_users(home, path)
    path.write_text("user_id,weight,known_at\n")
    with pytest.raises(DataError, match="holds no flag"):
        flag_users(home, path)
    with pytest.raises(ConfigError, match="does not exist"):
        flag_users(home, tmp_path / "absent.csv")
    with pytest.raises(StateError, match="prerank ingest"):
        flag_users(Home.at(tmp_path / "empty"), write(tmp_path, "flags.parquet"))


def test_numeric_times_need_the_mappings_unit(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "flags.parquet"
    frame = pd.DataFrame({"user_id": ["u1"], "weight": [0.5], "known_at": [START // 1_000_000]})
    frame.to_parquet(path)
    with pytest.raises(DataError, match="time_unit"):
        flag_users(home, path)


def test_the_verb_says_what_it_took(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    cli.main(["users", "--flag", str(write(tmp_path, "flags.csv")), "--workdir", str(home.root)])
    out = capsys.readouterr().out
    assert "note: 1 user of the flags have no event in this log" in out
    assert "flags.csv: 3 flags of 2 users" in out
    assert str(home.flags) in out
    assert f"prerank features --workdir {home.root}" in out


def test_flags_that_one_node_gave_are_seen_and_kept_by_another(tmp_path: Path) -> None:
    """With a home in an object store, of which the second node has nothing yet."""
    with nodes(tmp_path) as store:
        with store.node("maker") as home, new_log(home, starts_over=True) as new:
            (new.events / "day=2026-03-01").mkdir(parents=True)
            rows = pa.table({"user_id": ["u1", "u1", "7"]})
            pq.write_table(rows, new.events / "day=2026-03-01" / "part-0.parquet")
            MANIFEST.save(new)
        with store.node("one") as home:
            assert flag_users(home, write(tmp_path, "flags.csv")) == Flagged(3, 2, 0, 1)
        with store.node("other") as home:
            assert Flags.load(home).users == ("u1", "nobody", "u1")
            add_flags(home, ["7"], [0.5], [MICROS])
        with store.node("one") as home:
            assert Flags.load(home).users == ("u1", "nobody", "u1", "7")
