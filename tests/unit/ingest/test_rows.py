"""Rows are judged as a schema of pandera, written independently, judges them, to the word."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prerank.core.ids import SEPARATOR, ItemIds, hash_all, hash_column
from prerank.ingest.rows import RowPlan, canonical, good_rows, item_keys, reasons

NAMES = (
    "request_time",
    "event_time",
    "request_id",
    "user_id",
    "query",
    "item_id",
    "action",
    "position",
    "retriever_rank",
    "retriever_score",
)
PLAN = RowPlan({n: n for n in NAMES}, None, {"c": "click", "i": "x"}, None, (), ItemIds("integer"))
EARLIEST, LATEST = datetime(1971, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def schema() -> pandera.DataFrameSchema:
    """Columns and checks in the order in which a reason is chosen."""

    def text(name: str, empty: str = "{} is empty") -> pandera.Column:
        check = pandera.Check(lambda s: s != "", error=empty.format(name))
        return pandera.Column(None, check, nullable=False)

    def time(name: str) -> pandera.Column:
        error = f"{name} before 1971 or after 2199: check time_unit"
        within = pandera.Check.in_range(EARLIEST, LATEST, include_max=False, error=error)
        return pandera.Column(None, within, nullable=False)

    def count(name: str) -> pandera.Column:
        error = f"bad {name}"
        within = pandera.Check.in_range(0, 2**31 - 1, error=error)
        whole = pandera.Check(lambda s: s == np.floor(s), error=error)
        return pandera.Column(None, [within, whole], nullable=True)

    late = pandera.Check.ge(0, error="event_time before request_time")
    fits = pandera.Check(lambda s: s, error="item_id is not an integer, the log's ids are")
    finite = pandera.Check(lambda s: np.isfinite(s), error="retriever_score is no finite number")
    return pandera.DataFrameSchema(
        {
            "request_time": time("request_time"),
            "event_time": time("event_time"),
            "delay_us": pandera.Column(None, late, nullable=True),
            "request_id": text("request_id"),
            "user_id": text("user_id"),
            "query": text("query", "query is empty after normalisation"),
            "item_id": text("item_id"),
            "item_fits": pandera.Column(None, fits),
            "action": text("action"),
            "position": count("position"),
            "retriever_rank": count("retriever_rank"),
            "retriever_score": pandera.Column(None, finite, nullable=True),
        }
    )


SCHEMA = schema()


def judged(rows: pa.Table) -> dict[int, str]:
    """What pandera says of the canonical fields."""
    frame = rows.to_pandas()
    frame["delay_us"] = (frame["event_time"] - frame["request_time"]) / pd.Timedelta("1us")
    try:
        SCHEMA.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
    else:
        return {}
    order = list(SCHEMA.columns)
    found: dict[int, tuple[int, str]] = {}
    for column, check, at in zip(cases["column"], cases["check"], cases["index"], strict=True):
        timely = " or not a time" * column.endswith("_time")
        reason = f"{column} is missing{timely}" if check == "not_nullable" else check
        rank = order.index(column)
        if int(at) not in found or rank < found[int(at)][0]:
            found[int(at)] = rank, reason
    return {row: reason for row, (_, reason) in found.items()}


TIMES = ["2024-03-01T10:00:00Z", "2024-03-01T10:00:05Z", "1970-06-01", "2200-01-01", "soon", None]
NUMBERS = ["0", "7", "2147483647", "2147483648", "-1", "1.5", "nan", "inf", "top", None]
CHOICES: dict[str, list[Any]] = {
    "request_time": TIMES,
    "event_time": TIMES,
    "request_id": ["r", "", None],
    "user_id": ["u", "", None],
    "query": ["Q", " \t", "", None],
    "item_id": ["12", "12.0", "012", "x", "", None],
    "action": ["c", "i", "other", "", None],
    "position": NUMBERS,
    "retriever_rank": NUMBERS,
    "retriever_score": ["0.5", "1e39", "-inf", "nan", "high", None],
}
ROW = st.tuples(*(st.sampled_from([*v[:1] * 6, *v[1:]]) for v in CHOICES.values()))


@settings(max_examples=8)
@given(st.lists(ROW, min_size=40, max_size=60))
def test_reasons_are_those_of_the_schema(rows: list[tuple[Any, ...]]) -> None:
    columns = zip(*rows, strict=True)
    batch = pa.table({n: pa.array(c, pa.string()) for n, c in zip(CHOICES, columns, strict=True)})
    found = canonical(batch, PLAN)
    bad = reasons(found)
    assert bad == dict(sorted(judged(found).items()))
    assert len(good_rows(found, bad, PLAN)) == len(rows) - len(bad)


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_a_column_is_hashed_as_its_texts_are(texts: list[str | None]) -> None:
    np.testing.assert_array_equal(hash_column(pa.array(texts, pa.string())), hash_all(texts))


def test_an_integer_is_an_id_as_it_is_written_and_with_a_point_and_zero() -> None:
    texts = ["7", "7.0", "-7.000", "07", "+7", "7.5", " 7", "9223372036854775808", "x", "", None]
    for part in (texts, texts[:3]):
        keys, fits = item_keys(pa.array(part, pa.string()), ItemIds("integer"))
        assert keys.tolist() == [7, 7, -7, *[0] * 8][: len(part)]
        # Null counts as fitting: it is missing, and judged as that.
        assert fits.tolist() == [*[True] * 3, *[False] * 7, True][: len(part)]


@pytest.mark.parametrize("given_id", [True, False])
def test_a_request_without_an_id_has_the_hash_of_query_time_and_user(given_id: bool) -> None:
    names = {n: n for n in ("request_time", "event_time", "user_id", "query", "item_id")}
    plan = RowPlan(names, None, None, "click", (), ItemIds("integer"))
    row = {"request_time": TIMES[0], "event_time": TIMES[0], "user_id": "u", "query": "A b"}
    batch = pa.Table.from_pylist([row | {"item_id": 3}, row | {"item_id": 4}])
    if given_id:
        plan.columns["request_id"] = "request_id"
        batch = batch.append_column("request_id", pa.array([12.0, 13.0]))
    ids = good_rows(canonical(batch, plan), {}, plan)["request_id"].to_pylist()
    text = SEPARATOR.join(("a b", "1709287200000000", "u"))
    expected = f"{int(hash_all([text]).view(np.uint64)[0]):016x}"
    assert ids == (["12", "13"] if given_id else [expected, expected])
