"""How many requests an A/B test and an interleaving need to tell the same two rankers apart.

    python benchmarks/interleaving.py [--seeds 10]

Searchers of a simulated board get the candidates that its retriever finds, ranked by their true
relevance with noise: the better ranker has less of it. They click by relevance, place and patience
(``prerank.simulate.acts``). An A/B test deals the users and compares fulfilment; an interleaving
merges both rankings for everybody and counts whose items are clicked. Both look after every 100
requests, with the intervals of ``prerank.online_tests.statistics``, and stop when the interval
leaves 0. Where it does not by the last request, that is what is shown.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.online_tests.statistics import half_width, ratio
from prerank.serving.experiment import Experiment, Variant
from prerank.serving.interleaving import team_draft
from prerank.simulate import PRESETS
from prerank.simulate.acts import act
from prerank.simulate.draws import draw_batch, taken
from prerank.simulate.presets import DAY, LOG_START
from prerank.simulate.relevance import Memory, score_impressions
from prerank.simulate.retrieval import Retriever
from prerank.simulate.world import build_world

LOOK, ALPHA, PLANNED = 100, 0.05, 10_000
NOISE = 0.8
"""Of the better ranker, in logits of the true relevance."""
CLICK = 1
RATES = "worse", "better"
TICK = 2_000


@dataclass(frozen=True)
class Pages:
    """What was shown and clicked: items and clicks [N, I], the users [N]."""

    items: NDArray[np.int64]
    clicks: NDArray[np.bool_]


class Board:
    """Searches of a simulated board, and what is clicked on a page.

    Args:
        preset: name of the world. seed: of it and of all that is drawn. requests: to draw.
    """

    def __init__(self, preset: str, seed: int, requests: int) -> None:
        self.world = build_world(PRESETS[preset], seed)
        self._rng = np.random.default_rng([seed, 15])
        memory, retriever = Memory(self.world), Retriever(self.world)
        edges = LOG_START + DAY * np.array([10.0, 24.0])
        self._batch, _ = draw_batch(self.world, requests, edges, self._rng)
        self.users = self._batch.user
        found = [
            retriever.show(taken(self._batch, rows), memory, self._rng) for rows in self._ticks()
        ]
        self.items = np.concatenate(found)
        self._memory = memory
        self.truth = np.concatenate(
            [
                score_impressions(self.world, taken(self._batch, rows), memory, self.items[rows])[0]
                for rows in self._ticks()
            ]
        )

    def _ticks(self) -> list[NDArray[np.int64]]:
        rows = np.arange(len(self._batch.time))
        return np.array_split(rows, max(len(rows) // TICK, 1))

    def ranked(self, noise: float) -> NDArray[np.int64]:
        """Places [N, I] of the candidates in a ranking by relevance with noise, the best first."""
        clipped = np.clip(self.truth, 1e-6, 1 - 1e-6)
        logit = np.log(clipped / (1 - clipped))
        seen = logit + noise * self._rng.normal(size=logit.shape)
        return np.argsort(np.where(self.items >= 0, -seen, np.inf), axis=1, kind="stable")

    def clicks(self, order: NDArray[np.int64]) -> NDArray[np.bool_]:
        """What is clicked [N, I] on pages in an order."""
        items = np.take_along_axis(self.items, order, axis=1)
        truth = np.take_along_axis(self.truth, order, axis=1)
        done = [
            act(self.world, taken(self._batch, rows), items[rows], truth[rows], self._rng).done
            for rows in self._ticks()
        ]
        return np.concatenate(done, axis=1)[CLICK]


def stopped(totals: NDArray[Any], counts: NDArray[Any], users: NDArray[Any]) -> Any:
    """A rate and its standard error at each look: two [looks].

    Args:
        totals, counts: of each request [N]. users: their codes [N].
    """
    values, errors = [], []
    for until in range(LOOK, len(users) + 1, LOOK):
        sums: list[Any] = [
            np.bincount(users[:until], one[:until], users.max() + 1) for one in (totals, counts)
        ]
        value, error = ratio(sums[0], sums[1])
        values.append(value)
        errors.append(error)
    return np.array(values), np.array(errors)


def first(values: NDArray[Any], errors: NDArray[Any], better: bool = True) -> int | None:
    """Requests at the first look whose interval leaves 0 (to the better side); None: at none."""
    looks = LOOK * np.arange(1, len(values) + 1)
    half = half_width(errors, looks, ALPHA, PLANNED)
    left = (values - half > 0) if better else (np.abs(values) > half)
    return int(looks[np.argmax(left)]) if left.any() else None


def ab_test(board: Board, better: NDArray[np.int64], worse: NDArray[np.int64], seed: int) -> Any:
    """Differences of fulfilment and their errors at each look."""
    experiment = Experiment(
        "ab", (Variant("worse", 1, 0.5), Variant("better", 2, 0.5)), salt=str(seed)
    )
    dealt = np.array([experiment.draw(f"u{user}", "") for user in range(board.users.max() + 1)])
    treated = dealt[board.users] == 1
    clicks = board.clicks(np.where(treated[:, None], better, worse)).any(1).astype(float)
    sides = [
        stopped(clicks * side, side.astype(float), board.users) for side in (treated, ~treated)
    ]
    (new, new_error), (old, old_error) = sides
    return new - old, np.hypot(new_error, old_error)


def interleaving(board: Board, better: NDArray[np.int64], worse: NDArray[np.int64]) -> Any:
    """Margins of the better ranker's team and their errors at each look."""
    sizes = (board.items >= 0).sum(1).tolist()
    order, teams = better.copy(), np.full(better.shape, -1)
    for n, size in enumerate(sizes):
        rankings = worse[n, :size].tolist(), better[n, :size].tolist()
        drafted = team_draft(*rankings, size, n)
        order[n, :size] = [rankings[team][at] for team, at in drafted]
        teams[n, :size] = [team for team, _ in drafted]
    clicks = board.clicks(order)
    won, lost = ((clicks & (teams == team)).sum(1) for team in (1, 0))
    decided = (won != lost).astype(float)
    return stopped(np.sign(won - lost).astype(float), decided, board.users)


