"""Ingest on a local Ray. The caller may have set RAY_AUTH_MODE; it is left as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import ray

from prerank.catalogue import load_catalogue
from prerank.errors import ConfigError, DataError
from prerank.examples import shown_candidates
from prerank.features import schema_of
from prerank.home import Home
from prerank.ids import ItemIds, event_id
from prerank.ingest import ingest
from prerank.ingest_report import IngestReport
from prerank.ingest_stages import read_range
from prerank.log import LogMapping, load_mapping
from prerank.requests import read_requests

ROOT = Path(__file__).parents[2]
START = pd.Timestamp("2024-03-01T23:59:00Z")


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "platform")))
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield
    ray.shutdown()


def log(rows: int = 40) -> pd.DataFrame:
    """A clean canonical log: two rows a request, one minute apart, over two days."""
    at = pd.Series(range(rows))
    asked = START + pd.to_timedelta(at // 2, unit="min")
    return pd.DataFrame(
        {
            "request_id": "r" + (at // 2).astype(str),
            "request_time": asked,
            "event_time": asked + pd.to_timedelta(at % 2 * 5, unit="s"),
            "user_id": "u" + (at // 2 % 3).astype(str),
            "query": "  Red   SHOES " + (at // 2 % 4).astype(str),
            "item_id": at % 7,
            "action": ["impression" if i % 2 == 0 else "click" for i in at],
            "position": at % 2 + 1,
        }
    )


ITEMS = pd.DataFrame({"item_id": range(7), "title": [f"Item {i}" for i in range(7)]})


class Case:
    """Writes frames, ingests them and reads what came of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, Home.at(root / "home")

    def ingest(
        self,
        events: pd.DataFrame | list[pd.DataFrame],
        catalogue: pd.DataFrame = ITEMS,
        /,
        **mapping: Any,
    ) -> IngestReport:
        folder = self.root / "log"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for at, part in enumerate(events if isinstance(events, list) else [events]):
            part.to_parquet(folder / f"{at}.parquet")
        catalogue.to_parquet(self.root / "items.parquet")
        chosen = LogMapping.model_validate(mapping)
        return ingest(folder, self.root / "items.parquet", self.home, chosen)

    def events(self) -> pd.DataFrame:
        return pads.dataset(str(self.home.events)).to_table().to_pandas()

    def items(self) -> pd.DataFrame:
        return pq.read_table(self.home.items).to_pandas()

    def quarantine(self) -> pd.DataFrame:
        return pads.dataset(str(self.home.quarantine)).to_table().to_pandas()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def rows_of(report: IngestReport) -> tuple[int, int, int, int]:
    rows = report.manifest["rows"]
    assert rows["in"] == rows["out"] + rows["quarantined"] + rows["duplicates"]
    return rows["in"], rows["out"], rows["quarantined"], rows["duplicates"]


def test_a_clean_log(case: Case) -> None:
    report = case.ingest(log().assign(country=["de", None] * 20), segments=["country"])
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
    late = log().assign(event_time=lambda f: f["event_time"] + pd.Timedelta(hours=5))
    case.ingest(late)
    found = pads.dataset(str(case.home.events), partitioning="hive").to_table().to_pandas()
    assert (found.groupby("request_id")["day"].nunique() == 1).all()


def test_repeated_events_count_once(case: Case) -> None:
    report = case.ingest([log(), log().iloc[:6], log().iloc[10:12]])
    assert rows_of(report) == (48, 40, 0, 8)
    assert case.events()["event_id"].is_unique


def test_given_event_ids_decide_what_is_repeated(case: Case) -> None:
    frame = log().assign(event_id=[f"e{i // 4}" for i in range(40)])
    frame.loc[0, "event_id"] = None
    report = case.ingest(frame)
    assert rows_of(report) == (40, 11, 0, 29)
    kept = case.events().sort_values("event_time")
    assert kept["event_time"].iloc[0] == START  # of a repeated event the earliest stays


def test_fingerprint_is_of_content_not_of_files(case: Case) -> None:
    one = case.ingest(log())
    shuffled = log().sample(frac=1.0, random_state=1)
    two = case.ingest([shuffled.iloc[:13], shuffled.iloc[13:], shuffled.iloc[:5]])
    assert one.manifest["fingerprint"] == two.manifest["fingerprint"]
    changed = case.ingest(log().assign(user_id="u9"))
    assert changed.manifest["fingerprint"] != one.manifest["fingerprint"]


