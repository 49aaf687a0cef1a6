"""The log writer: plays the world tick by tick and streams events and hidden scores out.

A tick is a few hours at most and about a thousand searches at most, and every state kept between
ticks is per user, item or query; memory therefore does not grow with the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prerank.core.progress import bar
from prerank.simulate.acts import Outcome, act, attention
from prerank.simulate.draws import concatenated, draw_batch, go_on, taken, with_spam
from prerank.simulate.pace import Pace
from prerank.simulate.relevance import Batch, Memory, score_impressions
from prerank.simulate.retrieval import Retriever
from prerank.simulate.summary import Marginals, SimulationSummary
from prerank.simulate.tables import (
    SCORES_SCHEMA,
    Names,
    event_table,
    events_schema,
    item_table,
    score_table,
)
from prerank.simulate.truth import write_spammers
from prerank.simulate.world import World
from prerank.simulate.writers import Folder, Form, write_items


@dataclass(frozen=True)
class Page:
    """Requests, the spelling of each int64 [N], what happened, the oracles' scores [N, I], and the
    topics that the log oracle guesses [N, K].
    """

    batch: Batch
    variant: NDArray[np.int64]
    outcome: Outcome
    truth: NDArray[np.float64]
    log_only: NDArray[np.float64]
    guess: NDArray[np.float64]


def write_log(
    world: World, out_dir: Path, pace: Pace, form: Form, *, progress: bool
) -> SimulationSummary:
    """Write the events, hidden/, the catalogue and, of worlds with spam or motion, truth/.

    All under `out_dir`, streamed.
    """
    write_items(form, item_table(world), out_dir)
    retriever, memory, marginals = Retriever(world), Memory(world), Marginals(world)
    names = Names(world)
    events = [
        Folder(out_dir / name, events_schema(world.preset), form.suffix, opens)
        for name, opens in form.events.items()
    ]
    scores = Folder(out_dir / "hidden", SCORES_SCHEMA, ".parquet", pq.ParquetWriter)
    seen = np.zeros(len(world.users.activity), dtype=np.bool_)
    unit = "row" if pace.of_rows else "request"
    with bar(progress, total=pace.target, unit=unit, desc="simulate") as counter:
        for tick in range(pace.ticks):
            rng = np.random.default_rng([world.seed, 2, tick])
            memory.advance(pace.edges[tick])
            done = marginals.rows if pace.of_rows else marginals.requests
            batch, variant = _drawn(world, pace, tick, done, rng)
            if len(batch.time):
                page = _play(world, retriever, memory, batch, variant, rng)
                count, day = len(page.variant), pace.day(tick) if world.preset.daily else None
                ids = names.request_ids(marginals.requests, count)
                l2 = l2_scores(world, page.truth, tick)
                table = event_table(world, names, ids, page.batch, page.variant, page.outcome, l2)
                for folder in events:
                    folder.add(table, count, day)
                shown = page.outcome.items
                scores.add(score_table(world, ids, shown, page.truth, page.log_only), count, day)
                marginals.add(page.batch, page.variant, shown, page.outcome.done)
                seen[page.batch.user] = True
                counter.update(table.num_rows if pace.of_rows else count)
    for folder in [*events, scores]:
        folder.close()
    if world.spam is not None or world.movement is not None:
        write_spammers(out_dir / "truth", world, names.users, seen)
    return marginals.summary()


def l2_scores(world: World, truth: NDArray[np.float64], tick: int) -> NDArray[np.float64] | None:
    """What a full ranker says [N, I], the logit of `truth` with noise; None where there is none."""
    deviation = world.preset.full_ranker
    if deviation is None:
        return None
    noise = np.random.default_rng([world.seed, 7, tick]).normal(0.0, deviation, truth.shape)
    known = truth.clip(1e-6, 1 - 1e-6)
    return np.asarray(np.log(known / (1 - known)) + noise)


def _drawn(
    world: World, pace: Pace, tick: int, done: int, rng: np.random.Generator
) -> tuple[Batch, NDArray[np.int64]]:
    """The searches of a tick, those of spamming accounts among them, by time."""
    edges = pace.edges[tick : tick + 2]
    if world.spam is None:
        return draw_batch(world, pace.searches(tick, done, 0), edges, rng)
    users = world.preset.users
    who, target = world.spam.requests(edges[0], edges[1], pace.requests, users, rng)
    batch, variant = draw_batch(world, pace.searches(tick, done, len(who)), edges, rng)
    return with_spam(world, batch, variant, edges, who, target, rng)


def _play(
    world: World,
    retriever: Retriever,
    memory: Memory,
    batch: Batch,
    variant: NDArray[np.int64],
    rng: np.random.Generator,
) -> Page:
    """What becomes of a tick's searches, with the requests of sessions that go on, by time."""
    pages = [_page(world, retriever, memory, batch, variant, rng)]
    rounds = 1 if world.series is None else world.series.sessions.limit
    for _ in range(rounds - 1):
        last = pages[-1]
        batch, variant = go_on(world, last.batch, last.variant, last.outcome, rng)
        if not len(batch.time):
            break
        pages.append(_page(world, retriever, memory, batch, variant, rng))
    page = pages[0] if len(pages) == 1 else _by_time(pages)
    items, clicks = page.outcome.items, np.nonzero(page.outcome.done[1])
    memory.note_touches(page.outcome.at[1][clicks], page.batch.user[clicks[0]], items[clicks])
    memory.note_requests(page.batch, page.guess)
    return page


def _page(
    world: World,
    retriever: Retriever,
    memory: Memory,
    batch: Batch,
    variant: NDArray[np.int64],
    rng: np.random.Generator,
) -> Page:
    items = retriever.show(batch, memory, rng)
    truth, log_only, guess = score_impressions(world, batch, memory, items)
    outcome = act(world, batch, items, truth, rng)
    if world.preset.bias:
        looked_at = attention(world, batch, items.shape[1])
        truth, log_only = truth * looked_at, log_only * looked_at
    return Page(batch, variant, outcome, truth, log_only, guess)


def _by_time(pages: list[Page]) -> Page:
    batch = concatenated([page.batch for page in pages])
    order = np.argsort(batch.time, kind="stable")
    outcomes = [page.outcome for page in pages]
    outcome = Outcome(
        np.concatenate([o.items for o in outcomes])[order],
        np.concatenate([o.done for o in outcomes], axis=1)[:, order],
        np.concatenate([o.at for o in outcomes], axis=1)[:, order],
    )
    variant, truth, log_only, guess = (
        np.concatenate([getattr(page, name) for page in pages])[order]
        for name in ("variant", "truth", "log_only", "guess")
    )
    return Page(taken(batch, order), variant, outcome, truth, log_only, guess)
