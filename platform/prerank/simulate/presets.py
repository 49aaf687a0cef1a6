"""Sizes and behavioural constants of the simulated world, and the package's errors.

::

    SimulationError (PrerankError)
    ├── UnknownPresetError      ConfigError: the preset's name is not in PRESETS
    ├── InvalidSizeError        ConfigError: a log of fewer than one request was asked for
    ├── OutputExistsError       StateError: the output folder already holds a simulation
    ├── MissingSimulationError  StateError: the folder holds no hidden scores
    ├── UnknownRequestError     DataError: the oracle never saw this request
    └── NotImpressedError       DataError: the request did not show this item
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prerank.core.errors import ConfigError, DataError, PrerankError, StateError


class SimulationError(PrerankError):
    """Base of every error the simulator raises on purpose."""


class UnknownPresetError(SimulationError, ConfigError):
    """The preset's name is not in `PRESETS`; the message lists the names that are."""


class InvalidSizeError(SimulationError, ConfigError):
    """Fewer than one request was asked for."""


class OutputExistsError(SimulationError, StateError):
    """The output folder already holds events; mixing two simulations would corrupt both."""


class MissingSimulationError(SimulationError, StateError):
    """The folder was not written by `simulate`, or its hidden/ part was removed."""


class UnknownRequestError(SimulationError, DataError):
    """The request id does not belong to this simulated log."""


class NotImpressedError(SimulationError, DataError):
    """The item was not among the impressions of the request."""


@dataclass(frozen=True)
class Preset:
    """How large a world is. Vocabulary is per topic; `days` is the span of the log."""

    name: str
    requests: int
    items: int
    users: int
    days: int
    topics: int
    queries: int
    words_per_topic: int


PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset("tiny", 400, 200, 60, 20, 6, 40, 24),
        Preset("demo", 12_000, 1_500, 1_500, 40, 16, 500, 40),
        Preset("reference", 60_000, 8_000, 4_000, 60, 32, 3_000, 60),
    )
}


def preset_named(name: str) -> Preset:
    """The preset called `name`; raises `UnknownPresetError` with the known names."""
    try:
        return PRESETS[name]
    except KeyError:
        known = ", ".join(sorted(PRESETS))
        raise UnknownPresetError(f"no preset is called {name!r}; use one of: {known}") from None


@dataclass(frozen=True)
class Behaviour:
    """Weights of the relevance logit and of the searcher's habits.

    They are calibrated together so that text, query-item counts and user history each carry
    part of the signal and none carries it all; changing one moves the documented marginals.
    """

    bias: float = -9.2
    intent: float = 3.8  # times the item's share of the request's topic
    concept: float = 3.0  # times share of the query's words the item is about, shown or not
    quality: float = 0.2  # times standard normal quality of the item
    freshness: float = 1.2  # times 2^(-age / 7 days)
    interest: float = 4.0  # times ⟨the user's interests now, the item's topics⟩
    style: float = 2.5  # when the item is in the user's favourite style
    region: float = 0.8  # times ⟨the country's taste, the item's topics⟩
    appeal: float = 2.0  # times standard normal per (query, item): what no text explains
    revisit: float = 3.0  # times 2^(-age / 10 days) of the user's latest touch of the item
    whim: float = 1.3  # times standard normal per (user, item, day): what no log explains
    spam_rate: float = 0.35  # a spammer engages with anything it examines
    abandon: float = 0.10  # share of lists left after the first few positions


BEHAVIOUR: Final = Behaviour()

COUNTRIES: Final = ("us", "de", "br", "in", "jp")
COUNTRY_SHARES: Final = (0.40, 0.20, 0.16, 0.14, 0.10)
DEVICES: Final = ("mobile", "desktop", "tablet")
DEVICE_SHARES: Final = (0.62, 0.30, 0.08)
# Examination falls as position^-decay: short screens hide more of the list.
DEVICE_DECAY: Final = (0.45, 0.25, 0.35)

DAY: Final = 86_400.0  # seconds
LOG_START: Final = 1_735_689_600  # 2025-01-01T00:00:00Z, seconds since the epoch
IMPRESSIONS: Final = 24  # most impressions a request may have