def test_many_pieces_and_buckets_change_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.concat([log(), log()])
    frame.iloc[50, frame.columns.get_loc("query")] = ""  # a repeat that is bad: one duplicate less
    one = case.ingest(frame)
    expected = case.events().sort_values("event_id", ignore_index=True)
    monkeypatch.setattr("prerank.ingest.SMALL_PIECE", 7)
    monkeypatch.setattr("prerank.ingest.LARGE_PIECE", 7)
    monkeypatch.setattr("prerank.ingest.BUCKET_ROWS", 9)
    many = case.ingest([frame.iloc[:33], frame.iloc[33:]])
    assert rows_of(many) == rows_of(one) == (80, 40, 1, 39)
    assert many.manifest["fingerprint"] == one.manifest["fingerprint"]
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
    frame = log().assign(unmapped="kept", position=lambda f: f["position"].astype(float))
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
    frame = log().assign(
        request_time=lambda f: f["request_time"].astype(str),
        position=lambda f: f["position"].astype(str),
    )
    frame.loc[3, "request_time"] = "soon"
    frame.loc[4, "position"] = "top"
    report = case.ingest(frame)
    assert rows_of(report) == (40, 38, 2, 0)
    assert report.reasons == {"bad position": 1, "request_time is missing or not a time": 1}


def test_stray_id_in_an_integer_log_is_quarantined(case: Case) -> None:
    frame = log(400).assign(item_id=lambda f: f["item_id"].astype(str))
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
        case.ingest(log().assign(query=" "))
    assert len(case.quarantine()) == 40
    assert not case.home.manifest.exists()


def test_string_ids_are_hashed_and_keep_their_text(case: Case) -> None:
    frame = log().assign(item_id=lambda f: "pin-" + f["item_id"].astype(str))
    items = ITEMS.assign(item_id="pin-" + ITEMS["item_id"].astype(str)).iloc[:5]
    report = case.ingest(frame, items, hash_seed=3)
    ids = ItemIds.from_manifest(report.manifest)
    table = case.items()
    assert table["item_id"].tolist() == [ids.to_key(ref) for ref in table["item_ref"]]
    assert table["item_id"].is_monotonic_increasing
    assert set(case.events()["item_id"]) == set(table["item_id"])
    assert report.manifest["items_absent"] == 2
    assert set(table.loc[table["title"] == "", "item_ref"]) == {"pin-5", "pin-6"}


def test_catalogue_columns(case: Case) -> None:
    items = ITEMS.assign(
        price=[1.5, None, *range(5)], born=pd.Timestamp("2020-01-01"), genres="a|b"
    )
    mapping = {"category": "genres", "created_at": "born", "numeric": ["price"]}
    report = case.ingest(log(), items, items=mapping)
    schema = pq.read_schema(case.home.items)
    names = ["item_id", "item_ref", "title", "category", "created_at", "price"]
    assert schema.names == names
    assert schema.field("price").type == pa.float32()
    assert schema.field("created_at").type == pa.timestamp("us", "UTC")
    assert report.manifest["numeric"] == ["price"]
    assert case.items()["item_ref"].tolist() == [str(i) for i in range(7)]


VECTORS = [[1.0, 2.0], None, [3.0, float("nan")], [5.0, float("inf")], [], [7, 8], [9, 10]]


def test_embeddings_are_kept_and_bad_ones_set_aside(case: Case) -> None:
    listed = ITEMS.assign(vec=VECTORS)
    report = case.ingest(log(), listed, items={"embedding": "vec"})
    found = [None if v is None else np.frombuffer(v, "<f4").tolist()
             for v in case.items()["embedding"]]  # fmt: skip
    assert found == [[1, 2], None, None, None, None, [7, 8], [9, 10]]
    assert report.manifest["embedding"] == ["vec"]
    assert "2 embeddings hold NaN or infinite" in str(report)
    bad = case.quarantine()
    assert bad["source"].tolist() == ["items.parquet:2", "items.parquet:3"]
    assert set(bad["reason"]) == {"embedding holds NaN or an infinite number"}
    catalogue = load_catalogue(case.home, report.manifest)
    assert catalogue.embedding.shape == (7, 2)
    assert np.isnan(catalogue.embedding).all(axis=1).tolist() == [False, *[True] * 4, *[False] * 2]
    assert schema_of(report.manifest).item_embedding == ("vec",)

    pairs = [v if v else [None, None] for v in VECTORS]
    several = ITEMS.assign(x=[p[0] for p in pairs], y=[p[1] for p in pairs])
    other = case.ingest(log(), several, items={"embedding": ["x", "y"]})
    again = load_catalogue(case.home, other.manifest).embedding
    np.testing.assert_array_equal(again[:2], catalogue.embedding[:2])
    np.testing.assert_array_equal(again[4:], catalogue.embedding[4:])


