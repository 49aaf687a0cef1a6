"""Cross features against a plain reading of the formulas, and against their invariances."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.plain_requests import (
    BY_PREFIX,
    DAY,
    EXPOSED,
    HOUR,
    NOW,
    SCHEMA,
    SEEDS,
    Request,
    as_inputs,
    features,
    random_block,
    random_request,
)

from interactrank.features.engagement import cross_features
from interactrank.features.packed_rows import Row, pack, unpack
from interactrank.features.request_statistics import request_features
from interactrank.features.schema import (
    ANCHOR_CROSS,
    CLICKED,
    ENGAGE,
    EXPECTED,
    LEVELS,
    SHOWN,
    FeatureSchema,
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
        if schema.exposure and level.prefix in "tg":
            mine = [k for k in mine if mass(k)]
        for j, column in enumerate(schema.shares(level)):
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

    if schema.exposure:
        x |= exposure(schema, rows, rarity, item)
    recent = request.history[-100:][::-1]
    at = [i for i, (e, *_) in enumerate(recent) if e == item]
    x |= dict.fromkeys((f"user:decay_{d}" for d in ("1m", "1h", "1d", "30d")), 0.0)
    x["user:touched"], x["user:count"] = float(bool(at)), math.log1p(len(at))
    x["user:rank_recency"] = 1 / (1 + at[0]) if at else 0.0
    for action in ("click", "save"):
        code = schema.actions.index(action)
        x[f"user:touched:{action}"] = float((item, code) in [(e, a) for e, a, *_ in recent])
    led = [q for e, _, _, q in recent if e == item and q]
    x["user:same_query"] = float(request.query in led)
    if at:
        hours = (request.time - recent[at[0]][2]) / HOUR
        for name, scale in (("1m", 1 / 60), ("1h", 1), ("1d", 24), ("30d", 720)):
            x[f"user:decay_{name}"] = math.exp(-hours / scale)
    born = request.created.get(item, 0)
    known = 0 < born <= request.time
    x["item:age_unknown"] = float(not known)
    x["item:log_age_days"] = math.log1p((request.time - born) / DAY) if known else 0.0
    x["item:log_popularity"] = math.log1p(popularity)
    x["sparse:g:engage:all"] = 10 / (c_query + 10) * x["g:engage:all"]
    x["sparse:user:rank_recency"] = 3 / (c_query + 3) * x["user:rank_recency"]
    fresh = known and request.time - born < 30 * DAY
    x["fresh:q:engage:30d"] = x["q:engage:30d"] if fresh else 0.0
    return x


def exposure(
    schema: FeatureSchema, rows: dict[str, Row], rarity: dict[str, float], item: int
) -> dict[str, float]:
    """CoEC by window, and CTR, with kappa = 5."""

    def of(key: str, column: str, item: int | None = None) -> float:
        row, at = rows[key], schema.columns(BY_PREFIX[key.split(":")[0]]).index(column)
        if item is None:
            return float(row.totals[at])
        return float(row.counts[row.ids.tolist().index(item), at]) if item in row.ids else 0.0

    def ratio(key: str, clicked: str, shown: str) -> float:
        if "a:" not in rows or not of("a:", shown) or not of("a:", clicked):
            return 0.0
        of_all = of("a:", clicked) / of("a:", shown)
        of_key = (of(key, clicked) + 5 * of_all) / (of(key, shown) + 5)
        own = (of(key, clicked, item) + 5 * of_key) / (of(key, shown, item) + 5)
        return math.log(own / of_key)

    found = {}
    for level in LEVELS:
        mine = [k for k in rows if k.split(":")[0] == level.prefix]
        mine = [k for k in mine if level.exposed and of(k, f"{EXPECTED}:{level.exposed[-1]}")]
        pairs = {f"coec:{w}": (f"{CLICKED}:{w}", f"{EXPECTED}:{w}") for w in level.exposed}
        if level.rated:
            pairs["ctr:all"] = (f"{CLICKED}:all", f"{SHOWN}:all")
        for name, pair in pairs.items():
            parts = [rarity[k] / sum(rarity[m] for m in mine) * ratio(k, *pair) for k in mine]
            found[f"{level.prefix}:{name}"] = sum(parts)
    return found


@pytest.mark.parametrize("schema", [SCHEMA, EXPOSED], ids=["plain", "with exposure"])
@given(seed=SEEDS)
@settings(deadline=None)
def test_equals_the_formulas(schema: FeatureSchema, seed: int) -> None:
    request = random_request(seed, schema)
    x = features([request], schema)
    assert x.shape == (len(request.candidates), len(schema.cross))
    for row, item in zip(x, request.candidates, strict=True):
        expected = reference(schema, request, item)
        assert set(expected) == set(schema.cross)
        np.testing.assert_allclose(row, [expected[c] for c in schema.cross], rtol=2e-4, atol=2e-4)


def test_an_item_that_stands_in_no_row_is_neither_good_nor_bad() -> None:
    rows: dict[str, bytes | None] = {}
    for key in ("q:x", "t:x", "g:x", "a:"):
        level = BY_PREFIX[key[0]]
        columns = EXPOSED.columns(level)
        counts = np.full((3, len(columns)), 4.0)
        for at, name in enumerate(columns):
            if name.startswith((CLICKED, ENGAGE)):
                counts[:, at] = [0, 2, 4]
        rows[key] = pack(np.arange(3), counts, columns, level)
    x = features([Request(rows, candidates=[0, 1, 2, 50])], EXPOSED)
    first = EXPOSED.cross.index(EXPOSED.exposure_cross[0])
    found = x[:, first : first + len(EXPOSED.exposure_cross)]
    assert EXPOSED.exposure_cross == (
        *("q:coec:30d", "q:coec:all", "q:ctr:all", "t:coec:30d", "g:coec:30d"),
        *("a:coec:30d", "a:coec:all", "a:ctr:all"),
    )
    assert not found[3].any()
    assert (found[0] < 0).all()
    np.testing.assert_allclose(found[1], 0, atol=2e-4)
    assert (found[2] > 0).all()


def test_a_key_of_exposure_alone_takes_no_weight_from_those_that_were_engaged() -> None:
    """The shares of x are as if it had no row."""
    level = BY_PREFIX["t"]
    columns = EXPOSED.columns(level)
    engaged = pack(np.arange(3), np.full((3, len(columns)), 4.0), columns, level)
    counts = np.zeros((3, len(columns)))
    counts[:, len(EXPOSED.shares(level))] = 2.0
    shown = pack(np.arange(3), counts, columns, level)
    one = features([Request({"t:x": engaged}, candidates=[1, 9])], EXPOSED)
    both = features([Request({"t:x": engaged, "t:y": shown}, candidates=[1, 9])], EXPOSED)
    assert (one == both).all()


def test_many_different_counts_of_a_row_keep_their_shares() -> None:
    """Logarithms of counts are kept for when they come again: none is taken for another's."""
    level, n = BY_PREFIX["q"], 2000
    columns = SCHEMA.columns(level)
    counts = np.random.default_rng(0).integers(0, 3 * n, (n, len(columns))).astype(np.float64)
    counts[::3] = np.arange(len(counts[::3]))[:, None] % 7
    block = pack(np.arange(n), counts, columns, level)
    request = Request(rows={"q:shoe": block}, candidates=[*range(n, -1, -1)])
    row = unpack(block, columns)
    shares = np.log1p(1e3 * row.counts.astype(np.float64) / (row.totals + 1.0)) / np.log1p(1e3)
    found = features([request])[:, : len(columns)]
    assert not found[0].any()  # it stands nowhere
    np.testing.assert_allclose(found[1:], shares[::-1], rtol=0, atol=1e-7)


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
    names = (
        *("retriever:score", "retriever:log_rank", "retriever:inverse_rank", "retriever:absent"),
    )

    def columns(retriever: tuple[str, ...], told: NDArray[np.float32] | None) -> list[list[float]]:
        schema = replace(SCHEMA, retriever=retriever)
        assert set(schema.cross) - set(SCHEMA.cross) <= {*names, *ANCHOR_CROSS}
        none, bounds = np.zeros(4, np.int64), np.array([0, 4])
        x = cross_features(schema, as_inputs([request]), np.arange(1, 5), bounds, none, told)
        assert (x[:, : len(SCHEMA.cross)] == features([request])).all()
        return [x[:, schema.cross.index(n)].tolist() for n in names if n in schema.cross]

    ranks = [0, float(np.log1p(np.float32(7))), 0, 0], [1, 0.125, 0, 0]
    assert columns(("score", "rank"), told) == [[0.5, 0, -2, 0], *ranks, [0, 0, 0, 1]]
    assert columns(("rank",), told[:, 1:]) == [*ranks, [0, 0, 1, 1]]
    assert columns(("score",), None) == [[0, 0, 0, 0], [1, 1, 1, 1]]
    assert columns((), None) == []


