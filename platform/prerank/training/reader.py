"""From the training set's tables to batches, and to a model that knows their statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from interactrank.features.batch import Batch, collate
from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.model.architectures import build
from interactrank.model.config import ModelConfig
from interactrank.model.interactrank import InteractRank
from interactrank.training.trainer import TrainConfig, fit_statistics
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import Order, read_split, split_sizes, to_arrays

STATISTICS_REQUESTS, HELD_OUT_BATCHES, AUXILIARY_BATCHES = 4096, 40, 20
FIT_REQUESTS = 256
"""Requests of a batch of the fusion's fits at most. Larger steps leave the fits as they are: with
batches of 512 they took twice as long, and ranked worse on MovieLens tags."""


class Reader:
    """Turns tables of examples into batches for one log's schema and catalogue."""

    def __init__(self, home: Home) -> None:
        manifest = LogManifest.load(home)
        self.home = home
        self.shown: bool = manifest.has_impressions
        self.schema: FeatureSchema = manifest.schema
        self.catalogue: Catalogue = load_catalogue(home)
        self.table = self.catalogue.table()

    def batch(self, table: pa.Table, negatives: NDArray[np.int64] | None = None) -> Batch:
        """One batch of all requests of ``table``; ``negatives`` as in ``collate``."""
        arrays = to_arrays(table, len(self.schema.cross), len(REQUEST_NUMERIC))
        return collate(arrays, self.catalogue, self.table, len(self.schema.heads), negatives)

    def negatives(self, rng: np.random.Generator, count: int) -> NDArray[np.int64] | None:
        """``count`` random items for a batch; none where candidates are random items already."""
        return rng.integers(0, len(self.catalogue), count) if self.shown and count else None

    def tables(self, name: str, order: Order = iter) -> Iterator[pa.Table]:
        """Tables of a split, one in memory at a time (``read_split``)."""
        yield from read_split(self.home, name, order)

    def sizes(self, name: str) -> list[int]:
        """Requests of each table of a split, in time order."""
        return split_sizes(self.home, name)

    def split(
        self, name: str, size: int, seed: int | None = None, negatives: int = 0
    ) -> Iterator[Batch]:
        """Batches of a split; with a seed, files and the requests within each are shuffled, and
        ``negatives`` random items join each batch.
        """
        rng = np.random.default_rng(seed)
        order: Order = iter if seed is None else lambda files: rng.permutation(len(files))
        for table in self.tables(name, order):
            if seed is not None:
                table = table.take(pa.array(rng.permutation(len(table))))
            for start in range(0, len(table), size):
                yield self.batch(table.slice(start, size), self.negatives(rng, negatives))

    def latest(self, name: str, size: int, limit: int) -> list[Batch]:
        """The last batches of a split, ``limit`` at most, in time order."""
        kept: list[pa.Table] = []
        for table in self.tables(name, reversed):
            kept = [table.slice(start, size) for start in range(0, len(table), size)] + kept
            if len(kept) >= limit:
                break
        return [self.batch(table) for table in kept[-limit:]]

    def spread(self, name: str, size: int, limit: int, seed: int) -> list[Batch]:
        """A seeded sample from all over a split, ``limit`` batches at most, in time order."""
        rng = np.random.default_rng(seed)
        share = min(limit * size / max(sum(self.sizes(name)), 1), 1.0)
        kept = []
        for table in self.tables(name):
            rows = rng.choice(len(table), int(share * len(table)), replace=False)
            kept.append(table.take(pa.array(np.sort(rows))))
        whole = pa.concat_tables(kept)
        return [self.batch(whole.slice(start, size)) for start in range(0, len(whole), size)]

    def held_out(self, config: TrainConfig) -> list[Batch]:
        """The validation requests that the fusion is fitted and measured on, in time order."""
        return self.latest("validation", _fit_requests(config), HELD_OUT_BATCHES)

    def auxiliary(self, config: TrainConfig) -> list[Batch]:
        """Training requests for ``stacking.auxiliary_requests``, half the newest.

        The newest are most like those to come, until the mix of users changes; then requests from
        all over the training part are the safer ones.
        """
        size, half = _fit_requests(config), AUXILIARY_BATCHES // 2
        return [*self.spread("train", size, half, config.seed), *self.latest("train", size, half)]

    def epochs(self, config: TrainConfig) -> Callable[[int], Iterator[Batch]]:
        """Shuffled training batches of each epoch, for one worker."""
        return lambda epoch: self.split(
            "train", config.batch_requests, config.seed + epoch, config.random_negatives
        )


def _fit_requests(config: TrainConfig) -> int:
    return min(config.batch_requests, FIT_REQUESTS)


def new_model(reader: Reader, config: ModelConfig, train: TrainConfig) -> InteractRank:
    """A seeded model with its feature statistics set from the first training requests."""
    torch.manual_seed(train.seed)
    model = build(config, reader.schema, reader.catalogue)
    tables, rows = [], 0
    for table in reader.tables("train"):
        tables.append(table.slice(0, STATISTICS_REQUESTS - rows))
        rows += len(tables[-1])
        if rows >= STATISTICS_REQUESTS:
            break
    fit_statistics(model, [reader.batch(t) for t in tables])
    return model
