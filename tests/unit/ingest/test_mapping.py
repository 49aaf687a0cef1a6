"""The mapping contract, ids and times, without Ray."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.online_log import MANIFEST

from interactrank.features.text import normalise
from prerank.core.errors import ConfigError, DataError
from prerank.core.ids import ItemIds, canonical_integer, event_id, kind_of
from prerank.ingest.mapping import LogMapping, load_mapping
from prerank.ingest.parsing import check_times, to_text, to_time

EXAMPLES = Path(__file__).parents[3] / "examples"
CANONICAL = ["request_id", "request_time", "event_time", "user_id", "query", "item_id", "action"]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    return path


def test_examples_load() -> None:
    bestbuy = load_mapping(EXAMPLES / "bestbuy.yaml")
    assert bestbuy.valid_from_of() == {"title": "2011-10-07T13:53:26Z"}
    assert bestbuy.items.created_at is None
    assert load_mapping(EXAMPLES / "movielens_tags.yaml").items.category == "genres"


def test_no_mapping_is_needed_for_canonical_names() -> None:
    resolved = load_mapping(None).event_columns([*CANONICAL, "extra"], "log")
    assert resolved.columns == {name: name for name in CANONICAL}
    assert not resolved.single_time


@pytest.mark.parametrize("time", ["timestamp", "request_time", "event_time"])
def test_one_time_serves_as_both(time: str) -> None:
    resolved = LogMapping().event_columns(["user_id", "query", "item_id", "action", time], "log")
    assert resolved.single_time
    assert resolved.columns["request_time"] == resolved.columns["event_time"] == time


def test_missing_column_names_it_its_neighbour_and_what_there_is() -> None:
    present = ["request_time", "user_id", "querry", "item_id", "action"]
    with pytest.raises(ConfigError, match=r"no column 'query'.*Did you mean 'querry'.*item_id"):
        LogMapping().event_columns(present, "log")
    with pytest.raises(ConfigError, match="no column 'timestamp'"):
        LogMapping().event_columns(["user_id", "query", "item_id", "action"], "log")


def test_explicit_null_switches_a_canonical_column_off() -> None:
    mapping = LogMapping.model_validate({"events": {"request_id": None}})
    assert "request_id" not in mapping.event_columns(CANONICAL, "log").columns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evnts: {}", "unknown key `evnts`.*did you mean `events`"),
        ("events: {user: u}", "unknown key `events.user`"),
        ("action: click\naction: save", "'action' is given twice"),
        ("a: [", "not valid YAML"),
        ("[1, 2]", "wrong"),
        ("time_unit: minutes", "time_unit"),
        ("valid_from: {title: 2011-10-07T13:53:26}", "timezone"),
        ("valid_from: {colour: 2011-10-07T13:53:26Z}", "unknown key"),
        ("events: {timestamp: t, request_time: r}", "only one time"),
        ("action: click\nactions: {c: click}", "not both"),
        ("heads: {seen: [impression]}", "passive"),
        ("heads: {}", "heads"),
        ("action: engage", "reserved"),
        ("actions: {c: 'click:7d'}", "pattern"),
        ("segments: [country, country]", "listed twice"),
        ("segments: [query]", "canonical column"),
        ("segments: [retriever_rank]", "canonical column"),
        ("segments: [Query]", "canonical column"),
        ("segments: [country, Country]", "listed twice"),
        ("items: {embedding: [v, v]}", "listed twice"),
        ("items: {embedding: title}", "canonical column"),
        ("items: {embedding: 7}", "items.embedding"),
        ("label_window_hours: 0", "label_window_hours"),
    ],
)
def test_wrong_mapping_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_mapping(written(tmp_path, text))


def test_missing_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        load_mapping(tmp_path / "nowhere.yaml")


def test_heads_keep_their_order_and_lose_what_does_not_occur() -> None:
    assert LogMapping().heads_of(["impression", "tag"]) == {"engagement": ("tag",)}
    mapping = LogMapping.model_validate({"heads": {"save": ["save"], "any": ["save", "click"]}})
    assert list(mapping.heads_of(["save", "click"])) == ["save", "any"]
    assert mapping.heads_of(["click", "view"]) == {"any": ("click",)}


def test_weights_match_engagements_before_exposure() -> None:
    weights = LogMapping().weights_of(["impression", "click", "tag", "long_click"])
    assert list(weights.items()) == [
        ("long_click", 20.0),
        ("click", 1.0),
        ("tag", 1.0),
        ("impression", 5.0),
    ]


@given(st.text())
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_integer_ids_are_used_as_they_are(value: int) -> None:
    ids = ItemIds("integer")
    assert ids.to_key(str(value)) == value
    if abs(value) <= 2**53:
        assert ids.to_key(value) == value
    else:
        with pytest.raises(DataError, match="send it as a string"):
            ids.to_key(value)


@given(st.text(), st.integers(0, 2**63 - 1))
def test_string_ids_hash_to_int64_by_seed(text: str, seed: int) -> None:
    key = ItemIds("string", seed).to_key(text)
    assert key == replace(MANIFEST, ids="string", hash_seed=seed).item_ids.to_key(text)
    assert -(2**63) <= key < 2**63


def test_the_hash_never_changes() -> None:
    assert ItemIds("string").to_key("") == 0x2D06800538D394C2
    assert event_id("r1", 7, "click", 1) == event_id("r1", 7, "click", 1)
    assert event_id("r1", 7, "click", 1) != event_id("r1", 7, "click", 2)


@pytest.mark.parametrize("text", ["", "007", "+1", "-0", "1.0", " 1", "٣", str(2**63), "1" * 30])
def test_only_canonical_integers_count(text: str) -> None:
    assert canonical_integer(text) is None
    with pytest.raises(DataError):
        ItemIds("integer").to_key(text)


@pytest.mark.parametrize("value", [True, 12, 1.5, None])
def test_other_kinds_are_refused(value: object) -> None:
    with pytest.raises(DataError):
        ItemIds("string").to_key(value)  # type: ignore[arg-type]


def test_a_collision_names_both_ids_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"'7' and '7' share the hash.*hash_seed"):
        ItemIds("string").keys(["7", "8", "7"])


@pytest.mark.parametrize(
    ("catalogue", "log", "ints", "kind"),
    [
        (["1", "2"], {"1": 3}, (False, False), "integer"),
        (["1", "2"], {}, (True, True), "integer"),
        (["1"], {"1": 999, "x": 1}, (True, False), "integer"),
        (["1", "b"], {"1": 3}, (False, False), "string"),
        ([], {"1": 3}, (False, False), "integer"),
        ([], {"1": 3, "x": 1}, (False, False), "string"),
    ],
)
def test_kind_of_ids(
    catalogue: list[str], log: dict[str, int], ints: tuple[bool, bool], kind: str
) -> None:
    assert kind_of(catalogue, log, catalogue_ints=ints[0], log_ints=ints[1]) == kind


@pytest.mark.parametrize(
    ("catalogue", "log", "ints"),
    [
        (["1", "b"], {}, (False, True)),
        (["1"], {"x": 3, "1": 1}, (True, False)),
        (["1"], {"007": 3}, (False, False)),
    ],
)
def test_mixed_ids_are_refused(
    catalogue: list[str], log: dict[str, int], ints: tuple[bool, bool]
) -> None:
    with pytest.raises(DataError):
        kind_of(catalogue, log, catalogue_ints=ints[0], log_ints=ints[1])


MOMENT = datetime(2011, 10, 7, 13, 53, 26, tzinfo=UTC)
SECONDS = int(MOMENT.timestamp())


@pytest.mark.parametrize(
    ("array", "unit"),
    [
        (pa.array([SECONDS]), "s"),
        (pa.array([float(SECONDS), float("nan")]), "s"),
        (pa.array([SECONDS * 10**3]), "ms"),
        (pa.array([SECONDS * 10**6]), "us"),
        (pa.array([SECONDS * 10**9]), "ns"),
        (pa.array(["2011-10-07T13:53:26Z", "soon"]), None),
        (pa.array(["2011-10-07 15:53:26+02:00", None]), None),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ns")), None),
        (pa.array([MOMENT], pa.timestamp("ns", "Europe/Berlin")), None),
        (pa.array(["2011-10-07T13:53:26Z"]).dictionary_encode(), None),
    ],
)
def test_times_of_any_type(array: pa.Array, unit: str | None) -> None:
    times = to_time(array, unit)
    assert times.type == pa.timestamp("us", "UTC")
    assert times.cast(pa.int64()).to_pylist() == [SECONDS * 10**6] + [None] * (len(array) - 1)


@pytest.mark.parametrize(
    ("array", "unit", "message"),
    [
        (pa.array([SECONDS * 1000]), "us", "year 1970.*time_unit: ms"),
        (pa.array([SECONDS]), "ms", "year 1970.*time_unit: s"),
        (pa.array([SECONDS * 10**6]), "s", "time_unit: us"),
        (pa.array([SECONDS * 1000]), "s", "time_unit: ms"),
        (pa.array([SECONDS]), None, "holds numbers.*time_unit: s"),
        (pa.array([0, 5], pa.timestamp("us")), None, "year 1970"),
        (pa.array(["yesterday"]), None, "holds no times.*yesterday"),
    ],
)
def test_times_that_cannot_be_meant(array: pa.Array, unit: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_times(array, "t", unit)


def test_text_of_numbers() -> None:
    assert to_text(pa.array([12.0, None, np.nan, 12.5])).to_pylist() == ["12", None, None, "12.5"]
    assert to_text(pa.array([7, None], pa.int8())).to_pylist() == ["7", None]


def test_the_mapping_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "features.md").read_text()
    snippet = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "mapping.yaml").write_text(snippet)
    mapping = load_mapping(tmp_path / "mapping.yaml")
    assert mapping.segments == ("country", "device")
    assert mapping.items.embedding == ("vector",)
    assert mapping.valid_from_of() == {"embedding": "2024-03-01T00:00:00Z"}
    own = ["bm25", "place", "country", "device", "price", "distance"]
    events = mapping.event_columns([*CANONICAL, *own], "log")
    assert mapping.candidate_features == ("price", "distance")
    assert events.columns["candidate_price"] == "price"
    assert events.columns["retriever_score"] == "bm25"
    assert events.columns["retriever_rank"] == "place"
    items = mapping.item_columns(["item_id", "price", "vector"], "items")
    assert items["vector"] == "vector"
