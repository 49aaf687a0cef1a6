"""A team's columns, whatever their types, as text and as times in UTC microseconds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from prerank.core.errors import ConfigError
from prerank.core.times import EARLIEST, LATEST, UTC_US

_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers rather than text."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


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


def to_time(array: pa.Array, unit: str | None) -> pa.Array:
    """A time column as timestamp[us, UTC]; what cannot be read as a time becomes null.

    Times without a zone are UTC. Numeric times need ``unit`` (s, ms, us, ns).
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
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        parsed = pd.to_datetime(array.to_pandas(), utc=True, format="ISO8601", errors="coerce")
        return pa.Array.from_pandas(parsed).cast(UTC_US, safe=False)
    return pa.nulls(len(array), UTC_US)


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
        ConfigError: no unit, a unit that lands outside 1971 ... 2199, or no times at all.
    """
    known = sample.drop_null()
    if not len(known):
        return
    numeric = pa.types.is_integer(known.type) or pa.types.is_floating(known.type)
    example = known[0].as_py()
    if numeric and unit is None:
        raise ConfigError(f"Column {column!r} holds numbers. {_unit_advice(known)}")
    times = to_time(known, unit).drop_null()
    if not len(times):
        raise ConfigError(
            f"Column {column!r} holds no times (for example {example!r}). Store timestamps, "
            "ISO 8601 text (2011-10-07T13:53:26Z), or integers with `time_unit`."
        )
    within = pc.and_(
        pc.greater_equal(times, pa.scalar(EARLIEST, UTC_US)),
        pc.less(times, pa.scalar(LATEST, UTC_US)),
    )
    if pc.mean(within.cast(pa.float64())).as_py() < 0.5:
        first = f"{np.datetime64(times.cast(pa.int64())[0].as_py(), 'us').astype('M8[Y]')}"
        advice = _unit_advice(known) if numeric else "Convert the column; its unit was wrong."
        raise ConfigError(f"Column {column!r} ({example!r}) lands in the year {first}. {advice}")


def _unit_advice(numbers: pa.Array) -> str:
    """Which unit puts most of the numbers into recent decades."""
    low, high = (pa.scalar(pd.Timestamp(y, tz="UTC"), UTC_US) for y in ("1990", "2100"))
    for unit in ("s", "ms", "us", "ns"):
        times = to_time(numbers, unit)
        fits = pc.and_(pc.greater_equal(times, low), pc.less(times, high)).cast(pa.float64())
        if (pc.mean(fits).as_py() or 0.0) > 0.5:
            return f"Set `time_unit: {unit}` in the mapping."
    return "Set `time_unit` (s, ms, us or ns) in the mapping to the column's unit."
