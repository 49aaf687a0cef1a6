"""Cross features against a plain reading of the formulas, and against their invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from interactrank.engagement import cross_features
from interactrank.inputs import FeatureInputs, level_code, request_features
from interactrank.rows import RowError, pack, unpack
from interactrank.schema import LEVELS, REQUEST_NUMERIC, FeatureSchema, Level

SCHEMA = FeatureSchema(
    ("view", "click", "save"), ("view",), ("engagement", "save"), segments=("country", "device")
)
HOUR, DAY = 3_600_000_000, 24 * 3_600_000_000
NOW = 1_600_000_000_000_000
BY_PREFIX = {level.prefix: level for level in LEVELS}


@dataclass
class Request:
    """One request in plain Python: blocks by key, events oldest first, candidates with a birth."""

    rows: dict[str, bytes | None] = field(default_factory=dict)
    history: list[tuple[int, int, int]] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    created: dict[int, int] = field(default_factory=dict)
    tokens: int = 1
    time: int = NOW


def offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)))


def as_inputs(requests: list[Request]) -> FeatureInputs:
    distinct = list(dict.fromkeys(b for r in requests for b in r.rows.values() if b is not None))
    keys = [(k, b) for r in requests for k, b in r.rows.items()]
    events = np.array([e for r in requests for e in r.history], np.int64).reshape(-1, 3)
    sizes = [len(b) for b in distinct]
    return FeatureInputs(
        time=np.array([r.time for r in requests], np.int64),
        blocks=np.frombuffer(b"".join(distinct), np.uint8),
        block_start=offsets(sizes)[:-1],
        block_size=np.array(sizes, np.int64),
        key_block=np.array([-1 if b is None else distinct.index(b) for _, b in keys], np.int64),
        key_level=np.array([level_code(k) for k, _ in keys], np.int64),
        key_offsets=offsets([len(r.rows) for r in requests]),
        hist_items=events[:, 0].copy(),
        hist_actions=events[:, 1].copy(),
        hist_times=events[:, 2].copy(),
        hist_offsets=offsets([len(r.history) for r in requests]),
        tokens=np.array([r.tokens for r in requests], np.int64),
    )


def features(requests: list[Request], schema: FeatureSchema = SCHEMA) -> NDArray[np.float32]:
    return cross_features(
        schema,
        as_inputs(requests),
        np.array([c for r in requests for c in r.candidates], np.int64),
        offsets([len(r.candidates) for r in requests]),
        np.array([r.created.get(c, 0) for r in requests for c in r.candidates], np.int64),
    )


def reference(schema: FeatureSchema, request: Request, item: int) -> dict[str, float]:
    x: dict[str, float] = {}
    rows = {
        key: unpack(block, schema.columns(BY_PREFIX[key.split(":")[0]]))
        for key, block in request.rows.items()
        if block is not None
    }

    def mass(key: str) -> float:
        names = schema.columns(BY_PREFIX[key.split(":")[0]])
        return float(rows[key].totals[names.index("engage:all")])

    c_all = sum(mass(k) for k in rows if k == "a:")
    c_query = sum(mass(k) for k in rows if k.startswith("q:"))
    rarity = {k: max(1 - math.log(1 + mass(k)) / math.log(2 + c_all), 0.05) for k in rows}
    popularity = 0.0
    for level in LEVELS:
        spread, alpha = (1e5, 100.0) if level.prefix == "a" else (1e3, 1.0)
        mine = [k for k in rows if k.split(":")[0] == level.prefix]
        for j, column in enumerate(schema.columns(level)):
            mean = 0.0
            for k in mine:
                row = rows[k]
                if item in row.ids:
                    count = float(row.counts[row.ids.tolist().index(item), j])
                elif row.distinct > len(row.ids):
                    count = float(row.truncated[j]) / (row.distinct - len(row.ids))
                else:
                    count = 0.0
                scaled = math.log1p(spread * count / (float(row.totals[j]) + alpha))
                mean += rarity[k] / sum(rarity[m] for m in mine) * scaled / math.log1p(spread)
                if level.prefix == "a" and column == "engage:all":
                    popularity = count
            x[f"{level.prefix}:{column}"] = mean

    recent = request.history[-100:][::-1]
    at = [i for i, (e, _, _) in enumerate(recent) if e == item]
    x |= dict.fromkeys((f"user:decay_{d}" for d in ("1h", "1d", "30d")), 0.0)
    x["user:touched"], x["user:count"] = float(bool(at)), math.log1p(len(at))
    x["user:rank_recency"] = 1 / (1 + at[0]) if at else 0.0
    for action in ("click", "save"):
        code = schema.actions.index(action)
        x[f"user:touched:{action}"] = float((item, code) in [(e, a) for e, a, _ in recent])
    if at:
        hours = (request.time - recent[at[0]][2]) / HOUR
        for name, scale in (("1h", 1), ("1d", 24), ("30d", 720)):
            x[f"user:decay_{name}"] = math.exp(-hours / scale)
    born = request.created.get(item, 0)
    known = 0 < born <= request.time
    x["item:age_unknown"] = float(not known)
    x["item:log_age_days"] = math.log1p((request.time - born) / DAY) if known else 0.0
    x["item:log_popularity"] = math.log1p(popularity)
    x["thin:g:engage:all"] = 10 / (c_query + 10) * x["g:engage:all"]
    x["thin:user:rank_recency"] = 3 / (c_query + 3) * x["user:rank_recency"]
    fresh = known and request.time - born < 30 * DAY
    x["fresh:q:engage:30d"] = x["q:engage:30d"] if fresh else 0.0
    return x


ITEMS = [*range(-4, 14), 2**62, -(2**62)]


def random_block(rng: np.random.Generator, level: Level, cap: int | None = None) -> bytes:
    columns = SCHEMA.columns(level)
    ids = np.sort(rng.choice(np.array(ITEMS), rng.integers(0, 12), replace=False)).astype(np.int64)
    counts = rng.integers(0, 40, (len(ids), len(columns))) * rng.integers(0, 2, len(columns))
    small = replace(level, cap=cap or int(rng.integers(1, 12)))
    return pack(ids, counts.astype(float), columns, small)


def random_request(seed: int) -> Request:
    rng = np.random.default_rng(seed)
    keys = ["q:ab", "s:country=de|ab", "s:device=tv|ab", "c:ab",
            *(f"t:{i}" for i in range(rng.integers(0, 4))),
            *(f"g:{i}" for i in range(rng.integers(0, 5))), "a:"]  # fmt: skip
    rows = {k: random_block(rng, BY_PREFIX[k[0]]) if rng.random() < 0.8 else None for k in keys}
    times = NOW - np.sort(rng.integers(0, 90 * DAY, rng.choice([0, 3, 20, 130])))[::-1]
    history = [(int(rng.choice(ITEMS)), int(rng.integers(1, 3)), int(t)) for t in times]
    candidates = [int(i) for i in rng.permutation([*ITEMS, 99, 100])[: rng.integers(0, 20)]]
    births = [0, NOW - 30 * DAY, NOW - 30 * DAY + 1, NOW - 3 * DAY, NOW, NOW + DAY]
    born = {c: int(rng.choice(births)) for c in candidates}
    return Request(rows, history, candidates, born, int(rng.integers(0, 6)))


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
@settings(deadline=None)
def test_equals_the_formulas(seed: int) -> None:
    request = random_request(seed)
    x = features([request])
    assert x.shape == (len(request.candidates), len(SCHEMA.cross))
    for row, item in zip(x, request.candidates, strict=True):
        expected = reference(SCHEMA, request, item)
        assert set(expected) == set(SCHEMA.cross)
        np.testing.assert_allclose(row, [expected[c] for c in SCHEMA.cross], rtol=2e-4, atol=2e-5)


@given(SEEDS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_a_candidate_stands_for_itself(seed: int, rnd: object) -> None:
    request = random_request(seed)
    x = features([request])
    order = list(range(len(request.candidates)))
    rnd.shuffle(order)  # type: ignore[attr-defined]
    some = order[: len(order) // 2 + 1]
    chosen = replace(request, candidates=[request.candidates[i] for i in some])
    assert (features([chosen]) == x[some]).all()


@given(st.lists(SEEDS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_a_request_stands_for_itself(seeds: list[int]) -> None:
    requests = [random_request(s) for s in seeds]
    alone = [features([r]) for r in requests]
    assert (features(requests) == np.concatenate(alone)).all()
    statistics = [request_features(SCHEMA, as_inputs([r])) for r in requests]
    together = request_features(SCHEMA, as_inputs(requests))
    np.testing.assert_array_equal(together, np.concatenate(statistics))


@given(st.lists(SEEDS, min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=50)
def test_a_slice_is_the_inputs_of_its_requests(seeds: list[int], data: st.DataObject) -> None:
    requests = [random_request(s) for s in seeds]
    low = data.draw(st.integers(0, len(requests)))
    high = data.draw(st.integers(low, len(requests)))
    whole, alone = as_inputs(requests), as_inputs(requests[low:high])
    part = whole.slice(low, high)
    assert part.blocks is whole.blocks
    for name in ("time", "key_level", "key_offsets", "hist_items", "hist_actions", "hist_times",
                 "hist_offsets", "tokens"):  # fmt: skip
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    chosen = requests[low:high]
    ids = np.array([c for r in chosen for c in r.candidates], np.int64)
    born = np.array([r.created.get(c, 0) for r in chosen for c in r.candidates], np.int64)
    x = cross_features(SCHEMA, part, ids, offsets([len(r.candidates) for r in chosen]), born)
    assert (x == features(chosen)).all()


def test_nothing_known_is_all_zero_but_the_unknown_age() -> None:
    x = features([Request(candidates=[5, 6])])
    expected = np.zeros((2, len(SCHEMA.cross)), np.float32)
    expected[:, SCHEMA.cross.index("item:age_unknown")] = 1.0
    assert (x == expected).all()
    assert features([]).shape == (0, len(SCHEMA.cross))


def test_a_log_without_segments_or_with_one_action_pays_nothing_for_them() -> None:
    plain = FeatureSchema(("view", "click", "save"), ("view",), ("engagement", "save"))
    more = set(SCHEMA.cross) - set(plain.cross)
    assert more == {"s:engage:30d", "s:engage:all"}
    assert plain.hash() != SCHEMA.hash()
    assert replace(SCHEMA, segments=("country", "os")).hash() != SCHEMA.hash()
    single = FeatureSchema(("view", "click"), ("view",), ("engagement",))
    assert [c for c in single.cross if c.startswith("user:touched")] == ["user:touched"]


def test_a_request_may_lack_some_segments_or_all() -> None:
    level, rng = BY_PREFIX["s"], np.random.default_rng(4)
    block = random_block(rng, level, 12)
    item = int(unpack(block, SCHEMA.columns(level)).ids[0])
    both = Request({"s:country=de|x": block, "s:device=tv|x": None}, candidates=[item])
    one = Request({"s:country=de|x": block}, candidates=[item])
    none = Request({"q:x": None}, candidates=[item])
    at = SCHEMA.cross.index("s:engage:all")
    assert features([both])[0, at] == features([one])[0, at] > 0
    assert features([none])[0, at] == 0


def test_what_the_retriever_said_enters_as_it_is_and_as_missing() -> None:
    request = Request(candidates=[1, 2, 3, 4])
    told = np.array([[0.5, 0], [np.nan, 7], [-2, np.nan], [np.nan, np.nan]], np.float32)
    names = ("retriever:score", "retriever:log_rank", "retriever:absent")

    def columns(retriever: tuple[str, ...], told: NDArray[np.float32] | None) -> list[list[float]]:
        schema = replace(SCHEMA, retriever=retriever)
        assert set(schema.cross) - set(SCHEMA.cross) <= set(names)
        none, bounds = np.zeros(4, np.int64), np.array([0, 4])
        x = cross_features(schema, as_inputs([request]), np.arange(1, 5), bounds, none, told)
        assert (x[:, : len(SCHEMA.cross)] == features([request])).all()
        return [x[:, schema.cross.index(n)].tolist() for n in names if n in schema.cross]

    logs = [0, float(np.log1p(np.float32(7))), 0, 0]
    assert columns(("score", "rank"), told) == [[0.5, 0, -2, 0], logs, [0, 0, 0, 1]]
    assert columns(("rank",), told[:, 1:]) == [logs, [0, 0, 1, 1]]
    assert columns(("score",), None) == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert columns((), None) == []


def test_an_item_is_fresh_for_thirty_days_only() -> None:
    level = BY_PREFIX["q"]
    columns = SCHEMA.columns(level)
    row = pack(np.arange(4), np.full((4, len(columns)), 9.0), columns, level)
    born = {0: NOW - 30 * DAY, 1: NOW - 30 * DAY + HOUR, 2: 0, 3: NOW + HOUR}
    x = features([Request({"q:x": row}, candidates=[0, 1, 2, 3], created=born)])
    iqp, fresh = (x[:, SCHEMA.cross.index(c)] for c in ("q:engage:30d", "fresh:q:engage:30d"))
    assert (iqp > 0).all()
    assert fresh.tolist() == [0, iqp[1], 0, 0]


def test_an_empty_row_says_no_more_than_no_row() -> None:
    level = BY_PREFIX["q"]
    columns = SCHEMA.columns(level)
    empty = pack(np.zeros(0, np.int64), np.zeros((0, len(columns))), columns, level)
    assert (
        features([Request({"q:x": empty}, candidates=[5])])
        == features([Request({"q:x": None}, candidates=[5])])
    ).all()


def test_ids_beyond_the_history_length_are_forgotten() -> None:
    history = [(7, 1, NOW - HOUR * (200 - i)) for i in range(20)]
    history += [(8, 1, NOW - HOUR * (100 - i)) for i in range(100)]
    x = dict(zip(SCHEMA.cross, features([Request(history=history, candidates=[7, 8])]).T,
                 strict=True))  # fmt: skip
    assert x["user:touched"].tolist() == [0, 1]
    assert x["user:count"][1] == pytest.approx(math.log1p(100), rel=1e-5)


def widen(block: bytes) -> bytes:
    return block + bytes(8)


def other_columns(_: bytes) -> bytes:
    level = BY_PREFIX["q"]
    schema = FeatureSchema(("view", "click", "other"), ("view",), ("engagement",))
    columns = schema.columns(level)
    return pack(np.array([1]), np.ones((1, len(columns))), columns, level)


@pytest.mark.parametrize(
    "damage",
    [
        widen,
        other_columns,
        lambda b: b[:-8],
        lambda b: b[:8],
        lambda b: bytes([b[0] + 1]) + b[1:],
        lambda b: b[:8] + bytes([b[8] ^ 1]) + b[9:],
        lambda b: b[:4] + bytes([b[4] + 1]) + b[5:],
        lambda b: b[:7] + b"\xff" + b[8:],
    ],
)
def test_a_damaged_row_is_refused(damage: Callable[[bytes], bytes]) -> None:
    level = BY_PREFIX["q"]
    columns = SCHEMA.columns(level)
    good = pack(np.arange(3), np.ones((3, len(columns))), columns, level)
    assert features([Request({"q:x": good}, candidates=[1])]).any()
    with pytest.raises(RowError, match="level 'q'"):
        features([Request({"q:y": good[:-1] + b"\0", "q:x": damage(good)}, candidates=[1])])


def test_a_row_of_another_level_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(RowError, match="level 'q'"):
        features([Request({"q:x": random_block(rng, BY_PREFIX["t"])}, candidates=[1])])


def test_request_statistics() -> None:
    level = BY_PREFIX["q"]
    columns = SCHEMA.columns(level)
    counts = np.zeros((3, len(columns)))
    counts[:, columns.index("engage:all")] = 4.0, 5.0, 0.0
    counts[:, columns.index("engage:30d")] = 2.0, 1.0, 0.0
    counts[:, columns.index("engage:7d")] = 1.0, 0.0, 0.0
    counts[:, columns.index("view:all")] = 50.0, 0.0, 3.0
    block = pack(np.array([1, 2, 3]), counts, columns, level)
    history = [(1, 1, NOW - HOUR * (300 - i)) for i in range(120)]
    found = request_features(
        SCHEMA,
        as_inputs([
            Request({"q:x": block}, history, tokens=3),
            Request({"q:x": None}, [], tokens=0),
            Request(),
        ]),
    )  # fmt: skip
    first = dict(zip(REQUEST_NUMERIC, found[0].tolist(), strict=True))
    assert first == pytest.approx({
        "query:log_total": math.log1p(9), "query:log_distinct": math.log1p(3),
        "query:recent_share": 3 / 9, "query:thinness": 3 / 12, "query:log_tokens": math.log1p(3),
        "user:log_history": math.log1p(100), "user:log_hours_since_last": math.log1p(181),
    }, rel=1e-5)  # fmt: skip
    np.testing.assert_allclose(found[1], [0, 0, 0, 1, 0, 0, np.nan])
    np.testing.assert_allclose(found[2, [0, 3, 5, 6]], [0, 1, 0, np.nan])
