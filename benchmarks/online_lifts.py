"""Lifts of several worlds' online tests together, and how many searches would decide them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from prerank.online_tests.statistics import Rate

CERTAIN, POWER = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)
FULFILMENT, ENGAGEMENTS, CHANCE = "fulfilment", "engagements", "true chance of it"
ORACLE = "oracle"
"""Ranks by true relevance."""
PAPER = {
    ("interactrank", "bm25"): "+6.5%",
    ("interactrank", "two_tower"): "+3.7%",
    ("two_tower", "bm25"): "",
}
"""Pairs of variants, with the lift of search fulfilment that arXiv 2504.06609 reports online."""


@dataclass(frozen=True)
class World:
    """What the experiment of one world measured.

    Attributes:
        seed: of the world. searches: of the experiment.
        rates: variant -> name -> rate, of the users who were dealt to it.
        chances: variant -> control -> ratio of their true chances of fulfilment in the same
            searches, of all users; those of ``ORACLE`` too.
    """

    seed: int
    searches: int
    rates: Mapping[str, Mapping[str, Rate]]
    chances: Mapping[str, Mapping[str, Rate]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> World:
        """From ``to_dict``."""

        def of_each(name: str) -> dict[str, dict[str, Rate]]:
            return {
                variant: {key: Rate(**rate) for key, rate in own.items()}
                for variant, own in found[name].items()
            }

        return cls(found["seed"], found["searches"], of_each("rates"), of_each("chances"))

    def lift(self, name: str, of: str, control: str) -> Lift:
        """Of one variant over another, in this world."""
        if name == CHANCE:
            return Lift.of(self.chances[of][control])
        pair = self.rates[of][name], self.rates[control][name]
        error = math.hypot(*(rate.error / rate.value for rate in pair))
        return Lift(math.log(pair[0].value / pair[1].value), error)


@dataclass(frozen=True)
class Lift:
    """A relative difference: its logarithm, with the standard error."""

    log: float
    error: float

    @classmethod
    def of(cls, ratio: Rate) -> Lift:
        """Of a ratio of two variants."""
        return cls(math.log(ratio.value), ratio.error / ratio.value)

    @classmethod
    def mean(cls, lifts: Sequence[Lift]) -> Lift:
        """Of several worlds, each of which counts alike.

        The error is that of the users in each of them, so it says how well these worlds' lifts are
        known, and nothing of worlds that were not drawn.
        """
        errors = [lift.error for lift in lifts]
        return cls(sum(lift.log for lift in lifts) / len(lifts), math.hypot(*errors) / len(errors))

    @property
    def is_decided(self) -> bool:
        """Whether 0 is outside of the interval."""
        return abs(self.log) > CERTAIN * self.error

    def text(self) -> str:
        """With the plain 95% interval, which holds for one look."""
        half = CERTAIN * self.error
        at, *ends = (math.expm1(end) for end in (self.log, self.log - half, self.log + half))
        return f"{at:+.1%} ({ends[0]:+.1%} to {ends[1]:+.1%})"

    def needed(self, searches: int) -> int:
        """Searches that find such a lift 4 times of 5, where ``searches`` gave the error."""
        return math.ceil(searches * ((CERTAIN + POWER) * self.error / self.log) ** 2)


def table(worlds: Sequence[World]) -> str:
    """The lifts of all pairs in all worlds together, and in each of them."""
    searches = sum(world.searches for world in worlds)
    many = "worlds" if len(worlds) > 1 else "world"
    lines = [
        f"{len(worlds)} {many}, {searches:,} searches of the experiment. 95% intervals over users, "
        "for one look at the end;",
        f"{CHANCE}: of what both would have shown in the same searches, all of them",
    ]
    undecided = []
    for (of, control), paper in PAPER.items():
        lines += ["", f"{of} against {control}"]
        for name in (FULFILMENT, ENGAGEMENTS, CHANCE):
            each = [world.lift(name, of, control) for world in worlds]
            found = Lift.mean(each)
            by_world = ", ".join(f"{math.expm1(lift.log):+.1%}" for lift in each)
            of_paper = f"; the paper: {paper}" if paper and name == FULFILMENT else ""
            lines.append(f"  {name:18}{found.text():>28}   by world: {by_world}{of_paper}")
            if name == FULFILMENT and not found.is_decided:
                undecided.append(
                    f"{of} against {control} is undecided by what was clicked: for a lift of this "
                    f"size to be found 4 times of 5, {found.needed(searches):,} searches are "
                    "needed."
                )
    possible = (
        Lift.mean([Lift.of(world.chances[ORACLE][control]) for world in worlds]).text()
        + f" against {control}"
        for control in ("bm25", "two_tower", "interactrank")
    )
    lines += ["", f"by true relevance, which nobody knows, {CHANCE}: {'; '.join(possible)}"]
    return "\n".join(lines + [""] * bool(undecided) + undecided)