def test_candidate_features_enter_by_their_logarithm_and_as_missing() -> None:
    request = Request(candidates=[1, 2, 3, 4])
    nan = float("nan")
    own = np.array([[20, nan], [-20, 0.5], [nan, nan], [3e38, 0]], np.float32)
    logs = [np.log(21), -np.log(21), 0, np.log(1e18)], [0, np.log(1.5), 0, 0]
    said = np.array([[0.5, 7], [nan, nan], [1, nan], [nan, 0]], np.float32)

    def columns(
        retriever: tuple[str, ...], told: NDArray[np.float32] | None
    ) -> dict[str, NDArray[np.float32]]:
        schema = replace(SCHEMA, retriever=retriever, candidate_features=("price", "d.km"))
        none, bounds = np.zeros(4, np.int64), np.array([0, 4])
        x = cross_features(schema, as_inputs([request]), np.arange(1, 5), bounds, none, told)
        assert (x[:, : len(SCHEMA.cross)] == features([request])).all()
        return dict(zip(schema.cross, x.T, strict=True))

    retrieved = columns(("score", "rank"), np.concatenate((said, own), axis=1))
    for found in (columns((), own), retrieved):
        np.testing.assert_allclose(found["candidate:price"], logs[0], rtol=1e-6)
        np.testing.assert_allclose(found["candidate:d.km"], logs[1], rtol=1e-6)
        assert found["candidate:price:absent"].tolist() == [0, 0, 1, 0]
        assert found["candidate:d.km:absent"].tolist() == [1, 0, 1, 0]
    assert retrieved["retriever:absent"].tolist() == [0, 1, 0, 0]
    assert retrieved["retriever:score"].tolist() == [0.5, 0, 1, 0]
    nothing = columns(("score",), None)
    for name in ("price", "d.km"):
        assert not nothing[f"candidate:{name}"].any()
        assert nothing[f"candidate:{name}:absent"].all()
    assert nothing["retriever:absent"].all()
    assert not nothing["retriever:score"].any()