def test_another_embedding_is_another_log(case: Case) -> None:
    prints = [
        case.ingest(log(), ITEMS.assign(vec=[[1.0, x]] * 7), items={"embedding": "vec"}).manifest[
            "fingerprint"
        ]
        for x in (2.0, 3.0, 2.0)
    ]
    assert prints[0] == prints[2] != prints[1]


def test_the_retrievers_words_reach_the_candidates(case: Case) -> None:
    frame = log().assign(place=[float(i % 5) for i in range(40)], retriever_score=0.25)
    clicks = frame["action"] == "click"
    frame.loc[clicks, "place"] = None
    frame.loc[2:3, "retriever_score"] = None
    frame.loc[4, "retriever_score"] = float("inf")
    frame.loc[6, "place"] = 1.5
    report = case.ingest(frame, events={"retriever_rank": "place"})
    assert report.reasons == {"bad retriever_rank": 1, "retriever_score is no finite number": 1}
    manifest = report.manifest
    schema = schema_of(manifest)
    assert schema.retriever == ("score", "rank")
    assert schema.cross[-3:] == ("retriever:score", "retriever:log_rank", "retriever:absent")
    files = sorted(case.home.events.glob("day=*/*.parquet"))
    requests = read_requests(files, manifest)
    told = shown_candidates(requests).retrieved
    assert told is not None
    assert told.dtype == np.float32
    found = dict(zip(requests["request_id"].to_pylist(),
                     np.split(told, requests["items"].combine_chunks().offsets[1:-1]),
                     strict=True))  # fmt: skip
    nan = float("nan")
    # By position: the item shown, then the one clicked, whose row names no rank.
    np.testing.assert_array_equal(found["r0"], np.array([[0.25, 0], [0.25, nan]], np.float32))
    np.testing.assert_array_equal(found["r1"], np.array([[nan, 2], [nan, nan]], np.float32))
    plain = case.ingest(log())
    assert plain.manifest["retriever"] == []
    files = sorted(case.home.events.glob("day=*/*.parquet"))
    assert shown_candidates(read_requests(files, plain.manifest)).retrieved is None


def test_without_impressions_the_retriever_would_tell_the_label(case: Case) -> None:
    report = case.ingest(log().assign(action="click", retriever_score=1.0))
    assert report.manifest["retriever"] == []
    assert "the log has no impressions" in str(report)


def test_legal_oddities(case: Case) -> None:
    frame = log().assign(user_id="only", action="tag").drop(columns=["request_id", "position"])
    frame = frame.drop(columns="request_time").rename(columns={"event_time": "timestamp"})
    report = case.ingest(frame, ITEMS.iloc[:0])
    manifest = report.manifest
    assert rows_of(report) == (40, 40, 0, 0)
    assert manifest["single_time"]
    assert not manifest["has_impressions"]
    assert manifest["users"] == 1
    assert manifest["items_absent"] == 7
    assert manifest["heads"] == {"engagement": ["tag"]}
    assert "one time only" in str(report)
    assert case.events()["request_id"].str.fullmatch("[0-9a-f]{16}").all()


def test_renamed_and_constant_actions(case: Case) -> None:
    renames = {"impression": "impression", "click": "save", "other": "click"}
    report = case.ingest(log(), actions=renames)
    assert report.manifest["actions"] == ["impression", "save"]
    constant = case.ingest(log().drop(columns="action"), action="click")
    assert constant.manifest["actions"] == ["click"]


def corrupt(case: Case) -> None:
    (case.root / "log").mkdir()
    (case.root / "log" / "0.parquet").write_bytes(b"PAR1 this is not Parquet PAR1")
    ITEMS.to_parquet(case.root / "items.parquet")
    ingest(case.root / "log", case.root / "items.parquet", case.home, LogMapping())


