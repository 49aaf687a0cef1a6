"""The contract that models and stores are made by: whoever changes it does so on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interactrank.features import schema
from interactrank.features.schema import LEVELS, FeatureSchema

FULL = FeatureSchema(
    ("view", "click", "save"),
    ("view",),
    ("engagement", "save"),
    item_numeric=("price",),
    segments=("country", "device"),
    item_embedding=("e0", "e1"),
    retriever=("score", "rank"),
)


def test_levels_are_as_documented() -> None:
    held = [(lv.prefix, lv.max_keys, lv.cap, lv.windows) for lv in LEVELS]
    assert held == [
        ("q", 1, 2000, ("7d", "30d", "all")),
        ("s", 3, 200, ("30d", "all")),
        ("c", 1, 500, ("30d", "all")),
        ("t", 8, 500, ("7d", "30d", "all")),
        ("g", 24, 256, ("7d", "30d", "all")),
        ("a", 1, 2000, ("7d", "30d", "all")),
    ]
    flags = {lv.prefix: (lv.per_action, lv.daily, lv.segmented) for lv in LEVELS}
    assert flags.pop("q") == (True, False, False)
    assert flags.pop("s") == (False, False, True)
    assert flags.pop("a") == (False, True, False)
    assert set(flags.values()) == {(False, False, False)}


def test_limits_are_as_documented() -> None:
    assert schema.WINDOWS == {"7d": 7, "30d": 30, "all": None}
    assert (schema.HISTORY_LENGTH, schema.HISTORY_TTL_DAYS) == (100, 730)
    assert (schema.MAX_KEYS_PER_REQUEST, schema.MAX_BYTES_PER_REQUEST) == (48, 262_144)
    assert schema.ROW_VERSION == 1


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (FULL, "1e2ac22d60991c9f"),
        (FeatureSchema(("click",), (), ("engagement",)), "1045ac5debf7bc76"),
    ],
    ids=["all that there is", "one action"],
)
def test_a_models_hash_changes_with_what_it_depends_on_only(
    of: FeatureSchema, expected: str
) -> None:
    # Of another hash, every model that was trained before is refused.
    assert of.hash() == expected
    assert FeatureSchema.from_dict(of.to_dict()) == of
    own = replace(of, candidate_features=("price",))
    assert own.hash() != expected
    assert FeatureSchema.from_dict(own.to_dict()) == own
    exposed = replace(of, exposure=True)
    assert exposed.hash() != expected
    assert FeatureSchema.from_dict(exposed.to_dict()) == exposed
    longer = replace(of, session_gap_minutes=60)
    assert longer.hash() != expected
    assert FeatureSchema.from_dict(longer.to_dict()) == longer
    near = replace(of, graph=True)
    assert near.hash() not in (expected, exposed.hash())
    assert FeatureSchema.from_dict(near.to_dict()) == near
    assert set(near.cross) - set(of.cross) == {
        "graph:user",
        "graph:query",
        "cosine:user",
        "cosine:query",
    }


def test_what_is_given_of_candidates_stands_last() -> None:
    own = ("price", "distance")
    columns = [f"candidate:{n}{absent}" for n in own for absent in ("", ":absent")]
    retrieved = list(FULL.given_cross)
    for of, before in ((FULL, retrieved), (replace(FULL, retriever=()), [])):
        given = replace(of, candidate_features=own)
        assert given.given == (*of.retriever, "candidate_price", "candidate_distance")
        assert list(given.given_cross) == before + columns
        assert given.cross == (*of.cross, *columns)


def test_exposure_adds_columns_and_no_bytes() -> None:
    exposed = replace(FULL, exposure=True)
    added = {
        "q": ("expected:30d", "expected:all", "clicked:30d", "clicked:all", "shown:all"),
        "t": ("expected:30d", "clicked:30d"),
        "g": ("expected:30d", "clicked:30d"),
        "a": ("expected:30d", "expected:all", "clicked:30d", "clicked:all", "shown:all"),
    }
    for level in LEVELS:
        own = tuple(f"exposure/{name}" for name in added.get(level.prefix, ()))
        assert exposed.exposures(level) == own
        assert exposed.columns(level) == (*FULL.columns(level), *own)
        assert FULL.cap(level) == level.cap
        size = exposed.cap(level) * (8 + 2 * len(exposed.columns(level)))
        assert size <= level.cap * (8 + 2 * len(FULL.columns(level)))
        # The rates of level "a" are those of the first windows of every level.
        assert level.exposed in ((), ("30d",), ("30d", "all"))
    at = len(FULL.cross) - len(FULL.given_cross)
    behind = (*FULL.cross[:at], *exposed.exposure_cross, *FULL.given_cross)
    assert exposed.cross == behind


def test_columns_of_x_by_what_the_log_has() -> None:
    assert FULL.engagements == FULL.touch_actions == ("click", "save")
    assert FULL.columns(LEVELS[1]) == ("engage:30d", "engage:all")
    assert FULL.columns(LEVELS[0])[3:6] == ("view:7d", "view:30d", "view:all")
    assert FULL.given_cross == (
        *("retriever:score", "retriever:log_rank", "retriever:inverse_rank", "retriever:absent"),
        *("anchor:next", "anchor:previous", "anchor:log_after", "anchor:log_before"),
    )
    assert replace(FULL, retriever=("score",)).given_cross == (
        "retriever:score",
        "retriever:absent",
    )
    two = FeatureSchema(("view", "click"), ("view",), ("engagement",))
    assert two.touch_actions == ()
    assert len(two.columns(LEVELS[0])) == 9
    assert two.columns(LEVELS[1]) == ()
    one = FeatureSchema(("click",), (), ("engagement",))
    assert one.columns(LEVELS[0]) == ("engage:7d", "engage:30d", "engage:all")
    assert not [name for name in one.cross if name.startswith("retriever")]
