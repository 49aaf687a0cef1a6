"""How feature tables are made: the ``features`` part of a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from prerank.core.errors import ConfigError


@dataclass(frozen=True)
class FeatureConfig:
    """How snapshots are taken.

    Attributes:
        cadence_hours: hours from one snapshot to the next: a divisor of 24, or whole days. Null
            means 1 for a log of fewer than ten million events, else 24, when its features are
            built first; later builds keep it.
        lag_minutes: minutes from a snapshot's cutoff to its publication.
        user_cap: engagements of one user with one item that count, by each action, in a window of a
            row: the latest ones. Null counts all. A cap keeps accounts that click an item again
            and again from raising it.
    """

    cadence_hours: int | None = None
    lag_minutes: int = 0
    user_cap: int | None = None

    def __post_init__(self) -> None:
        if self.cadence_hours is not None and (
            self.cadence_hours < 1 or (24 % self.cadence_hours and self.cadence_hours % 24)
        ):
            raise ConfigError(
                f"config features.cadence_hours: {self.cadence_hours} must divide a day, or be "
                "whole days."
            )
        if self.lag_minutes < 0:
            raise ConfigError(
                f"config features.lag_minutes: {self.lag_minutes} would publish a snapshot before "
                "its cutoff, and so leak the future. Give 0 or more."
            )
        if self.user_cap is not None and self.user_cap < 1:
            raise ConfigError(
                f"config features.user_cap: {self.user_cap} would count nothing. Give 1 or more, "
                "or null."
            )
