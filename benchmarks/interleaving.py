"""How many requests an A/B test and an interleaving need to tell the same two rankers apart.

    python benchmarks/interleaving.py [--seeds 10]

Searchers of a simulated board get the candidates that its retriever finds, ranked by their true
relevance with noise: the better ranker has less of it. They click by relevance, place and patience
(``prerank.simulate.acts``). An A/B test deals the users and compares fulfilment; an interleaving
merges both rankings for everybody and counts whose items are clicked. Both look after every 20
requests, with the intervals of ``prerank online-report``, and stop when the interval leaves 0 and
there are as many users as a verdict needs. Where it does not by the last request, that is what is
shown.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerank.online_tests.results import ALPHA, FEWER, LEAST_USERS
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

LOOK, PLANNED = 20, 10_000
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


@dataclass(frozen=True)
class Looks:
    """What each look finds, [looks] of each.

    Attributes:
        values, errors: of an estimate, and its standard error.
        counts: requests that it is of; of an interleaving, those that one side won.
        users: who were seen; of an A/B test, of the side that has fewer.
    """

    values: NDArray[Any]
    errors: NDArray[Any]
    counts: NDArray[Any]
    users: NDArray[Any]

    def first(self, planned: float, either: bool = False) -> int | None:
        """Requests at the first look whose interval is above 0, or on either side; None: none."""
        half = half_width(self.errors, self.counts, ALPHA, planned)
        values = np.abs(self.values) if either else self.values
        left = (values > half) & (self.users >= LEAST_USERS)
        return LOOK * (int(np.argmax(left)) + 1) if left.any() else None

    @property
    def certainty(self) -> float:
        """Squared, of the last look."""
        return float((self.values[-1] / self.errors[-1]) ** 2)


def looked(
    totals: NDArray[Any], counts: NDArray[Any], users: NDArray[Any], of: NDArray[np.bool_]
) -> Looks:
    """A rate at each look.

    Args:
        totals, counts: of each request [N]. users: their codes [N].
        of: requests whose users count [N].
    """
    total, count, known = (np.zeros(users.max() + 1) for _ in range(3))
    found = []
    for start in range(0, len(users) - LOOK + 1, LOOK):
        rows = slice(start, start + LOOK)
        np.add.at(total, users[rows], totals[rows])
        np.add.at(count, users[rows], counts[rows])
        known[users[rows][of[rows]]] = 1
        found.append((*ratio(total, count), count.sum(), known.sum()))
    return Looks(*np.array(found, np.float64).T)


def ab_test(board: Board, better: NDArray[np.int64], worse: NDArray[np.int64], seed: int) -> Looks:
    """Differences of fulfilment."""
    experiment = Experiment(
        "ab", (Variant("worse", 1, 0.5), Variant("better", 2, 0.5)), salt=str(seed)
    )
    dealt = np.array([experiment.draw(f"u{user}", "") for user in range(board.users.max() + 1)])
    treated = dealt[board.users] == 1
    clicks = board.clicks(np.where(treated[:, None], better, worse)).any(1).astype(float)
    new, old = (
        looked(clicks * side, side.astype(float), board.users, side) for side in (treated, ~treated)
    )
    errors = np.hypot(new.errors, old.errors)
    users = np.minimum(new.users, old.users)
    return Looks(new.values - old.values, errors, new.counts + old.counts, users)


def interleaving(board: Board, better: NDArray[np.int64], worse: NDArray[np.int64]) -> Looks:
    """Margins of the better ranker's team."""
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
    everybody = np.ones(len(decided), bool)
    return looked(np.sign(won - lost).astype(float), decided, board.users, everybody)


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
    dealt, merged = ab_test(board, good, bad, seed), interleaving(board, good, bad)
    fewer = merged.certainty / ((high - low) / float(dealt.errors[-1])) ** 2
    return Compared(dealt.first(PLANNED), merged.first(PLANNED / FEWER), low, high, fewer)


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
