"""Ingest: every row of a log is canonical, quarantined with a reason, or a repeat."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.core.ids import event_id
from prerank.core.manifest import LogManifest
from prerank.ingest.mapping import LogMapping, load_mapping
from prerank.ingest.ranges import RowRange, read_range
from prerank.ingest.report import IngestReport
from prerank.ingest.run import ingest

Case = Any
"""The class of that name in conftest.py, which a test module cannot import."""

ROOT = Path(__file__).parents[2]
START = pd.Timestamp("2024-03-01T23:59:00Z")


def rows_of(report: IngestReport) -> tuple[int, int, int, int]:
    rows = report.manifest.rows
    assert rows["in"] == rows["out"] + rows["quarantined"] + rows["duplicates"]
    return rows["in"], rows["out"], rows["quarantined"], rows["duplicates"]


def test_a_clean_log(case: Case) -> None:
    report = case.ingest(case.log().assign(country=["de", None] * 20), segments=["country"])
    assert rows_of(report) == (40, 40, 0, 0)
    events = case.events()
    assert set(events["query"]) == {f"red shoes {i}" for i in range(4)}
    assert set(events["country"]) == {"de", ""}
    days = {p.name for p in case.home.events.iterdir()}
    assert days == {"day=2024-03-01", "day=2024-03-02"}
    schema = pq.read_schema(next(case.home.events.glob("*/*.parquet")))
    stamp = pa.timestamp("us", "UTC")
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "request_id": pa.string(),
        "request_time": stamp,
        "event_time": stamp,
        "user_id": pa.string(),
        "query": pa.string(),
        "item_id": pa.int64(),
        "action": pa.string(),
        "position": pa.int32(),
        "event_id": pa.int64(),
        "known_time": stamp,
        "country": pa.string(),
    }
    one = events.iloc[0]
    at = one["event_time"].value // 1000
    assert one["event_id"] == event_id(one["request_id"], one["item_id"], one["action"], at)
    manifest = json.loads(case.home.manifest.read_text())
    assert manifest["ids"] == "integer"
    assert manifest["actions"] == ["click", "impression"]
    assert manifest["heads"] == {"engagement": ["click"]}
    assert manifest["weight_order"] == ["click", "impression"]
    assert manifest["has_impressions"]
    assert not manifest["single_time"]
    assert [manifest[n] for n in ("requests", "users", "queries", "items")] == [20, 3, 4, 7]
    assert manifest["first_time"] == "2024-03-01T23:59:00.000000Z"
    assert manifest["last_time"] == "2024-03-02T00:18:05.000000Z"
    assert "40 rows in = 40 out" in str(report)


def test_rows_of_a_request_lie_in_one_day(case: Case) -> None:
    late = case.log().assign(event_time=lambda f: f["event_time"] + pd.Timedelta(hours=5))
    case.ingest(late)
    found = pads.dataset(str(case.home.events), partitioning="hive").to_table().to_pandas()
    assert (found.groupby("request_id")["day"].nunique() == 1).all()


def test_repeated_events_count_once(case: Case) -> None:
    report = case.ingest([case.log(), case.log().iloc[:6], case.log().iloc[10:12]])
    assert rows_of(report) == (48, 40, 0, 8)
    assert case.events()["event_id"].is_unique


def test_given_event_ids_decide_what_is_repeated(case: Case) -> None:
    frame = case.log().assign(event_id=[f"e{i // 4}" for i in range(40)])
    frame.loc[0, "event_id"] = None
    report = case.ingest(frame)
    assert rows_of(report) == (40, 11, 0, 29)
    kept = case.events().sort_values("event_time")
    assert kept["event_time"].iloc[0] == START  # of a repeated event the earliest stays


def test_fingerprint_is_of_content_not_of_files(case: Case) -> None:
    one = case.ingest(case.log())
    shuffled = case.log().sample(frac=1.0, random_state=1)
    two = case.ingest([shuffled.iloc[:13], shuffled.iloc[13:], shuffled.iloc[:5]], replace=True)
    assert one.manifest.fingerprint == two.manifest.fingerprint
    changed = case.ingest(case.log().assign(user_id="u9"), replace=True)
    assert changed.manifest.fingerprint != one.manifest.fingerprint


def test_many_pieces_and_buckets_change_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.concat([case.log(), case.log()])
    frame.iloc[50, frame.columns.get_loc("query")] = ""  # a repeat that is bad: one duplicate less
    one = case.ingest(frame)
    expected = case.events().sort_values("event_id", ignore_index=True)
    monkeypatch.setattr("prerank.ingest.run.SMALL_PIECE", 7)
    monkeypatch.setattr("prerank.ingest.run.LARGE_PIECE", 7)
    monkeypatch.setattr("prerank.ingest.run.BUCKET_ROWS", 9)
    many = case.ingest([frame.iloc[:33], frame.iloc[33:]], replace=True)
    assert rows_of(many) == rows_of(one) == (80, 40, 1, 39)
    assert many.manifest.fingerprint == one.manifest.fingerprint
    assert len(list(case.home.events.glob("*/*.parquet"))) > 2
    found = case.events().sort_values("event_id", ignore_index=True)
    pd.testing.assert_frame_equal(found, expected)


BAD: list[tuple[str, object, str]] = [
    ("user_id", None, "user_id is missing"),
    ("user_id", "", "user_id is empty"),
    ("query", None, "query is missing"),
    ("query", " \t ", "query is empty after normalisation"),
    ("request_id", "", "request_id is empty"),
    ("action", None, "action is missing"),
    ("event_time", START - pd.Timedelta(days=1), "event_time before request_time"),
    ("request_time", pd.NaT, "request_time is missing or not a time"),
    ("event_time", pd.Timestamp("2200-01-01", tz="UTC"), "event_time before 1971 or after 2199"),
    ("position", -1, "bad position"),
    ("position", 1.5, "bad position"),
    ("position", 2.0**31, "bad position"),
]


@pytest.mark.parametrize(("column", "value", "reason"), BAD)
def test_bad_rows_are_quarantined_whole(
    case: Case, column: str, value: object, reason: str
) -> None:
    frame = case.log().assign(unmapped="kept", position=lambda f: f["position"].astype(float))
    frame.loc[3, column] = value
    report = case.ingest(frame)
    assert rows_of(report) == (40, 39, 1, 0)
    bad = case.quarantine().iloc[0]
    assert bad["reason"].startswith(reason)
    assert bad["source"] == "0.parquet:3"
    row = json.loads(bad["row"])
    assert row["unmapped"] == "kept"
    assert row["item_id"] == 3
    assert reason in str(report)


def test_unparsable_text_times_and_positions_are_quarantined(case: Case) -> None:
    frame = case.log().assign(
        request_time=lambda f: f["request_time"].astype(str),
        position=lambda f: f["position"].astype(str),
    )
    frame.loc[3, "request_time"] = "soon"
    frame.loc[4, "position"] = "top"
    report = case.ingest(frame)
    assert rows_of(report) == (40, 38, 2, 0)
    assert report.reasons == {"bad position": 1, "request_time is missing or not a time": 1}


def test_stray_id_in_an_integer_log_is_quarantined(case: Case) -> None:
    frame = case.log(400).assign(item_id=lambda f: f["item_id"].astype(str))
    frame.loc[3, "item_id"] = "abc"
    frame.loc[4, "item_id"] = None
    report = case.ingest(frame)
    assert rows_of(report) == (400, 398, 2, 0)
    assert set(report.reasons) == {
        "item_id is not an integer, the log's ids are",
        "item_id is missing",
    }


def test_all_rows_bad_is_an_error_that_keeps_the_evidence(case: Case) -> None:
    with pytest.raises(DataError, match=r"All 40 rows.*query is empty"):
        case.ingest(case.log().assign(query=" "))
    assert len(case.quarantine()) == 40
    assert not case.home.manifest.exists()


def test_string_ids_are_hashed_and_keep_their_text(case: Case) -> None:
    frame = case.log().assign(item_id=lambda f: "pin-" + f["item_id"].astype(str))
    items = case.items.assign(item_id="pin-" + case.items["item_id"].astype(str)).iloc[:5]
    report = case.ingest(frame, items, hash_seed=3)
    ids = report.manifest.item_ids
    table = case.catalogue()
    assert table["item_id"].tolist() == [ids.to_key(ref) for ref in table["item_ref"]]
    assert table["item_id"].is_monotonic_increasing
    assert set(case.events()["item_id"]) == set(table["item_id"])
    assert report.manifest.items_absent == 2
    assert set(table.loc[table["title"] == "", "item_ref"]) == {"pin-5", "pin-6"}


def test_catalogue_columns(case: Case) -> None:
    items = case.items.assign(
        price=[1.5, None, *range(5)], born=pd.Timestamp("2020-01-01"), genres="a|b"
    )
    mapping = {"category": "genres", "created_at": "born", "numeric": ["price"]}
    report = case.ingest(case.log(), items, items=mapping)
    schema = pq.read_schema(case.home.items)
    names = ["item_id", "item_ref", "title", "category", "created_at", "price"]
    assert schema.names == names
    assert schema.field("price").type == pa.float32()
    assert schema.field("created_at").type == pa.timestamp("us", "UTC")
    assert report.manifest.numeric == ("price",)
    assert case.catalogue()["item_ref"].tolist() == [str(i) for i in range(7)]


def test_legal_oddities(case: Case) -> None:
    frame = case.log().assign(user_id="only", action="tag").drop(columns=["request_id", "position"])
    frame = frame.drop(columns="request_time").rename(columns={"event_time": "timestamp"})
    report = case.ingest(frame, case.items.iloc[:0])
    manifest = report.manifest
    assert rows_of(report) == (40, 40, 0, 0)
    assert manifest.single_time
    assert not manifest.has_impressions
    assert manifest.users == 1
    assert manifest.items_absent == 7
    assert manifest.heads == {"engagement": ("tag",)}
    assert "one time only" in str(report)
    assert case.events()["request_id"].str.fullmatch("[0-9a-f]{16}").all()


def test_renamed_and_constant_actions(case: Case) -> None:
    renames = {"impression": "impression", "click": "save", "other": "click"}
    report = case.ingest(case.log(), actions=renames)
    assert report.manifest.actions == ("impression", "save")
    constant = case.ingest(case.log().drop(columns="action"), action="click", replace=True)
    assert constant.manifest.actions == ("click",)


def test_ranges_cover_a_file_once(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": range(1000)}), path, row_group_size=64)
    for size in (1, 63, 64, 65, 333, 1000):
        found: list[int] = []
        for start in range(0, 1000, size):
            for at, batch in read_range(RowRange(path, start, min(start + size, 1000))):
                assert batch["n"][0].as_py() == at
                found += batch["n"].to_pylist()
        assert found == list(range(1000)), size


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "mapping", "expected"),
    [
        ("bestbuy_xbox_search", "bestbuy", (42_220, 40_254, 37_899, 413, False)),
        ("ml10m_tag_search", "movielens_tags", (95_574, None, 4_009, 10_681, True)),
    ],
)
def test_real_logs(
    case: Case, folder: str, mapping: str, expected: tuple[int, int | None, int, int, bool]
) -> None:
    if "PRERANK_DATA" not in os.environ:
        pytest.skip("PRERANK_DATA names no folder of real logs")
    data = Path(os.environ["PRERANK_DATA"]) / folder
    chosen = load_mapping(ROOT / "examples" / f"{mapping}.yaml")
    report = ingest(data / "events.parquet", data / "items.parquet", case.home, chosen)
    rows, requests, users, items, single = expected
    manifest = report.manifest
    assert rows_of(report)[0] == rows
    assert requests in (None, manifest.requests)
    assert manifest.ids == "integer"
    assert manifest.single_time is single
    assert (manifest.users, manifest.items) == (users, items)
    assert manifest.items_absent == 0
    assert not manifest.has_impressions


def test_what_a_killed_ingest_left_is_of_no_consequence(case: Case) -> None:
    case.ingest(case.log().iloc[:30])
    home, first = case.home, case.home.log
    left = first.with_name(f"{home.log_id}-2") / "events" / "day=2024-03-01" / "part-00000.parquet"
    scratch = home.root / ".ingest" / "buckets" / "00000" / "new-0.arrow"
    for file in (left, scratch):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half a fi")
    case.ingest(case.log())
    assert len(case.events()) == 40
    assert home.log == first.with_name(f"{home.log_id}-2")
    assert not (home.root / ".ingest").exists()


def test_a_log_of_text_is_landed_by_tasks(case: Case, tmp_path: Path) -> None:
    plain, frame = case.ingest(case.log()), case.log()
    folder = tmp_path / "text"
    folder.mkdir()
    frame.iloc[:15].to_csv(folder / "1.csv.gz", index=False)
    frame.iloc[15:].to_json(folder / "2.jsonl", orient="records", lines=True, date_format="iso")
    with (folder / "2.jsonl").open("a") as file:
        file.write('{"request_id": "r')
    chosen = LogMapping(name="text")
    report = ingest(folder, tmp_path / "items.parquet", Home.at(tmp_path / "other"), chosen)
    assert rows_of(report) == (41, 40, 1, 0)
    assert report.reasons == {"the line is broken JSON": 1}
    assert report.manifest.fingerprint == plain.manifest.fingerprint
    packed = (folder / "1.csv.gz").read_bytes()
    (folder / "1.csv.gz").write_bytes(packed[:-20])
    with pytest.raises(DataError, match=r"1\.csv\.gz cannot be read after line"):
        ingest(folder, tmp_path / "items.parquet", Home.at(tmp_path / "third"), chosen)


def test_a_home_with_its_log_in_the_root_is_read_and_added_to(case: Case) -> None:
    case.ingest(case.log().iloc[:30])
    root = case.home.root
    for part in list(case.home.log.iterdir()):
        part.rename(root / part.name)
    shutil.rmtree(root / "log")
    assert len(case.events()) == 30
    assert LogManifest.load(case.home).events == 30
    case.ingest(case.log())
    assert len(case.events()) == 40
    assert (root / "log" / "plain-1" / "events").exists()
    case.ingest(case.log())
    assert not (root / "events").exists()
    assert len(case.events()) == 40


def test_the_log_before_stays_for_those_who_read_it(case: Case) -> None:
    case.ingest(case.log().iloc[:30])
    reader = case.home.pin()
    case.ingest(case.log())
    assert (LogManifest.load(reader).events, LogManifest.load(case.home).events) == (30, 40)
    assert len(pads.dataset(str(reader.events)).to_table()) == 30