def test_an_item_is_fresh_for_thirty_days_only() -> None:
    level = BY_PREFIX["q"]
    columns = SCHEMA.columns(level)
    row = pack(np.arange(5), np.full((5, len(columns)), 9.0), columns, level)
    born = {0: NOW - 30 * DAY, 1: NOW - 30 * DAY + HOUR, 2: 0, 3: NOW + HOUR, 4: -1}
    x = features([Request({"q:x": row}, candidates=list(born), created=born)])
    names = ("q:engage:30d", "fresh:q:engage:30d", "item:age_unknown")
    iqp, fresh, unknown = (x[:, SCHEMA.cross.index(c)] for c in names)
    assert (iqp > 0).all()
    assert fresh.tolist() == [0, iqp[1], 0, 0, 0]
    assert unknown.tolist() == [0, 0, 1, 1, 1]


def test_an_empty_row_says_no_more_than_no_row() -> None:
    level = BY_PREFIX["q"]
    columns = SCHEMA.columns(level)
    empty = pack(np.zeros(0, np.int64), np.zeros((0, len(columns))), columns, level)
    assert (
        features([Request({"q:x": empty}, candidates=[5])])
        == features([Request({"q:x": None}, candidates=[5])])
    ).all()


def test_ids_beyond_the_history_length_are_forgotten() -> None:
    history = [(7, 1, NOW - HOUR * (200 - i), 5) for i in range(20)]
    history += [(8, 1, NOW - HOUR * (100 - i), 5) for i in range(100)]
    x = dict(
        zip(SCHEMA.cross, features([Request(history=history, candidates=[7, 8])]).T, strict=True)
    )
    assert x["user:touched"].tolist() == x["user:same_query"].tolist() == [0, 1]
    assert x["user:count"][1] == pytest.approx(math.log1p(100), rel=1e-5)
