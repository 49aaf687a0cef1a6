"""What a column holds, by its values and not by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prerank.ingest.mapping import TimeUnit
from prerank.ingest.parsing import is_numeric, is_textual, to_text, to_time

Kind = Literal["time", "integer", "number", "text", "boolean", "vector", "other", "empty"]

LOOKED_AT = 20_000
"""Distinct values by which the kind of a text is told."""
RECENT = 631_152_000.0, 4_102_444_800.0
"""1990 and 2100 in seconds: numbers that a unit brings between them may be times."""
PER_SECOND: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
MOSTLY = 0.95
_NUMBER = r"^\s*-?\d+(\.\d*)?([eE][+-]?\d+)?\s*$"
EXAMPLE, SECONDS = 30, 19
"""Characters of an example, and of a time."""


@dataclass(frozen=True)
class Column:
    """A column of some rows.

    Attributes:
        name: as the team has it.
        kind: what its values are; text that spells numbers or times counts as these.
        rows: of the table.
        known: rows with a value; neither null nor an empty text.
        distinct: different values.
        examples: the most frequent values as text.
        unit: in which numbers are times between 1990 and 2100; None where in none.
        low, high: bounds of numbers.
        words: of a text, on average.
    """

    name: str
    kind: Kind
    rows: int = 0
    known: int = 0
    distinct: int = 0
    examples: tuple[str, ...] = ()
    unit: TimeUnit | None = None
    low: float = 0.0
    high: float = 0.0
    words: float = 0.0

    @property
    def share(self) -> float:
        """Share of the rows that have a value."""
        return self.known / self.rows if self.rows else 0.0

    @property
    def is_time(self) -> bool:
        """Whether its values may be times."""
        return self.kind == "time" or self.unit is not None

    @property
    def is_id(self) -> bool:
        """Whether its values may be ids."""
        return self.kind in ("text", "integer")


def profiled(table: pa.Table) -> list[Column]:
    """Each column of a table."""
    return [_profile(name, table[name].combine_chunks()) for name in table.column_names]


def _profile(name: str, array: pa.Array) -> Column:
    rows, kind = len(array), array.type
    if pa.types.is_nested(kind):
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        lists = lists or pa.types.is_fixed_size_list(kind)
        is_vector = lists and is_numeric(kind.value_type)
        return Column(name, "vector" if is_vector else "other", rows, rows - array.null_count)
    if pa.types.is_null(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Column(name, "empty" if pa.types.is_null(kind) else "other", rows)
    values, counts = _counted(array)
    known, distinct = int(counts.sum()), len(values)
    if not distinct:
        return Column(name, "empty", rows)
    common = values.take(pa.array(np.argsort(-counts, kind="stable")[:3]))
    told = _kind_of(values)
    # Of a time the seconds are enough.
    limit = SECONDS if told == "time" else EXAMPLE
    examples = tuple(str(v)[:limit] for v in to_text(common).to_pylist())
    if told not in ("integer", "number"):
        words = _words(values) if told == "text" else 0.0
        return Column(name, told, rows, known, distinct, examples, words=words)
    numbers = as_numbers(values)
    low, high = float(numbers.min()), float(numbers.max())
    return Column(name, told, rows, known, distinct, examples, _unit_of(numbers), low, high)


def _counted(array: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """The distinct values of a column that say something, and the rows of each."""
    counted = array.value_counts()
    values, counts = counted.field("values"), counted.field("counts")
    good = values.is_valid()
    if pa.types.is_floating(values.type):
        good = pc.and_(good, pc.fill_null(pc.is_finite(values), False))
    elif is_textual(values.type):
        good = pc.and_(good, pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(values), ""), False))
    return values.filter(good), np.asarray(counts.filter(good).to_numpy(), np.int64)


def _kind_of(values: pa.Array) -> Kind:
    kind = values.type
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if is_numeric(kind):
        return "integer" if pa.types.is_integer(kind) or _whole(as_numbers(values)) else "number"
    if not is_textual(kind):
        return "other"
    some = values[:LOOKED_AT]
    if pc.all(pc.match_substring_regex(some, _NUMBER)).as_py():
        return "integer" if _whole(as_numbers(some)) else "number"
    times = to_time(some.cast(pa.string()), None)
    return "time" if 1 - times.null_count / len(times) >= MOSTLY else "text"


def as_numbers(values: pa.Array) -> NDArray[np.float64]:
    """Numbers, or texts that spell them, as finite float64 [n]; what spells none is left out."""
    if is_textual(values.type):
        tidy = pc.utf8_trim_whitespace(values)
        values = tidy.filter(pc.match_substring_regex(tidy, _NUMBER)).cast(pa.float64())
    found = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    finite: NDArray[np.float64] = found[np.isfinite(found)]
    return finite if len(finite) else np.zeros(1)


def _whole(numbers: NDArray[np.float64]) -> bool:
    return bool(np.all(numbers == np.floor(numbers)))


def _unit_of(numbers: NDArray[np.float64]) -> TimeUnit | None:
    low, high = RECENT
    for unit, per_second in PER_SECOND.items():
        seconds = numbers / per_second
        if np.mean((seconds >= low) & (seconds < high)) >= MOSTLY:
            return unit
    return None


def _words(values: pa.Array) -> float:
    blanks = pc.mean(pc.count_substring(pc.utf8_trim_whitespace(values), " ")).as_py()
    return 1.0 + float(blanks or 0.0)
