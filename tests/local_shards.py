"""Shards of an index in this process, and what may go wrong with them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from interactrank.features.item_vectors import ItemVectors
from interactrank.features.schema import FeatureSchema
from interactrank.model.scorer import Scorer
from prerank.registry.bundle import Version
from prerank.serving.shard import Part, Task, best_of
from prerank.serving.shards import Shards

Ask = Callable[[Task], Part]


@dataclass
class Done:
    """An answer that is there, or an error in its place."""

    outcome: Part | Exception
    cancelled: bool = False

    def result(self, *, timeout_s: float) -> Part:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True


def sent(ask: Ask) -> Callable[[Task], Done]:
    """As through a handle: pickled on both ways, errors in the answer."""

    def send(task: Task) -> Done:
        try:
            part: Part = pickle.loads(pickle.dumps(ask(pickle.loads(pickle.dumps(task)))))
        except Exception as error:
            return Done(error)
        return Done(part)

    return send


def shards_of(asks: Sequence[Ask], load: Callable[[Version], None] = lambda _: None) -> Shards:
    return Shards([sent(ask) for ask in asks], load, timeout_s=60.0)


def parts_of(
    scorer: Scorer, shards: int, snapshots: Mapping[int, ItemVectors] | None = None
) -> list[Ask]:
    """Each shard's answers, of the items of ``scorer``; with the vectors that it maps."""

    def snapshot(_: FeatureSchema, cutoff_us: int) -> ItemVectors:
        return (snapshots or {})[cutoff_us]

    def of(part: Scorer) -> Ask:
        return lambda task: best_of(part, task, snapshot)

    return [of(scorer.part(slice(shard, None, shards))) for shard in range(shards)]
