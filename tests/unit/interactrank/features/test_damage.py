"""Whatever the stores hold, a kernel reads and writes within its arrays: an error, or numbers."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.plain_requests import (
    BY_PREFIX,
    HOUR,
    NOW,
    SCHEMA,
    SEEDS,
    Request,
    as_inputs,
    offsets,
    random_request,
)

from interactrank.features.engagement import cross_features
from interactrank.features.given import MAX_GIVEN_VALUE
from interactrank.features.inputs import FeatureInputs, HistoryError
from interactrank.features.item_vectors import ItemVectors, narrowed
from interactrank.features.near import Near
from interactrank.features.packed_rows import HEADER_BYTES, RowError, pack, row_bytes, unpack
from interactrank.features.request_statistics import request_features
from interactrank.features.schema import REQUEST_NUMERIC, VECTOR_WIDTH
from interactrank.features.top_items import top_items_of

INT64 = st.integers(-(2**63), 2**63 - 1)
NEAR = st.integers(-3, 40)
LEVEL = BY_PREFIX["q"]
COLUMNS = SCHEMA.columns(LEVEL)
SOUND = pack(np.arange(3), np.full((3, len(COLUMNS)), 2.0), COLUMNS, LEVEL)
PAST = [(7, 1, NOW - HOUR, 5), (8, 2, NOW, 0)]


def made(inputs: FeatureInputs, candidates: int = 5) -> None:
    """Make all features of ``inputs``: they are numbers, or an error says what is wrong."""
    ids = np.tile(np.arange(candidates), len(inputs.time))
    bounds = offsets([candidates] * len(inputs.time))
    for schema in (SCHEMA, replace(SCHEMA, graph=True)):
        x = cross_features(schema, inputs, ids, bounds, np.zeros(len(ids), np.int64))
        assert np.isfinite(x).all()
    request = request_features(SCHEMA, inputs)
    unknown = [name.startswith("user:") for name in REQUEST_NUMERIC]
    assert np.isfinite(request[:, np.logical_not(unknown)]).all()
    assert not np.isinf(request).any()
    items, counts, ends = top_items_of(SCHEMA, inputs)
    assert len(items) == len(counts) == ends[-1]
    assert np.isfinite(counts).all()


def test_sound_inputs_make_features() -> None:
    made(as_inputs([Request({"q:x": SOUND}, PAST), Request()]))


@given(st.binary(max_size=300), st.sampled_from(["q:x", "t:x", "a:"]))
def test_random_bytes_are_no_row(block: bytes, key: str) -> None:
    if not block:
        return
    with pytest.raises(RowError, match=f"level '{key[0]}'"):
        made(as_inputs([Request({key: block})]))


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=6))
def test_a_row_with_some_other_bytes_is_refused_or_read(changes: list[tuple[int, int]]) -> None:
    block = bytearray(SOUND)
    for at, value in changes:
        block[at] = value
    inputs = as_inputs([Request({"q:x": bytes(block), "a:": None})])
    try:
        unpack(bytes(block), COLUMNS)
    except RowError:
        with pytest.raises(RowError, match="level 'q'"):
            made(inputs)
    else:
        made(inputs)


@given(hnp.arrays(np.float32, 2 * len(COLUMNS), elements=st.floats(width=32)), st.integers(0, 9))
def test_masses_that_cannot_be_are_refused(masses: np.ndarray, distinct: int) -> None:
    header = SOUND[:12] + struct.pack("<I", distinct)
    block = header + masses.tobytes() + SOUND[HEADER_BYTES + masses.nbytes :]
    inputs = as_inputs([Request({"q:x": block})])
    if (masses >= 0).all() and np.isfinite(masses).all() and distinct >= 3:
        made(inputs)
        return
    with pytest.raises(RowError, match="level 'q'"):
        made(inputs)
    with pytest.raises(RowError, match="counts that cannot be"):
        unpack(block, COLUMNS)


@pytest.mark.parametrize("items", [2**32 - 1, 2**31, 2**30 + 3])
def test_the_size_that_a_header_claims_does_not_wrap_around(items: int) -> None:
    # 2^30 + 3 items make of 32 bits just the size that three make, in rows of two columns' width.
    two = BY_PREFIX["c"]
    columns = SCHEMA.columns(two)
    sound = pack(np.arange(3), np.ones((3, len(columns))), columns, two)
    assert (row_bytes(2**30 + 3, len(columns)) - len(sound)) % 2**32 == 0
    claimed = sound[:4] + struct.pack("<I", items) + sound[8:12] + b"\xff" * 4 + sound[16:]
    exact = 16 + 8 * len(columns) + items * (8 + 2 * len(columns))
    assert exact <= row_bytes(items, len(columns)) < exact + 8
    with pytest.raises(RowError, match="header says"):
        unpack(claimed, columns)
    with pytest.raises(RowError, match="level 'c'"):
        made(as_inputs([Request({"c:x": claimed})]))


PLACES = st.one_of(NEAR, INT64, st.sampled_from([0, 1, len(SOUND), 2 * len(SOUND)]))


@given(st.lists(PLACES, max_size=4), st.lists(PLACES, max_size=4), st.lists(NEAR, max_size=4))
def test_rows_lie_where_bytes_are(start: list[int], size: list[int], keys: list[int]) -> None:
    inputs = replace(
        as_inputs([Request(dict.fromkeys(["q:a", "q:b", "q:c", "q:d"][: len(keys)]))]),
        blocks=np.frombuffer(SOUND * 2, np.uint8),
        block_start=np.array(start, np.int64),
        block_size=np.array(size, np.int64),
        key_block=np.array(keys, np.int64),
    )
    lies = [k < 0 or (k < len(start) == len(size) and (start[k], size[k]) in WHOLE) for k in keys]
    if all(lies) and len(start) == len(size):
        made(inputs)
        return
    with pytest.raises(RowError, match=r"level 'q'|block_size"):
        made(inputs)


WHOLE = [(0, len(SOUND)), (len(SOUND), len(SOUND))]


def test_a_row_serves_no_other_level() -> None:
    # One row may serve several keys: each of them is looked at.
    inputs = as_inputs([Request({"q:x": SOUND, "t:x": None})])
    shared = replace(inputs, key_block=np.zeros(2, np.int64))
    with pytest.raises(RowError, match="level 't'"):
        made(shared)
    with pytest.raises(RowError, match="level 't'"):
        made(replace(shared, key_level=shared.key_level[::-1].copy()))


@pytest.mark.parametrize("level", [-1, len(BY_PREFIX), 2**40])
def test_a_level_that_is_none_is_named(level: int) -> None:
    inputs = replace(as_inputs([Request({"q:x": None})]), key_level=np.array([level]))
    with pytest.raises(ValueError, match=f"key_level must be below 6, found {level}"):
        made(inputs)


@given(st.lists(st.tuples(INT64, st.one_of(NEAR, INT64), INT64, INT64), min_size=1, max_size=8))
def test_a_history_is_refused_or_read(events: list[tuple[int, int, int, int]]) -> None:
    inputs = as_inputs([Request(history=events)])
    if all(0 <= action < 3 and 0 <= time <= NOW for _, action, time, _ in events):
        made(inputs)
        return
    with pytest.raises(HistoryError, match="a history is damaged"):
        made(inputs)


@pytest.mark.parametrize(
    ("action", "time", "complaint"),
    [
        (3, NOW, "action 3 must be below 3"),
        (-1, NOW, "action -1 must"),
        (2**40, NOW, "action 1099511627776 must"),
        (1, NOW + 1, f"time {NOW + 1} between 0 and the request's"),
        (1, -1, "time -1 between"),
    ],
)
def test_an_event_that_cannot_be_is_named(action: int, time: int, complaint: str) -> None:
    sound, bad = Request(history=PAST), Request(history=[*PAST, (9, action, time, 0)])
    made(as_inputs([sound]))
    with pytest.raises(HistoryError, match=complaint):
        made(as_inputs([sound, bad]))


BOUNDS = ("key_offsets", "hist_offsets", "near_offsets")
OF_REQUESTS = ("query", "tokens")
OF_KEYS = ("key_level",)
OF_EVENTS = ("hist_items", "hist_actions", "hist_times", "hist_queries")
OF_NEAR = ("near_items", "near_user", "near_query", "user_vectors", "query_vectors", "near_cutoffs")


def with_near(inputs: FeatureInputs) -> FeatureInputs:
    """Inputs of two requests, an item near to each."""
    one: Any = np.ones(2, np.float32)
    unit: Any = np.eye(2, VECTOR_WIDTH, dtype=np.float32)
    near = Near(np.array([1, 9]), one, one, np.arange(3), unit, unit, np.array([5, 5]))
    known = {5: ItemVectors(np.array([1, 4]), narrowed(unit))}
    return replace(inputs, **near._asdict(), snapshots=known)


@given(SEEDS, st.sampled_from(BOUNDS), st.lists(st.one_of(NEAR, INT64), max_size=4))
def test_bounds_are_bounds(seed: int, name: str, values: list[int]) -> None:
    inputs = with_near(as_inputs([random_request(seed), random_request(seed + 1)]))
    of = {"key_offsets": "key_block", "hist_offsets": "hist_times", "near_offsets": "near_items"}
    end = len(getattr(inputs, of[name]))
    other: Any = np.array(values, np.int64)
    damaged = replace(inputs, **{name: other})
    if len(values) == 3 and values[0] == 0 and values[-1] == end and sorted(values) == values:
        made(damaged)
        return
    kind = HistoryError if name == "hist_offsets" else ValueError
    with pytest.raises(kind, match=f"{name} must be 3 bounds from 0 to {end} that never fall"):
        made(damaged)


@pytest.mark.parametrize("name", [*OF_REQUESTS, *OF_KEYS, *OF_EVENTS, *OF_NEAR])
@pytest.mark.parametrize("cut", [0, 1])
def test_arrays_that_belong_together_are_as_long(name: str, cut: int) -> None:
    requests = [Request({"q:x": None, "t:x": None}, PAST), Request(history=PAST)]
    inputs = with_near(as_inputs(requests))
    short: Any = getattr(inputs, name)[:cut]
    with pytest.raises(
        HistoryError if name in OF_EVENTS else ValueError, match=r"length|entry|bounds"
    ):
        made(replace(inputs, **{name: short}))


def test_every_array_of_inputs_is_looked_at() -> None:
    rows = ("blocks", "block_start", "block_size", "key_block")
    looked = {*BOUNDS, *OF_REQUESTS, *OF_KEYS, *OF_EVENTS, *OF_NEAR, *rows, "time"}
    # Segments are looked up by torch, which checks its indices.
    assert {*FeatureInputs.names()} - looked == {"segments"}


def test_a_snapshot_that_is_not_at_hand_is_named() -> None:
    inputs = with_near(as_inputs([Request(history=PAST), Request(history=PAST)]))
    with pytest.raises(ValueError, match="near_cutoffs: no snapshot of 5"):
        made(replace(inputs, snapshots={}))
    narrow = ItemVectors(np.array([1]), np.zeros((1, 3), np.uint16))
    with pytest.raises(ValueError, match="near_cutoffs: no snapshot of 5"):
        made(replace(inputs, snapshots={5: narrow}))


@given(st.lists(st.one_of(NEAR, INT64), max_size=4), st.integers(0, 7), st.integers(0, 7))
def test_candidates_are_within_their_bounds(values: list[int], held: int, born: int) -> None:
    inputs, ids = as_inputs([Request(), Request()]), np.arange(held)
    args = ids, np.array(values, np.int64), np.zeros(born, np.int64)
    sound = len(values) == 3 and values[0] == 0 and values[-1] == held and sorted(values) == values
    if sound and held == born:
        assert len(cross_features(SCHEMA, inputs, *args)) == held
        return
    with pytest.raises(ValueError, match="created" if sound else "offsets must be 3 bounds"):
        cross_features(SCHEMA, inputs, *args)


@given(hnp.arrays(np.float32, (4, 2), elements=st.floats(width=32)))
def test_what_a_retriever_gives_stays_a_number(told: np.ndarray) -> None:
    schema = replace(SCHEMA, retriever=("score", "rank"))
    inputs = as_inputs([Request()])
    none = np.zeros(4, np.int64)
    x = cross_features(schema, inputs, np.arange(4), np.array([0, 4]), none, told)
    score = x[:, schema.cross.index("retriever:score")]
    known = ~np.isnan(told[:, 0])
    limit = np.float32(MAX_GIVEN_VALUE)
    np.testing.assert_array_equal(score[known], np.clip(told[known, 0], -limit, limit))
    assert (score[~known] == 0).all()
    assert np.isfinite(x).all()


@settings(max_examples=20)
@given(SEEDS)
def test_requests_of_every_kind_pass(seed: int) -> None:
    made(as_inputs([random_request(seed), random_request(seed + 1)]))
