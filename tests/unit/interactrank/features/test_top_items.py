"""Items that perform for a query, against a plain reading of the packed rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests import plain_requests
from tests.plain_requests import Request

from interactrank.features.inputs import FeatureInputs
from interactrank.features.packed_rows import pack, unpack
from interactrank.features.schema import LEVELS, FeatureSchema
from interactrank.features.top_items import TOP_ITEMS_LENGTH, top_items_of

SCHEMA = FeatureSchema(
    ("view", "click", "save"), ("view",), ("engagement",), segments=("country", "device")
)
BY_PREFIX = {level.prefix: level for level in LEVELS}
EXACT_FIRST = "qsctg"
SEEDS = st.integers(0, 2**32 - 1)

Rows = dict[str, bytes | None]
"""One request: its keys, in any order, each with a packed row or none."""


def block(key: str, counts: dict[int, float], cap: int = 100) -> bytes:
    """A row whose all-time engagement is ``counts``; its other columns would rank otherwise."""
    level = BY_PREFIX[key[0]]
    columns = SCHEMA.columns(level)
    ids = np.array(sorted(counts), np.int64)
    matrix = np.tile(np.arange(len(ids))[:, None] % 7, len(columns)).astype(float)
    matrix[:, columns.index("engage:all")] = [counts[i] for i in sorted(counts)]
    return pack(ids, matrix, columns, replace(level, cap=cap))


def as_inputs(requests: list[Rows]) -> FeatureInputs:
    return plain_requests.as_inputs([Request(rows) for rows in requests])


def top_items(requests: list[Rows]) -> list[list[tuple[int, float]]]:
    items, counts, offsets = top_items_of(SCHEMA, as_inputs(requests))
    assert len(items) == len(counts) == offsets[-1]
    pairs = list(zip(items.tolist(), counts.tolist(), strict=True))
    return [pairs[offsets[b] : offsets[b + 1]] for b in range(len(requests))]


def whole(requests: list[Rows]) -> list[list[tuple[int, float]]]:
    """The same with counts as they were before rows quantised them."""
    return [[(i, float(round(c))) for i, c in found] for found in top_items(requests)]


def reference(rows: Rows) -> list[tuple[int, float]]:
    for prefix in EXACT_FIRST:
        columns = SCHEMA.columns(BY_PREFIX[prefix])
        at = columns.index("engage:all")
        held = [unpack(b, columns) for k, b in rows.items() if b is not None and k[0] == prefix]
        held = [row for row in held if row.totals[at] > 0]
        if held:
            rarest = min(held, key=lambda row: float(row.totals[at]))
            counts = rarest.counts[:, at].tolist()
            pairs = [(i, c) for i, c in zip(rarest.ids.tolist(), counts, strict=True) if c > 0]
            return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:20]
    return []


def random_rows(rng: np.random.Generator) -> Rows:
    keys = [
        "q:ab",
        "s:country=de|ab",
        "s:device=tv|ab",
        "c:ab",
        "t:a",
        "t:b",
        "t:c",
        "g:1",
        "g:2",
        "g:3",
        "a:",
    ]
    present = rng.random()
    rows: Rows = {}
    for key in rng.permutation(keys).tolist():
        ids = rng.choice(np.arange(-30, 30), rng.integers(0, 50), replace=False).tolist()
        # Few values, so that many items tie; often none at all.
        most = int(rng.choice([1, 2, 4, 300]))
        counts = {int(i): float(rng.integers(0, most)) for i in ids}
        cap = int(rng.integers(1, 60))
        rows[key] = block(key, counts, cap) if rng.random() < present else None
    return rows


@given(SEEDS, st.integers(0, 4))
@settings(max_examples=50)
def test_equals_a_plain_reading_of_the_rows(seed: int, requests: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [random_rows(rng) for _ in range(requests)]
    assert top_items(rows) == [reference(r) for r in rows]


def test_the_most_exact_key_with_engagement_decides() -> None:
    # The less exact a key, the rarer here: how rare it is counts only among its like.
    keys = ["a:", "g:x", "t:x", "c:x", "s:country=de|x", "q:x"]
    rows: Rows = {key: block(key, {at: 10.0 + at}) for at, key in enumerate(keys)}
    for at in range(len(keys) - 1, 0, -1):
        assert whole([rows]) == [[(at, 10.0 + at)]]
        rows[keys[at]] = block(keys[at], {1: 0.0}) if at % 2 else None
    assert whole([rows]) == [[]], "items of all queries together perform for none of them"


def test_the_rarest_of_several_keys_decides() -> None:
    for prefix in "stg":
        often = block(f"{prefix}:often", {1: 5.0, 2: 5.0})
        seldom = block(f"{prefix}:seldom", {3: 9.0})
        orders: list[Rows] = [
            {f"{prefix}:often": often, f"{prefix}:seldom": seldom},
            {f"{prefix}:seldom": seldom, f"{prefix}:often": often},
        ]
        for rows in orders:
            assert whole([rows]) == [[(3, 9.0)]]


def test_how_rare_a_key_is_counts_what_its_row_cut_off() -> None:
    often: dict[int, float] = dict.fromkeys(range(30), 2.0) | {50: 3.0}
    rows: Rows = {
        "t:often": block("t:often", often, cap=1),
        "t:seldom": block("t:seldom", {7: 9.0}),
    }
    assert whole([rows]) == [[(7, 9.0)]]


def test_at_most_twenty_items_best_first_and_ties_by_id() -> None:
    counts = {i: float(1 + i % 2) for i in range(-30, 30)}
    ((*pairs,),) = whole([{"q:x": block("q:x", counts)}])
    assert TOP_ITEMS_LENGTH == 20
    assert pairs == [(i, 2.0) for i in range(-29, 11, 2)]


def test_a_key_without_a_row_and_no_requests_have_no_items() -> None:
    assert whole([{"q:x": None, "a:": block("a:", {1: 2.0})}, {}]) == [[], []]
    items, counts, offsets = top_items_of(SCHEMA, as_inputs([]))
    assert (len(items), len(counts), offsets.tolist()) == (0, 0, [0])


def test_types_are_as_promised() -> None:
    found: tuple[NDArray[np.generic], ...] = top_items_of(
        SCHEMA, as_inputs([{"q:x": block("q:x", {4: 2.0})}])
    )
    assert [a.dtype for a in found] == [np.int64, np.float32, np.int64]
