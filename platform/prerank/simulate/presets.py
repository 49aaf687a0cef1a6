"""Sizes and behavioural constants of the simulated world, and the package's errors.

::

    SimulationError (PrerankError)
    ├── UnknownPresetError      ConfigError: the preset's name is not in PRESETS
    ├── UnknownFormatError      ConfigError: the format's name is not in FORMATS
    ├── InvalidSizeError        ConfigError: a size, span or share that no log can have
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


class UnknownFormatError(SimulationError, ConfigError):
    """The format's name is not in `FORMATS`; the message lists the names that are."""


class InvalidSizeError(SimulationError, ConfigError):
    """Fewer than one request, row or day, both requests and rows, or a share out of range."""


class OutputExistsError(SimulationError, StateError):
    """The output folder already holds events; mixing two simulations would corrupt both."""


class MissingSimulationError(SimulationError, StateError):
    """The folder was not written by `simulate`, or its hidden/ part was removed."""


class UnknownRequestError(SimulationError, DataError):
    """The request id does not belong to this simulated log."""


class NotImpressedError(SimulationError, DataError):
    """The item was not among the impressions of the request."""


@dataclass(frozen=True)
class Motion:
    """How a world moves over days, beyond its users' drifting interests."""

    demand: float = 0.5  # standard deviation of a topic's log share of the searches, day by day
    demand_days: float = 15.0  # after which about a third of a topic's trend is left
    weekly: float = 0.3  # standard deviation of what a weekday adds to that log share
    wave: float = 0.8  # amplitude, in logits, of an item's ups and downs
    wave_days: tuple[float, float] = (20.0, 90.0)  # range of their periods
    appeal_days: float = 240.0  # period in which a (query, item) pair's appeal turns over
    popular_half_life: float = 10.0  # days after which a click counts half for popularity
    fade_half_life: float = 60.0  # days of age after which an item is retrieved half as often


@dataclass(frozen=True)
class Sessions:
    """How a session goes on from what was clicked."""

    goes_on: float = 0.75  # chance that a session with a click has another request
    limit: int = 6  # requests of a session at most
    gap: float = 60.0  # mean seconds from the click to the next request
    successor: float = 0.6  # chance that the next topic is the clicked item's successor topic
    steps: int = 12  # items stand on this many steps, without regard to topic or text
    step: float = 6.0  # logit of an item on the step after the clicked item's
    outcome: float = 1.0  # times ±1 (here to keep, or to look) times how keepable the item is
    saves: float = 1.5  # logit that being here to keep adds to saving, and to look takes away
    same: float = 0.0  # chance that the next request is the same search, which shows its list again
    again: float = 0.0  # logit of the clicked item itself
    onward: float = 0.0  # logit of the item below the clicked one


@dataclass(frozen=True)
class Preset:
    """How large a world is. Vocabulary is per topic; `days` is the span of the log.

    motion and sessions: None for a world without. spammers: share of all accounts that boost items
    (`prerank.simulate.spam`). daily: one file per day of the log, else parts of equal size.
    price: logit that an item loses when it costs e times as much. Above 0, items have a price of
    the day, which the log has of each row; 0: no prices.
    bias: how many times as fast as elsewhere attention falls down a list. Above 0, the log has the
    retriever's rank of each row, and the oracles tell what is engaged where it stands; 0: neither.
    full_ranker: deviation of a full ranker's scores from the logits of true relevance; the log then
    has them of each row (`l2_score`). None: it has none.
    """

    name: str
    requests: int
    items: int
    users: int
    days: int
    topics: int
    queries: int
    words_per_topic: int
    motion: Motion | None = None
    sessions: Sessions | None = None
    spammers: float = 0.0
    daily: bool = False
    price: float = 0.0
    bias: float = 0.0
    full_ranker: float | None = None


LISTS: Final = Sessions(successor=0.0, step=0.0, same=0.9, again=3.0, onward=4.0)
"""Sessions that are about one list: people come back to it, and go on from where they were."""

PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset("tiny", 400, 200, 60, 20, 6, 40, 24),
        Preset("demo", 12_000, 1_500, 1_500, 40, 16, 500, 40),
        Preset("reference", 60_000, 8_000, 4_000, 60, 32, 3_000, 60),
        Preset("sequential", 12_000, 1_500, 1_500, 40, 16, 500, 40, sessions=Sessions()),
        Preset("priced", 12_000, 1_500, 1_500, 40, 16, 500, 40, price=2.0),
        Preset("impressions", 12_000, 1_500, 1_500, 40, 16, 500, 40, sessions=LISTS, bias=1.5),
        Preset(
            "stream", 40_000, 20_000, 20_000, 60, 32, 4_000, 60, Motion(), spammers=0.03, daily=True
        ),
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
LOG_START: Final = 1_735_689_600  # 2025-01-01T00:00:00Z, a Wednesday, seconds since the epoch
IMPRESSIONS: Final = 24  # most impressions a request may have
