"""Figures of the design's throw-away prototypes, which reference_points.py prints beside its own.

They were measured under other protocols: copied from the design, no result of this repository.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Prototypes:
    """What the design's throw-away prototypes measured: name -> (HITS@k, MRR)."""

    metric: str
    about: str
    figures: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


PROTOTYPES = {
    "bestbuy": Prototypes(
        "hits@3",
        "by request with exact counts of strictly earlier clicks, unless marked",
        {
            "popularity": (0.031, 0.110),
            "bm25": (0.687, 0.514),
            "iqp": (0.863, 0.762),
            "token": (0.881, 0.769),
            "subword": (0.899, 0.788),
            "linear": (0.911, 0.801),
            "trees": (0.898, 0.812),
            "two_tower": (0.836, 0.723),
            "two-tower with IQP, tokens and sequence": (0.867, 0.752),
        },
        {
            "popularity": "by click",
            "bm25": "by click",
            "linear": "ten features",
            "trees": "ten features",
            "two_tower": "by click",
            "two-tower with IQP, tokens and sequence": "by click",
        },
    ),
    "movielens_tags": Prototypes(
        "hits@10",
        "by event, counts of strictly earlier times",
        {
            "popularity": (0.015, 0.009),
            "bm25": (0.022, 0.013),
            "iqp": (0.200, 0.112),
            "rule": (0.415, 0.261),
            "two_tower": (0.053, 0.026),
            "two-tower with sequence": (0.063, 0.031),
            "ceiling": (0.508, None),
        },
        {"rule": "weights by hand"},
    ),
}
"""The prototypes' figures, not ours. A name that is no ranker of ours gets a row of its own."""