def numeric_times(frame: pd.DataFrame) -> pd.DataFrame:
    seconds = {n: frame[n].astype("int64") // 10**9 for n in ("request_time", "event_time")}
    return frame.assign(**seconds)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "empty log": (lambda c: c.ingest(log(0)), DataError, "is empty"),
    "missing column": (
        lambda c: c.ingest(log().rename(columns={"query": "quary"})),
        ConfigError,
        "no column 'query'.*Did you mean 'quary'.*user_id",
    ),
    "mapped column missing": (
        lambda c: c.ingest(log(), events={"query": "terms"}),
        ConfigError,
        "no column 'terms'",
    ),
    "missing catalogue column": (
        lambda c: c.ingest(log(), items={"category": "genre"}),
        ConfigError,
        "no column 'genre'",
    ),
    "missing embedding": (
        lambda c: c.ingest(log(), items={"embedding": "vec"}),
        ConfigError,
        "no column 'vec'",
    ),
    "embeddings of two dimensions": (
        lambda c: c.ingest(
            log(), ITEMS.assign(vec=[[1.0, 2.0]] * 6 + [[1.0]]), items={"embedding": "vec"}
        ),
        DataError,
        "vectors of 1 and 2 numbers",
    ),
    "embedding of text": (
        lambda c: c.ingest(log(), ITEMS.assign(vec=ITEMS["title"]), items={"embedding": "vec"}),
        ConfigError,
        "'vec' is (large_)?string",
    ),
    "no embedding at all": (
        lambda c: c.ingest(
            log(),
            ITEMS.assign(vec=pd.Series([None] * 7, dtype=object).map(lambda _: [])),
            items={"embedding": "vec"},
        ),
        (ConfigError, DataError),
        "'vec'",
    ),
    "missing segment": (lambda c: c.ingest(log(), segments=["country"]), ConfigError, "country"),
    "files that differ": (
        lambda c: c.ingest([log(), log().drop(columns="position")]),
        ConfigError,
        "only one has 'position'",
    ),
    "unreadable file": (corrupt, DataError, r"0\.parquet cannot be read as Parquet"),
    "unknown action": (
        lambda c: c.ingest(log(), actions={"click": "click"}),
        ConfigError,
        "Unknown action 'impression'.*actions:",
    ),
    "reserved action": (lambda c: c.ingest(log().assign(action="engage")), ConfigError, "rename"),
    "only exposure": (lambda c: c.ingest(log().assign(action="view")), DataError, "no head"),
    "ids as actions": (
        lambda c: c.ingest(log(300).assign(action=[f"a{i}" for i in range(300)])),
        ConfigError,
        "distinct values",
    ),
    "times in 1970": (
        lambda c: c.ingest(numeric_times(log()), time_unit="ms"),
        ConfigError,
        "1970.*time_unit: s",
    ),
    "times in 2200": (
        lambda c: c.ingest(
            numeric_times(log()).assign(request_time=lambda f: f["request_time"] * 1000),
            time_unit="s",
        ),
        ConfigError,
        "time_unit: ms",
    ),
    "no time unit": (lambda c: c.ingest(numeric_times(log())), ConfigError, "time_unit: s"),
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
        r"no \*\.parquet file",
    ),
    "integer log, text catalogue": (
        lambda c: c.ingest(log(), ITEMS.assign(item_id="pin-" + ITEMS["title"])),
        DataError,
        "must not be mixed",
    ),
    "text log, integer catalogue": (
        lambda c: c.ingest(log().assign(item_id="pin")),
        DataError,
        "'pin'",
    ),
    "files of two id types": (
        lambda c: c.ingest([log(), log().assign(item_id=lambda f: f["item_id"].astype(str))]),
        DataError,
        "must not be mixed",
    ),
    "item twice": (
        lambda c: c.ingest(log(), pd.concat([ITEMS, ITEMS.assign(title="other")])),
        DataError,
        "stands twice",
    ),
    "numeric column that is none": (
        lambda c: c.ingest(log(), ITEMS.assign(price="dear"), items={"numeric": ["price"]}),
        ConfigError,
        "'price'.*not numeric",
    ),
    "session mapped as request": (
        lambda c: c.ingest(log().assign(request_id="s1")),
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
    case.ingest(log())
    with pytest.raises(DataError):
        case.ingest(log().assign(request_id="s1"))
    assert len(case.events()) == 40
    assert case.home.manifest.exists()


def test_ranges_cover_a_file_once(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": range(1000)}), path, row_group_size=64)
    for size in (1, 63, 64, 65, 333, 1000):
        found: list[int] = []
        for start in range(0, 1000, size):
            for at, batch in read_range(path, start, min(start + size, 1000)):
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
    assert requests in (None, manifest["requests"])
    assert manifest["ids"] == "integer"
    assert manifest["single_time"] is single
    assert (manifest["users"], manifest["items"]) == (users, items)
    assert manifest["items_absent"] == 0
    assert not manifest["has_impressions"]
