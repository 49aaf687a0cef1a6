"""A learned encoder of queries and items, and how it is trained: one of the rows of ``embed.py``.

Hashed words and n-grams of a query or a title, of an item also its id, through one MLP to unit
vectors of VECTOR_WIDTH numbers. Three tasks share it: the items that a query led to (query-item),
the other queries that led to an item (query-query), and the neighbours of an item in the graph
(item-item). Each is a softmax over the distinct targets of the batch, with log Q taken off; what
belongs to the same anchor is no negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from interactrank.features.catalogue import OUT_OF_VOCABULARY, Catalogue
from interactrank.features.neighbours import Neighbours
from interactrank.features.schema import VECTOR_WIDTH
from interactrank.features.text import TEXT_BUCKETS, ragged
from interactrank.model.layers import MeanBag
from interactrank.training.losses import ItemFrequency

TASKS = ("query-item", "query-query", "item-item")
HIDDEN, ID_DROPOUT, SHARPEST = 256, 0.2, 50.0
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Bags:
    """Hashed texts end to end: ``words`` int32 [T], ``offsets`` int64 [n + 1]."""

    words: NDArray[np.int32]
    offsets: Ints

    def of(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """Words and where each text begins, of the texts at ``rows``."""
        lengths = np.diff(self.offsets)[rows]
        begins = np.cumsum(lengths) - lengths
        at = np.repeat(self.offsets[rows] - begins, lengths) + np.arange(lengths.sum())
        return torch.from_numpy(self.words[at].astype(np.int64)), torch.from_numpy(begins)


@dataclass(frozen=True)
class Edges:
    """What the encoder learns from: ``query`` and ``item`` int64 [E] of each engagement, as places
    in ``queries`` and rows of the catalogue (from 1 on); and ``near``, pairs of such rows [P, 2]
    with their ``weights`` [P].
    """

    queries: Bags
    query: Ints
    item: Ints
    near: Ints
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, queries: list[str], items: Ints, graph: Neighbours, catalogue: Catalogue) -> Edges:
        """Of engagements with ``items`` for ``queries``; items of no catalogue are left out."""
        table = catalogue.table()
        rows = table.rows(items) + 1
        texts, place = np.unique(np.array(queries, object), return_inverse=True)
        anchors = np.repeat(table.rows(graph.ids) + 1, (graph.rows >= 0).sum(1))
        targets = table.rows(graph.ids[graph.rows[graph.rows >= 0]]) + 1
        pairs = np.stack((anchors, targets), 1)
        known, kept = rows > 0, (pairs > 0).all(1)
        weights = graph.weights[graph.rows >= 0][kept]
        bags = Bags(*ragged(texts.tolist()))
        return cls(bags, place[known], rows[known], pairs[kept], weights)


class Places(NamedTuple):
    """Of pairs [B]: where the ``anchor`` and the ``target`` stand among the distinct ones."""

    anchor: Tensor
    target: Tensor


class Encoder(nn.Module):
    """Texts, and ids of items, to unit vectors [B, VECTOR_WIDTH]."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        none = np.zeros(1, np.int64)
        # Row 0 is the unknown item, which has no title.
        self.titles = Bags(catalogue.text, np.concatenate((none, catalogue.offsets)))
        self.text = MeanBag(TEXT_BUCKETS, VECTOR_WIDTH)
        self.ids = nn.Embedding(len(catalogue) + 1, VECTOR_WIDTH)
        self.of_kind = nn.Parameter(torch.zeros(2, VECTOR_WIDTH))
        self.layers = nn.Sequential(
            nn.Linear(VECTOR_WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, VECTOR_WIDTH)
        )
        self.log_scale = nn.Parameter(torch.full((), 10.0).log())
        self.known = torch.zeros(len(catalogue) + 1, dtype=torch.bool)
        nn.init.normal_(self.text.weight, std=0.1)
        nn.init.normal_(self.ids.weight, std=0.1)

    def _vectors(self, x: Tensor) -> Tensor:
        return F.normalize(x + self.layers(x), dim=1)

    def queries(self, bags: Bags, rows: Ints) -> Tensor:
        """Vectors of the texts at ``rows``."""
        return self._vectors(self.text(*bags.of(rows)) + self.of_kind[0])

    def items(self, rows: Ints) -> Tensor:
        """Vectors of items at ``rows`` of the catalogue, from 1 on; an id that was never trained is
        the unknown one's.
        """
        ids = torch.from_numpy(rows)
        hidden = ~self.known[ids]
        if self.training:
            hidden = hidden | (torch.rand(len(ids)) < ID_DROPOUT)
        ids = ids.masked_fill(hidden, OUT_OF_VOCABULARY)
        return self._vectors(self.text(*self.titles.of(rows)) + self.ids(ids) + self.of_kind[1])

    def loss(self, anchors: Tensor, targets: Tensor, places: Places, log_q: Tensor) -> Tensor:
        """Softmax of each pair's anchor against the distinct ``targets`` [U] []."""
        scale = self.log_scale.exp().clamp(max=SHARPEST)
        logits = scale * anchors[places.anchor] @ targets.T - log_q
        # No negative is what another pair of the batch says of the same anchor.
        same = (places.anchor[:, None] == places.anchor[None, :]).float()
        hits = same @ F.one_hot(places.target, len(targets)).float() > 0
        hits[torch.arange(len(logits)), places.target] = False
        return F.cross_entropy(logits.masked_fill(hits, float("-inf")), places.target)


