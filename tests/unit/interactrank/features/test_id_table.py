"""The id table against its sorted definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interactrank.features.id_table import IdTable, overlaid, rows_reference, table_bits

INT64 = st.integers(-(2**63), 2**63 - 1)
EDGES = st.sampled_from([0, -1, 1, 2**63 - 1, -(2**63), 2**53 + 1, 2**32])
# Ids that differ in high bits only, or are close together, crowd the probe sequences.
IDS = st.one_of(INT64, EDGES, st.integers(-40, 40), st.integers(0, 40).map(lambda i: i << 55))


@settings(deadline=None)
@given(st.lists(IDS, unique=True, max_size=200), st.lists(IDS, max_size=100))
def test_equals_the_sorted_definition(ids: list[int], unknown: list[int]) -> None:
    held = np.array(ids, np.int64)
    wanted = np.array(unknown + ids + ids[::-1], np.int64)
    found = IdTable(held).rows(wanted)
    assert found.dtype == np.int64
    assert found.tolist() == rows_reference(held, wanted).tolist()
    assert found[len(unknown) : len(unknown) + len(ids)].tolist() == list(range(len(ids)))


@settings(deadline=None)
@given(st.lists(IDS, unique=True, max_size=50), st.lists(IDS, max_size=50))
def test_an_absent_id_has_no_row(ids: list[int], wanted: list[int]) -> None:
    found = IdTable(np.array(ids, np.int64)).rows(np.array(wanted, np.int64))
    assert [w in set(ids) for w in wanted] == (found >= 0).tolist()
    assert set(found[found < 0].tolist()) <= {-1}


def test_many_ids() -> None:
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(-(2**63), 2**63 - 1, 60_000))
    rng.shuffle(ids)
    wanted = np.concatenate((ids[::3], rng.integers(-(2**63), 2**63 - 1, 20_000)))
    assert (IdTable(ids).rows(wanted) == rows_reference(ids, wanted)).all()


def test_strided_and_narrow_arrays_are_read_right() -> None:
    # Against the declared int64: callers who do not check types may pass narrower arrays.
    table = IdTable(np.arange(0, 40, dtype=np.int32)[::2])  # type: ignore[arg-type]
    assert len(table) == 20
    odd, even = np.arange(10, dtype=np.int32)[::-2], np.arange(0, 10, dtype=np.int16)[::2]
    assert table.rows(odd).tolist() == [-1] * 5  # type: ignore[arg-type]
    assert table.rows(even).tolist() == [0, 1, 2, 3, 4]  # type: ignore[arg-type]


def test_an_empty_table_knows_nothing() -> None:
    assert IdTable(np.zeros(0, np.int64)).rows(np.array([0, -1])).tolist() == [-1, -1]


@settings(deadline=None)
@given(st.lists(IDS, unique=True, min_size=1, max_size=60), st.data())
def test_a_repeated_id_is_refused(ids: list[int], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=5))
    with pytest.raises(ValueError, match=f"{len(again)} stand more than once"):
        IdTable(np.array(ids + again, np.int64))


@settings(deadline=None)
@given(st.integers(1, 5000))
def test_tables_stay_at_most_half_full(n: int) -> None:
    assert 2 * n <= 1 << table_bits(n) < max(4 * n, 16)


@settings(deadline=None)
@given(st.lists(IDS, unique=True, max_size=50), st.lists(IDS, unique=True, max_size=50))
def test_what_is_laid_over_takes_the_place_of_what_was(ids: list[int], others: list[int]) -> None:
    both, rows = overlaid(np.array(ids, np.int64), np.array(others, np.int64))
    last = {key: row for row, key in enumerate([*ids, *others])}
    assert dict(zip(both.tolist(), rows.tolist(), strict=True)) == last
    # A table may be told the rows.
    wanted = np.array(
        [*ids, *others, *(key for key in range(-50, 50) if key not in last)], np.int64
    )
    found = IdTable(both, rows).rows(wanted)
    assert found.tolist() == [last.get(key, -1) for key in wanted.tolist()]
    assert both.tolist() == sorted(last)
