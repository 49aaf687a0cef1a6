"""The packed engagement row: what goes in comes out, and damage is noticed."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from interactrank.features.packed_rows import (
    DECODE,
    HEADER_BYTES,
    Row,
    RowError,
    kept_items,
    mass_column,
    pack,
    quantise,
    row_bytes,
    unpack,
)
from interactrank.features.schema import LEVELS, ROW_VERSION, FeatureSchema, Level

SCHEMA = FeatureSchema(
    ("impression", "click", "save"), ("impression",), ("engagement",), segments=("country",)
)
INT64 = st.integers(-(2**63), 2**63 - 1)
COUNTS = st.integers(0, 1999).map(float)


def level_of(cap: int, windows: tuple[str, ...] = ("7d", "30d", "all")) -> Level:
    return Level("t", 8, cap, windows)


def packed(ids: list[int], mass: list[float], cap: int) -> Row:
    level = level_of(cap, ("30d", "all"))
    columns = SCHEMA.columns(level)
    counts = np.array([[0.0, m] for m in mass]).reshape(len(ids), 2)
    return unpack(pack(np.array(ids, np.int64), counts, columns, level), columns)


@st.composite
def tables(draw: st.DrawFn, columns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    ids = np.array(sorted(draw(st.sets(INT64, max_size=30))), np.int64)
    return ids, draw(hnp.arrays(np.float64, (len(ids), columns), elements=COUNTS))


@settings(deadline=None)
@given(st.data())
@pytest.mark.parametrize("level", LEVELS, ids=lambda lv: lv.prefix)
def test_what_is_packed_comes_back(level: Level, data: st.DataObject) -> None:
    columns = SCHEMA.columns(level)
    ids, counts = data.draw(tables(len(columns)))
    row = unpack(pack(ids, counts, columns, level), columns)
    assert row.ids.tolist() == ids.tolist()
    assert np.rint(row.counts).tolist() == counts.tolist()
    assert row.totals.tolist() == counts.sum(0).tolist()
    assert not row.truncated.any()
    assert row.distinct == len(ids)


@settings(deadline=None)
@given(st.data(), st.integers(1, 12))
def test_a_capped_row_accounts_for_everything_it_cut(data: st.DataObject, cap: int) -> None:
    level = level_of(cap)
    columns = SCHEMA.columns(level)
    ids, counts = data.draw(tables(len(columns)))
    row = unpack(pack(ids, counts, columns, level), columns)
    kept = np.isin(ids, row.ids)
    assert len(row.ids) == min(cap, len(ids))
    # No difference: that of ids far apart would not fit int64.
    assert (row.ids[1:] > row.ids[:-1]).all()
    assert row.distinct == len(ids)
    assert row.totals.tolist() == counts.sum(0).tolist()
    assert row.truncated.tolist() == counts[~kept].sum(0).tolist()
    assert np.rint(row.counts).tolist() == counts[kept].tolist()
    if kept.any() and not kept.all():
        mass = counts[:, mass_column(level)]
        assert mass[kept].min() >= mass[~kept].max()


@settings(deadline=None)
@given(hnp.arrays(np.float64, (25, 4), elements=st.integers(0, 3).map(float)), st.integers(1, 25))
def test_kept_are_most_mass_then_most_counts_then_the_lower_id(
    counts: NDArray[np.float64], cap: int
) -> None:
    order = sorted(range(25), key=lambda i: (-counts[i, 2], -counts[i].sum(), i))
    assert kept_items(counts, 2, cap).tolist() == sorted(order[:cap])


def test_equal_mass_keeps_the_lower_id() -> None:
    assert packed([-9, 3, 5, 8], [1.0, 2.0, 1.0, 1.0], 2).ids.tolist() == [-9, 3]


def test_mass_is_all_engagement_of_all_time() -> None:
    for level in LEVELS:
        assert SCHEMA.columns(level)[mass_column(level)] == "engage:all"


@settings(deadline=None)
@given(st.floats(1.0, 8e6))
def test_a_count_keeps_its_relative_error(count: float) -> None:
    restored = float(DECODE[quantise(np.array([count]))[0]])
    # One code is 1 / 4096 of log1p: half of one, over count / (1 + count).
    assert abs(restored / count - 1) <= 1.23e-4 * (1 + count) / count


def test_whole_counts_are_within_the_documented_error_and_small_ones_exact() -> None:
    counts = np.unique(np.concatenate((np.arange(1.0, 30_000), np.geomspace(3e4, 8.8e6, 20_000))))
    restored = DECODE[quantise(counts)].astype(np.float64)
    assert np.abs(restored / counts - 1).max() <= 2e-4
    small = np.arange(2000.0)
    assert np.rint(DECODE[quantise(small)]).tolist() == small.tolist()


def test_written_counts_are_those_of_the_formula() -> None:
    counts = np.concatenate((np.arange(300.0), np.geomspace(300, 1e8, 200))).reshape(-1, 1)
    level = level_of(10_000, ("all",))
    row = unpack(pack(np.arange(500), counts, ("engage:all",), level), ("engage:all",))
    codes = np.minimum(np.rint(4096 * np.log1p(counts)), 65535).astype(np.int64)
    assert row.counts.tolist() == DECODE[codes].tolist()


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 64))
def test_rows_can_stand_end_to_end_aligned(items: int, columns: int) -> None:
    exact = HEADER_BYTES + 8 * columns + 8 * items + 2 * items * columns
    assert row_bytes(items, columns) % 8 == 0
    assert exact <= row_bytes(items, columns) < exact + 8


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(1, 9))
def test_a_block_is_as_long_as_announced(items: int, columns: int) -> None:
    names = tuple(f"a{i}:all" for i in range(columns))
    block = pack(np.arange(items), np.ones((items, columns)), names, level_of(15, ("all",)))
    assert len(block) == row_bytes(min(items, 15), columns)


BLOCK = pack(
    np.array([1, 5, 9]), np.ones((3, 2)), ("engage:30d", "engage:all"), level_of(9, ("30d", "all"))
)


@pytest.mark.parametrize(
    ("block", "columns", "complaint"),
    [
        (BLOCK[:-8], ("engage:30d", "engage:all"), "bytes, its header says"),
        (BLOCK + bytes(8), ("engage:30d", "engage:all"), "bytes, its header says"),
        (BLOCK[:15], ("engage:30d", "engage:all"), "shorter than its header"),
        (b"", ("engage:30d", "engage:all"), "shorter than its header"),
        (BLOCK, ("engage:7d", "engage:all"), "other columns"),
        (BLOCK, ("engage:all", "engage:30d"), "other columns"),
        (BLOCK, ("engage:30d",), "other columns"),
        (struct.pack("<H", ROW_VERSION + 1) + BLOCK[2:], ("engage:30d", "engage:all"), "version"),
        (BLOCK[:4] + struct.pack("<I", 4) + BLOCK[8:], ("engage:30d", "engage:all"), "header says"),
        (BLOCK[:2] + struct.pack("<H", 3) + BLOCK[4:], ("engage:30d", "engage:all"), "columns"),
    ],
)
def test_damage_is_named(block: bytes, columns: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(RowError, match=complaint):
        unpack(block, columns)


def test_an_undamaged_block_is_read() -> None:
    row = unpack(BLOCK, ("engage:30d", "engage:all"))
    assert row.ids.tolist() == [1, 5, 9]
