"""Experiments: which variant of the ranking a request gets, and what is written down of it.

An experiment is part of the Serve file's ``user_config``. Who gets which variant depends on the
user's id and the experiment's salt alone, so that a user stays with one, on every replica.

    ab          the variant that is drawn answers
    interleave  the control answers; if another variant is drawn, its ranking and the control's are
                merged into one, by team draft
    shadow      the control answers; if another variant is drawn, it scores the request afterwards,
                and what it would have changed is measured

The first variant is the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prerank.core.errors import ConfigError
from prerank.core.ids import SEPARATOR, hash_all
from prerank.core.settings import typed

AB, INTERLEAVE, SHADOW = "ab", "interleave", "shadow"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")]
ROUNDING = 1e-6
"""By which shares may miss 1."""


@dataclass(frozen=True)
class Variant:
    """One of the rankings that are compared.

    Attributes:
        name: in answers, metrics and reports.
        version: number of a registered version, or an alias, which is followed when it moves; or
            "retriever" for the candidates in the caller's order.
        share: of the users, 0 to 1.
    """

    name: Name
    version: Annotated[str | int, Field(union_mode="left_to_right")]
    share: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Experiment:
    """What is compared, and for whom.

    Attributes:
        name: by which it is found in the served log. Another split of the users is another
            experiment, under another name.
        variants: two or more; the first is the control. Their shares sum to 1.
        mode: "ab", "interleave" or "shadow".
        salt: another one deals the users anew; the name where it is left out.
    """

    name: Name
    variants: Annotated[tuple[Variant, ...], Field(min_length=2, max_length=10)]
    mode: Literal["ab", "interleave", "shadow"] = "ab"
    salt: str | None = None

    def __post_init__(self) -> None:
        shares, names = [v.share for v in self.variants], [v.name for v in self.variants]
        if abs(sum(shares) - 1) > ROUNDING:
            raise ConfigError(
                f"experiment {self.name}: the shares sum to {sum(shares):g}; make them sum to 1"
            )
        if len({*names}) < len(names):
            raise ConfigError(f"experiment {self.name}: give each variant a name of its own")

    @property
    def shares(self) -> dict[str, float]:
        """Share by name, the control first."""
        return {variant.name: variant.share for variant in self.variants}

    def draw(self, user_id: str, request_id: str) -> int:
        """Place of the variant of a user; of a request whose user is not known (an empty text)."""
        place = self._uniform("user", user_id) if user_id else self._uniform("request", request_id)
        drawn, edges = self._edges
        # The greatest hash is 1 as a float.
        return drawn[min(int(np.searchsorted(edges, place, side="right")), len(drawn) - 1)]

    def seed(self, request_id: str) -> int:
        """Of what is left to chance in a request; the same whenever it is asked."""
        return int(hash_all([self._about("draft", request_id)]).view(np.uint64)[0])

    @cached_property
    def _edges(self) -> tuple[list[int], NDArray[np.float64]]:
        """Places of the variants that are drawn at all, and where the range of each one ends."""
        drawn = [at for at, variant in enumerate(self.variants) if variant.share]
        edges = np.cumsum([self.variants[at].share for at in drawn])
        return drawn, edges / edges[-1]

    def _about(self, *what: str) -> str:
        return SEPARATOR.join((self.name if self.salt is None else self.salt, *what))

    def _uniform(self, *what: str) -> float:
        return float(hash_all([self._about(*what)]).view(np.uint64)[0]) / 2.0**64


@dataclass(frozen=True)
class UserConfig:
    """``user_config`` of the deployment ``PreRanker``: what changes without a restart.

    Attributes:
        experiment: that runs; None for none.
    """

    experiment: Experiment | None = None


def experiment_of(user_config: Any) -> Experiment | None:
    """The experiment of a ``user_config``; None where it has none.

    Raises:
        ConfigError: naming the key that is wrong, and the fix.
    """
    return typed(UserConfig, user_config or {}, what="user_config").experiment


@dataclass(frozen=True)
class Trial:
    """What an experiment made of a request.

    Attributes:
        experiment: that ran. variant: that was drawn.
        fallback: the champion answered in place of a version that could not.
        compared: number of the version that scored beside the control's; "" where none did.
        teams: of each item of an interleaved answer: 0 for the control's, 1 for the variant's.
        overlap: share of the shadow's best k that was in the answer. difference: mean absolute
            difference of the scores of those items. None where no shadow scored.
    """

    experiment: Experiment
    variant: str
    fallback: bool = False
    compared: str = ""
    teams: Sequence[int] | None = None
    overlap: float | None = None
    difference: float | None = None

    def told(self) -> dict[str, Any]:
        """What the caller is told."""
        found: dict[str, Any] = {"experiment": self.experiment.name, "variant": self.variant}
        return found | ({"fallback": True} if self.fallback else {})

    def row(self, items: int) -> dict[str, Any]:
        """Columns of the served log (``prerank.core.served``), of an answer's best ``items``."""
        return {
            "experiment": self.experiment.name,
            "mode": self.experiment.mode,
            "variant": self.variant,
            "shares": [*self.experiment.shares.items()],
            "fallback": self.fallback,
            "compared_version": self.compared or None,
            "teams": None if self.teams is None else list(self.teams[:items]),
            "overlap": self.overlap,
            "score_difference": self.difference,
        }


TOLD = ("experiment", "variant", "fallback")
"""Of an answer's body, what ``Trial.told`` put there."""