def pairs(edges: Edges, rng: np.random.Generator) -> dict[str, tuple[Ints, Ints]]:
    """Anchors and targets [E] of each task, of one epoch, shuffled."""
    count = len(edges.item)
    order = np.argsort(edges.item, kind="stable")
    begins = np.searchsorted(edges.item[order], edges.item)
    ends = np.searchsorted(edges.item[order], edges.item, side="right")
    other = edges.query[order[rng.integers(begins, ends)]]
    drawn = rng.choice(len(edges.near), count, p=edges.weights / edges.weights.sum(dtype=float))
    found = (
        (edges.query, edges.item),
        (edges.query[other != edges.query], other[other != edges.query]),
        (edges.near[drawn, 0], edges.near[drawn, 1]),
    )
    shuffled = {}
    for name, (left, right) in zip(TASKS, found, strict=True):
        own = rng.permutation(len(left))
        shuffled[name] = left[own], right[own]
    return shuffled


def batches(
    made: dict[str, tuple[Ints, Ints]], size: int
) -> Iterator[dict[str, tuple[Ints, Ints]]]:
    """Each task's pairs, at most ``size`` of each at a time."""
    for low in range(0, max(len(left) for left, _ in made.values()), size):
        some = {name: (a[low : low + size], b[low : low + size]) for name, (a, b) in made.items()}
        yield {name: pair for name, pair in some.items() if len(pair[0]) > 1}


def step_loss(
    encoder: Encoder,
    queries: Bags,
    batch: dict[str, tuple[Ints, Ints]],
    seen: dict[str, ItemFrequency],
) -> Tensor:
    """Sum of the tasks' losses; a text or an item is encoded once, whatever tasks have it."""
    total = torch.zeros(())
    needed: dict[str, list[Ints]] = {"query": [], "item": []}
    for name, sides in batch.items():
        for kind, side in zip(name.split("-"), sides, strict=True):
            needed[kind].append(side)
    rows = {kind: np.unique(np.concatenate(own)) for kind, own in needed.items() if own}
    vectors = {
        kind: encoder.items(own) if kind == "item" else encoder.queries(queries, own)
        for kind, own in rows.items()
    }
    for name, (left, right) in batch.items():
        of, to = name.split("-")
        distinct, target = np.unique(right, return_inverse=True)
        log_q = seen[name].update(torch.from_numpy(distinct))
        targets = vectors[to][torch.from_numpy(np.searchsorted(rows[to], distinct))]
        anchor = torch.from_numpy(np.searchsorted(rows[of], left))
        places = Places(anchor, torch.from_numpy(target))
        total = total + encoder.loss(vectors[of], targets, places, log_q)
    return total


def trained(
    catalogue: Catalogue,
    edges: Edges,
    epochs: int,
    measure: Callable[[Encoder], float],
    size: int = 512,
    learning_rate: float = 5e-3,
    seed: int = 0,
) -> Encoder:
    """An encoder with the weights of the epoch that ``measure`` liked best."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder = Encoder(catalogue)
    encoder.known[np.unique(edges.item)] = True
    optimizer = torch.optim.Adam(encoder.parameters(), learning_rate, fused=True)
    queries, items = len(edges.queries.offsets) - 1, len(catalogue) + 1
    seen = {name: ItemFrequency(queries if name.endswith("query") else items) for name in TASKS}
    best, kept = -1.0, encoder.state_dict()
    for epoch in range(epochs):
        encoder.train()
        losses = []
        for batch in batches(pairs(edges, rng), size):
            total = step_loss(encoder, edges.queries, batch, seen)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(total.item())
        encoder.eval()
        with torch.no_grad():
            found = measure(encoder)
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, measured {found:.4f}", flush=True)
        if found > best:
            best, kept = found, {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder.load_state_dict(kept)
    return encoder.eval()
