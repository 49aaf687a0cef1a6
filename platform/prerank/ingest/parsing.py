"""A team's columns, whatever their types, as text, as numbers and as times in UTC microseconds."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prerank.core.errors import ConfigError
from prerank.core.times import EARLIEST, LATEST, UTC_US

_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
_WHOLE = r"^(-?\d+)\.0+$"
_NUMBER = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"
# Eight digits are the day of a date without dashes; a second since 1970 has nine or more.
_EPOCH = r"^-?\d{9,}(\.\d*)?$"
_UNUSUAL = (
    (r"^(\d{4})/(\d{1,2})/(\d{1,2})", r"\1-\2-\3"),
    (r"\s*(UTC|GMT|Z)$", "Z"),
    (r"\s+([+-]\d\d:?(\d\d)?)$", r"\1"),
)
_HAS_ZONE = r"(Z|:\S*[+-]\d\d:?(\d\d)?)$"
_DAY_OR_MONTH = r"^\s*\d{1,2}[/.\-]\d{1,2}[/.\-]\d{2,4}\b"


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers rather than text."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_textual(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def to_text(array: pa.Array) -> pa.Array:
    """Any scalar column as string; floats that hold integers lose the '.0' pandas gave them."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
        whole = pc.and_(pc.equal(pc.floor(array), array), pc.less(pc.abs(array), float(1 << 53)))
        whole_text = pc.if_else(whole, array, None).cast(pa.int64()).cast(pa.string())
        return pc.coalesce(whole_text, array.cast(pa.string()))
    return array.cast(pa.string())


def to_whole(array: pa.Array) -> pa.Array:
    """Text whose integers lose a '.0': 12.0 becomes 12, whatever is no integer stays."""
    if not pc.any(pc.ends_with(array, "0")).as_py():
        return array
    return pc.replace_substring_regex(array, _WHOLE, r"\1")


def is_whole(array: pa.Array) -> bool:
    """Whether every text spells an integer, be it as 12.0; null is left out of account."""
    return bool(pc.all(pc.match_substring_regex(array, r"^-?\d+(\.0+)?$")).as_py())


def whole_text(text: str) -> str:
    """``to_whole`` of one text."""
    return re.sub(_WHOLE, r"\1", text, flags=re.ASCII) if text.endswith("0") else text


