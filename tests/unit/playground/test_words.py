"""Every feature that a schema can have is told in words."""

from __future__ import annotations

from dataclasses import replace

from tests import samples

from interactrank.features.schema import LEVELS, REQUEST_NUMERIC
from prerank.playground.words import about, level_title


def test_every_feature_and_level_has_words() -> None:
    schema = replace(
        samples.SCHEMA,
        retriever=("score", "rank"),
        candidate_features=("price",),
        exposure=True,
        graph=True,
    )
    names = (*schema.cross, *REQUEST_NUMERIC, "item:price")
    own = [about(name) for name in names if not name.endswith(":absent")]
    assert not set(own) & set(names)
    assert len(set(own)) == len(own)
    assert all(level_title(level.prefix) for level in LEVELS)
    assert about("q:coec:30d").endswith("for this query, last 30 days")
    assert about("of:nobody") == "of:nobody"