@dataclass(frozen=True)
class Compared:
    """Two rankers, told apart in two ways.

    Attributes:
        ab, drafts: requests at which the A/B test and the interleaving stopped; None: at none.
        worse, better: fulfilment of the two rankers, on all pages.
        times_fewer: requests that the interleaving needs for an interval of the same certainty.
    """

    ab: int | None
    drafts: int | None
    worse: float
    better: float
    times_fewer: float


def compared(preset: str, worse: float, seed: int, requests: int) -> Compared:
    """Tell a ranker of noise NOISE apart from one of noise ``worse``.

    The difference that the A/B test is to find is known from all pages ranked by either, far better
    than one test finds it; that of the interleaving is the margin that it measured.
    """
    board = Board(preset, seed, requests)
    good, bad = board.ranked(NOISE), board.ranked(worse)
    low, high = (float(board.clicks(order).any(1).mean()) for order in (bad, good))
    differences, ab_errors = ab_test(board, good, bad, seed)
    margins, errors = interleaving(board, good, bad)
    certainty = (margins[-1] / errors[-1]) ** 2 / ((high - low) / ab_errors[-1]) ** 2
    return Compared(
        first(differences, ab_errors), first(margins, errors), low, high, float(certainty)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--noise", type=float, nargs="+", default=[1.2, 1.8, 3.0])
    args = parser.parse_args()
    print(f"{args.preset}, up to {args.requests:,} requests, medians of {args.seeds} seeds")
    for noise in args.noise:
        found = [compared(args.preset, noise, seed, args.requests) for seed in range(args.seeds)]
        worse, better = (float(np.mean([vars(f)[name] for f in found])) for name in RATES)
        fewer = [f.times_fewer for f in found]
        print(
            f"fulfilment {worse:.3f} and {better:.3f} ({better / worse - 1:+.1%}): "
            f"A/B test {stops([f.ab for f in found], args.requests)}, "
            f"interleaving {stops([f.drafts for f in found], args.requests)}; at the same "
            f"certainty {np.median(fewer):.0f} times fewer ({min(fewer):.0f} to {max(fewer):.0f})",
            flush=True,
        )


def stops(found: list[int | None], requests: int) -> str:
    """Median of the requests at which tests stopped, their range, and how many did not."""
    known = [requests if one is None else one for one in found]
    open_ones = sum(one is None for one in found)
    return f"{np.median(known):,.0f} ({min(known):,} to {max(known):,}; {open_ones} undecided)"


if __name__ == "__main__":
    main()