def to_numbers(array: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A column as float64 [n], NaN where it has none, and what is neither null nor a number."""
    valid = np.asarray(array.is_valid())
    kind = array.type
    try:
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = pd.to_numeric(array.to_pandas(), errors="coerce").to_numpy(
            np.float64, na_value=np.nan
        )
    values = np.where(valid, values, np.nan)
    odd = np.isnan(values) & valid
    if pa.types.is_floating(kind):
        odd[:] = False  # NaN is how a float says null.
    return values, odd


def to_time(array: pa.Array, unit: str | None) -> pa.Array:
    """A time column as timestamp[us, UTC]; what cannot be read as a time becomes null.

    Times without a zone are UTC. Numbers, in a column of numbers or of text, need ``unit`` (s, ms,
    us, ns); text is ISO 8601, and may be numbers in some rows.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(UTC_US)
    if pa.types.is_date(kind):
        return array.cast(pa.timestamp("us"), safe=False).cast(UTC_US)
    if (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and unit:
        return _number_to_time(array, unit)
    if is_textual(kind):
        # Of a request there are many rows: each text is read once.
        encoded = array.cast(pa.string()).dictionary_encode()
        return _text_to_time(encoded.dictionary, unit).take(encoded.indices)
    return pa.nulls(len(array), UTC_US)


def _text_to_time(array: pa.Array, unit: str | None) -> pa.Array:
    if unit is None:
        return _iso_to_time(array)
    numeric = pc.match_substring_regex(array, _NUMBER)
    if not pc.any(numeric).as_py():
        return _iso_to_time(array)
    numbers = pc.if_else(numeric, array, None)
    try:
        # Not by way of floats, which have no room for nanoseconds since 1970.
        times = _number_to_time(numbers.cast(pa.int64()), unit)
    except pa.ArrowInvalid:
        times = _number_to_time(numbers.cast(pa.float64()), unit)
    if pc.all(numeric).as_py():  # nulls are left out of account
        return times
    return pc.coalesce(times, _iso_to_time(pc.if_else(numeric, None, array)))


def _iso_to_time(array: pa.Array) -> pa.Array:
    for kind in (pa.timestamp("us"), UTC_US):
        try:
            return array.cast(kind).cast(UTC_US)
        except pa.ArrowInvalid:
            pass  # Some rows have a zone and some have none, or a row is no time.
    tidy = pc.utf8_trim_whitespace(array)
    for pattern, plain in _UNUSUAL:
        tidy = pc.replace_substring_regex(tidy, pattern, plain)
    # Apart, because pandas may give a time without a zone the zone of another row.
    zoned = pc.match_substring_regex(tidy, _HAS_ZONE)
    parts = (pc.if_else(zoned, tidy, None), pc.if_else(zoned, None, tidy))
    return pc.coalesce(*map(_parsed, parts))


def _parsed(array: pa.Array) -> pa.Array:
    parsed = pd.to_datetime(array.to_pandas(), utc=True, format="ISO8601", errors="coerce")
    return pa.Array.from_pandas(parsed).cast(UTC_US, safe=False)


def _number_to_time(array: pa.Array, unit: str) -> pa.Array:
    null = np.asarray(array.is_null())
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        null |= np.isnan(values)
        values = np.nan_to_num(values)
    scale = _PER_UNIT.get(unit)
    # Clipped, because a value in the wrong unit would wrap round int64 into a plausible time.
    limit = (1 << 62) // (scale or 1)
    values = np.clip(values, -limit, limit)
    micros = values // 1_000 if scale is None else values * scale
    return pa.array(micros.astype(np.int64), mask=null).cast(UTC_US)


def check_times(sample: pa.Array, column: str, unit: str | None) -> None:
    """Refuse a time column that as a whole cannot be meant, going by a sample of it.

    Raises:
        ConfigError: no unit, a unit that lands outside 1971 ... 2199, dates of which nobody can
            tell day from month, or no times at all.
    """
    known = sample.drop_null()
    if not len(known):
        return
    numbers = _numbers_among(known)
    example = known[0].as_py()
    if len(numbers) and unit is None:
        raise ConfigError(f"Column {column!r} holds numbers. {_unit_advice(numbers)}")
    times = to_time(known, unit).drop_null()
    _refuse_unclear_dates(known, column)
    if not len(times):
        raise ConfigError(
            f"Column {column!r} holds no times (for example {example!r}). Store timestamps, "
            "ISO 8601 text (2011-10-07T13:53:26Z), or integers with `time_unit`."
        )
    if _share_within(times, EARLIEST, LATEST) < 0.5:
        first = f"{np.datetime64(times.cast(pa.int64())[0].as_py(), 'us').astype('M8[Y]')}"
        advice = (
            _unit_advice(numbers) if len(numbers) else "Convert the column; its unit was wrong."
        )
        raise ConfigError(f"Column {column!r} ({example!r}) lands in the year {first}. {advice}")


def _numbers_among(known: pa.Array) -> pa.Array:
    """The numbers of a column, as numbers: all of them, or the texts that can only be numbers."""
    if pa.types.is_integer(known.type) or pa.types.is_floating(known.type):
        return known
    if not is_textual(known.type):
        return pa.nulls(0, pa.float64())
    return known.filter(pc.match_substring_regex(known, _EPOCH)).cast(pa.float64())


def _refuse_unclear_dates(known: pa.Array, column: str) -> None:
    if not is_textual(known.type):
        return
    unclear = known.filter(pc.match_substring_regex(known, _DAY_OR_MONTH))
    if len(unclear):
        raise ConfigError(
            f"Column {column!r} holds dates such as {unclear[0].as_py()!r}, of which nobody can "
            "tell the day from the month. Write ISO 8601, year first: 2018-04-03, with a time and "
            "zone 2018-04-03T17:05:00+02:00."
        )


def _share_within(times: pa.Array, start: object, stop: object) -> float:
    low, high = pa.scalar(start, UTC_US), pa.scalar(stop, UTC_US)
    within = pc.and_(pc.greater_equal(times, low), pc.less(times, high))
    return pc.mean(within.cast(pa.float64())).as_py() or 0.0


def _unit_advice(numbers: pa.Array) -> str:
    """Which unit puts most of the numbers into recent decades."""
    low, high = (pd.Timestamp(year, tz="UTC") for year in ("1990", "2100"))
    for unit in ("s", "ms", "us", "ns"):
        if _share_within(to_time(numbers, unit), low, high) > 0.5:
            return f"Set `time_unit: {unit}` in the mapping."
    return "Set `time_unit` (s, ms, us or ns) in the mapping to the column's unit."
