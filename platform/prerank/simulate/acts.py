"""What searchers do with a page: examine, click, stay and save, and when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prerank.simulate.presets import DEVICE_DECAY
from prerank.simulate.relevance import Batch
from prerank.simulate.world import World

ACTIONS = ("impression", "click", "long_click", "save")
LEAVING = 0.4  # chance of leaving after each position, in lists that are left
LONGEST_DELAY = 20 * 3_600.0  # seconds; below a day, so a day's label window sees every action


@dataclass(frozen=True)
class Outcome:
    """What happened in a tick. items int64 [N, I] (-1: no impression); done bool [4, N, I] by
    ACTIONS; at float64 [4, N, I], event times in seconds, meaningful where done.
    """

    items: NDArray[np.int64]
    done: NDArray[np.bool_]
    at: NDArray[np.float64]


def act(
    world: World,
    batch: Batch,
    items: NDArray[np.int64],
    truth: NDArray[np.float64],
    rng: np.random.Generator,
) -> Outcome:
    """Examination falls with position; only what is examined can be engaged with."""
    shape = items.shape
    position = np.arange(1, shape[1] + 1)
    examined = rng.random(shape) < position ** -_decay(world, batch)
    leaves = rng.random(shape[0]) < world.behaviour.abandon
    depth = np.where(leaves, rng.geometric(LEAVING, size=shape[0]), shape[1])
    shown = items >= 0
    click = shown & examined & (position <= depth[:, None]) & (rng.random(shape) < truth)
    if batch.boost is not None:
        # Who came to click one item looks until it is found.
        click |= items == np.where(batch.boost < 0, -2, batch.boost)[:, None]
    quality = world.items.quality[items]
    stays = 1 / (1 + np.exp(-(3 * (truth - 0.4) + 0.6 * quality)))
    keeps = 2 * (truth - 0.9) + 0.6 * quality
    if world.series is not None and batch.going is not None:
        keeps = keeps + world.series.sessions.saves * batch.going.keeping[:, None]
    keeps = 1 / (1 + np.exp(-keeps))
    long_click = click & (rng.random(shape) < stays)
    save = click & (rng.random(shape) < keeps)

    seen_at = batch.time[:, None] + 0.2 + 0.1 * position
    click_at = seen_at + position * rng.exponential(1.5, size=shape)
    dwell = 30.0 + rng.lognormal(3.5, 0.8, size=shape)
    reflection = rng.lognormal(4.5, 1.8, size=shape)
    at = np.stack([seen_at, click_at, click_at + dwell, click_at + reflection])
    at = np.minimum(at, (batch.time + LONGEST_DELAY)[:, None])
    return Outcome(items, np.stack([shown, click, long_click, save]), at)


def attention(world: World, batch: Batch, size: int) -> NDArray[np.float64]:
    """P(position is looked at) of lists of `size`, float64 [N, size], as `act` draws it."""
    position = np.arange(1, size + 1)
    stays = 1 - world.behaviour.abandon * (1 - (1 - LEAVING) ** (position - 1))
    return np.asarray(stays * position ** -_decay(world, batch))


def _decay(world: World, batch: Batch) -> NDArray[np.float64]:
    decay = np.array(DEVICE_DECAY)[world.users.device[batch.user]][:, None]
    return np.asarray(decay * (world.preset.bias or 1.0))
