"""What the gate asks for: the ``gate`` part of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prerank.core.errors import ConfigError


@dataclass(frozen=True)
class GateConfig:
    """When a version may become the champion.

    Attributes:
        margin: by how much MRR and recall@cut may be below the champion's on the newest labelled
            requests. A version passes where the whole 95% interval of the difference is above
            minus the margin.
        requests: at most so many of these requests are measured, a seeded sample.
        undecided: "fail" or "pass", what a check counts as that could not be decided, such as for
            want of labelled requests.
        golden_ms: what one golden request may take in the median, in milliseconds.
    """

    margin: float = 0.02
    requests: int = 4_000
    undecided: Literal["fail", "pass"] = "fail"
    golden_ms: float = 100.0

    def __post_init__(self) -> None:
        # A NaN is refused too.
        if not 0 <= self.margin < 1:
            raise ConfigError(f"gate margin: {self.margin} must be at least 0 and below 1.")
        if self.requests < 1:
            raise ConfigError(f"gate requests: {self.requests} measures nothing. Give 1 or more.")
        if not self.golden_ms > 0:
            raise ConfigError(f"gate golden_ms: {self.golden_ms} allows nothing. Give more than 0.")
