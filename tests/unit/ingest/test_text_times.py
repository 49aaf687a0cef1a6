"""Times in text: ISO 8601 in any usual form, numbers with a unit, and what nobody can read."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from prerank.core.errors import ConfigError
from prerank.ingest.parsing import check_times, to_time

MOMENT = datetime(2018, 4, 3, 17, 5, 9, 250_000, tzinfo=UTC)
MICROS = int(MOMENT.timestamp()) * 1_000_000 + 250_000
ISO = [
    "2018-04-03T17:05:09.25Z",
    "2018-04-03 17:05:09.250000",
    "2018-04-03T17:05:09.250000123Z",
    "2018-04-03T19:05:09.25+02:00",
    "2018-04-03 19:05:09.25+0200",
    "2018-04-03 19:05:09.25+02",
    "2018-04-03 13:05:09.25 -0400",
    "2018-04-03 17:05:09.25 UTC",
    "2018/04/03 17:05:09.25",
    "20180403T170509.25Z",
]


@pytest.mark.parametrize("unit", [None, "ms"])
@pytest.mark.parametrize("text", ISO)
def test_iso_times_of_any_usual_form(text: str, unit: str | None) -> None:
    array = pa.array([text, None])
    check_times(array, "t", unit)
    assert to_time(array, unit).to_pylist() == [MOMENT, None]


def test_forms_may_be_mixed_and_a_date_is_its_midnight() -> None:
    found = to_time(pa.array([*ISO, *ISO[1:2], "2018-04-03", "soon", None]), None).to_pylist()
    midnight = MOMENT.replace(hour=0, minute=0, second=0, microsecond=0)
    assert found == [MOMENT] * (len(ISO) + 1) + [midnight, None, None]


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("s", f"{MICROS / 1e6}"),
        ("ms", f"{MICROS // 1_000}"),
        ("ms", f"{MICROS // 1_000}.0"),
        ("ms", "1.52277510925e12"),
        ("us", f"{MICROS}"),
        ("ns", f"{MICROS}999"),
    ],
)
def test_numbers_in_text_have_the_unit_of_the_mapping(unit: str, text: str) -> None:
    assert to_time(pa.array([text, None]), unit).to_pylist() == [MOMENT, None]
    mixed = to_time(pa.array([ISO[3], text, "soon"]), unit)
    assert mixed.to_pylist() == [MOMENT, MOMENT, None]


@pytest.mark.parametrize(
    ("texts", "unit", "message"),
    [
        (["03/04/2018"], None, r"'03/04/2018'.*day from the month.*2018-04-03"),
        ([ISO[0], "3.4.18 17:05"], None, "day from the month"),
        (["03-04-2018 17:05:09"], "ms", "day from the month"),
        ([f"{MICROS}"], None, "holds numbers.*time_unit: us"),
        ([ISO[0], f"{MICROS // 1_000_000}"], None, "holds numbers.*time_unit: s"),
        ([f"{MICROS // 1000}"], "s", "time_unit: ms"),
        (["soon"], "ms", "holds no times.*soon"),
    ],
)
def test_times_that_cannot_be_meant_are_refused_with_the_fix(
    texts: list[str], unit: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_times(pa.array(texts), "t", unit)
