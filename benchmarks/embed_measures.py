"""What vectors of items are worth: the measures of ``embed.py``, and the log that they are of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from printed import markdown

from interactrank.features.batch import Batch, RequestArrays, collate
from interactrank.features.item_vectors import ItemVectors, narrowed, widened
from interactrank.features.neighbours import ANCHORS
from interactrank.features.schema import COSINE_CROSS, REQUEST_NUMERIC
from interactrank.graph.vectors import embedded
from interactrank.model.config import ModelConfig
from interactrank.model.fusion import Fusion
from interactrank.training.losses import LossConfig
from interactrank.training.stacking import auxiliary_requests, refit
from prerank.core.home import Home
from prerank.core.sql import connection
from prerank.core.times import DAY_US
from prerank.core.trust import Flags
from prerank.dataset.examples import to_arrays
from prerank.evaluation.baselines.samples import owners, sampled_tables
from prerank.features.graph import LOOK_BACK_DAYS, GraphTask, edges_of, files_of
from prerank.training.reader import Reader

SIZE, SEED, CHUNK = 256, 0, 1 << 16
DEPTHS = (100, 1000)
Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]


class Log:
    """The validation requests of a home in two halves, and what was known before them."""

    def __init__(self, home: Home, limit: int) -> None:
        self.reader = Reader(home)
        splits = home.read_json(home.training_set / "manifest.json", "prerank training-set")
        self.cutoff = int(splits["splits"]["validation_from"])
        table = pa.concat_tables(sampled_tables(home, "validation", limit, SEED))
        half = len(table) // 2
        self.table = table.slice(0, half)
        self.earlier, self.later = self._arrays(self.table), self._arrays(table.slice(half))
        files = files_of(sorted(home.events.glob("day=*/*.parquet")), self.cutoff)
        trust = Flags.load(home).as_of(self.cutoff)
        with tempfile.TemporaryDirectory() as folder:
            engagements = self.reader.schema.engagements
            task = GraphTask(self.cutoff, files, engagements, Path(folder), trust)
            self.ids, self.relations, self.edges = edges_of(task)
        self.files = files

    def _arrays(self, table: pa.Table) -> RequestArrays:
        schema = self.reader.schema
        arrays = to_arrays(table, len(schema.cross), len(REQUEST_NUMERIC))
        masked = [schema.cross.index(name) for name in COSINE_CROSS if name in schema.cross]
        arrays.x[:, masked] = 0.0
        return arrays

    def batches(self, x: NDArray[np.float32]) -> Iterator[Batch]:
        """The earlier half, with these columns."""
        for low in range(0, len(self.table), SIZE):
            arrays = self._arrays(self.table.slice(low, SIZE))
            first = self.earlier.offsets[low]
            own = replace(arrays, x=x[first : first + len(arrays.candidates)])
            heads = len(self.reader.schema.heads)
            yield collate(own, self.reader.catalogue, self.reader.table, heads)

    def vectors(self) -> ItemVectors:
        """The SVD's."""
        return ItemVectors(self.ids, narrowed(embedded(len(self.ids), self.relations)))

    def engaged(self) -> tuple[list[str], NDArray[np.int64]]:
        """Queries and items of the engagements that the graph is made of, in order of time."""
        with connection() as db:
            acts = db.execute(
                """SELECT query, item_id FROM read_parquet(?, hive_partitioning = false)
                WHERE epoch_us(known_time) < ? AND epoch_us(event_time) >= ?
                    AND list_contains(?, action) ORDER BY event_time, event_id""",
                [
                    list(self.files),
                    self.cutoff,
                    self.cutoff - LOOK_BACK_DAYS * DAY_US,
                    list(self.reader.schema.engagements),
                ],
            ).to_arrow_table()
        return acts["query"].to_pylist(), acts["item_id"].to_numpy()


Sides = Mapping[str, Vectors]
"""Vectors float32 [B, W] of B requests' sides, by name."""


def sides(vectors: ItemVectors, arrays: RequestArrays) -> dict[str, Vectors]:
    """The user's and the query's, from items alone (``interactrank.features.alike``)."""
    ends = arrays.hist_offsets[1:]
    begins = np.maximum(arrays.hist_offsets[:-1], ends - ANCHORS)
    top = arrays.top_items_offsets
    of_top = arrays.top_items, arrays.top_items_counts, top[:-1], top[1:]
    return {
        "user": vectors.means(arrays.hist_items, None, begins, ends),
        "top": vectors.means(*of_top),
    }


def cosines(vectors: ItemVectors, arrays: RequestArrays, of: Sides) -> Vectors:
    """Cosines of the candidates to each side, float32 [N, sides]."""
    owner = owners(arrays)
    found = np.empty((len(owner), len(of)), np.float32)
    for low in range(0, len(owner), CHUNK):
        part = slice(low, low + CHUNK)
        own = vectors.of(arrays.candidates[part])
        for at, side in enumerate(of.values()):
            found[part, at] = np.einsum("nd,nd->n", own, side[owner[part]])
    return found


def per_request(scores: Floats, arrays: RequestArrays, items: int) -> dict[str, Floats]:
    """MRR and recall@cut of each request, estimated among the whole catalogue where candidates
    were sampled. Ties count half.
    """
    owner, positive = owners(arrays), arrays.labels & 1 > 0
    stands_for = np.exp(-arrays.log_q.astype(np.float64))
    shown = not arrays.log_q.any()
    counts = np.diff(arrays.offsets)
    cut = np.ceil((counts if shown else np.full(len(counts), items)) / 10)
    mrr, recall = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    for r in np.unique(owner[positive]):
        own = slice(arrays.offsets[r], arrays.offsets[r + 1])
        s, stands, wanted = scores[own], stands_for[own], positive[own]
        above = (s[None, :] > s[wanted][:, None]) + 0.5 * (s[None, :] == s[wanted][:, None])
        # A positive is half a tie of its own.
        ranks = 0.5 + above @ stands
        mrr[r], recall[r] = 1 / ranks.min(), (ranks <= cut[r]).mean()
    return {"mrr": mrr, "recall@cut": recall}


def measured(log: Log, extra: Callable[[RequestArrays], Vectors] | None) -> dict[str, Floats]:
    """The fusion with further columns of x, fitted on the earlier half, of the later half."""
    schema, catalogue = log.reader.schema, log.reader.catalogue
    earlier, later = log.earlier, log.later
    if extra is not None:
        # In front: the last columns may be those that can be absent.
        earlier, later = (
            replace(half, x=np.concatenate((extra(half), half.x), axis=1))
            for half in (earlier, later)
        )
    held = auxiliary_requests(log.batches(earlier.x), "cpu")
    torch.manual_seed(SEED)
    sizes = earlier.x.shape[1], len(REQUEST_NUMERIC), len(schema.heads)
    fusion = Fusion(*sizes, True, ModelConfig.fusion_hidden, len(schema.candidate_features))
    fusion.fit(torch.cat([h.x for h in held]), torch.cat([h.statistics for h in held]))
    refit(fusion, held, LossConfig())
    with torch.no_grad():
        coefficients = fusion.coefficients(torch.from_numpy(later.request))
        of = torch.from_numpy(owners(later))
        scores = fusion.cross_score(torch.from_numpy(later.x), coefficients, of)
    return per_request(scores.numpy().astype(np.float64), later, len(catalogue))


def retrieved(vectors: ItemVectors, arrays: RequestArrays, of: Sides) -> dict[str, Floats]:
    """Recall of each request's engaged items among the best of the catalogue, by a sum of sides."""
    wanted, total = widened(vectors.bits), np.sum([*of.values()], axis=0)
    owner, positive = owners(arrays), arrays.labels & 1 > 0
    found = {f"recall@{depth}": np.full(len(arrays), np.nan) for depth in DEPTHS}
    for r in np.unique(owner[positive]):
        own = slice(arrays.offsets[r], arrays.offsets[r + 1])
        rows = vectors.table.rows(arrays.candidates[own][positive[own]])
        scores = wanted @ total[r]
        # An item without a vector is never found; of equals half.
        of_items = np.where(rows >= 0, scores[rows], -np.inf)[:, None]
        better = (scores > of_items).sum(1) + 0.5 * (scores == of_items).sum(1)
        for depth in DEPTHS:
            found[f"recall@{depth}"][r] = ((better < depth) & (rows >= 0)).mean()
    return found


def rows_of(
    values: Mapping[str, Mapping[str, Floats]], base: str, unseen: NDArray[np.bool_] | None
) -> str:
    """A table: means, and differences to the row ``base`` with 95% intervals."""
    names = [*next(iter(values.values()))]
    head = ["", *(n for name in names for n in (name, f"{name} - {base}"))]
    head += [f"{names[-1]}, unseen"] if unseen is not None else []
    lines = []
    for row, own in values.items():
        cells = [row]
        for name in names:
            cells += [f"{np.nanmean(own[name]):.4f}", difference(own[name], values[base][name])]
        if unseen is not None:
            cells.append(f"{np.nanmean(own[names[-1]][unseen]):.3f}")
        lines.append(cells)
    return markdown(head, lines)


def difference(one: Floats, other: Floats) -> str:
    """Mean difference and its 95% interval over requests; empty for the row itself."""
    off = (one - other)[np.isfinite(one - other)]
    if one is other or not len(off):
        return ""
    return f"{off.mean():+.4f} ± {1.96 * off.std(ddof=1) / len(off) ** 0.5:.4f}"


def over_seeds(found: list[dict[str, dict[str, Floats]]]) -> dict[str, dict[str, Floats]]:
    """Each request's mean over seeds."""
    first = found[0]
    return {
        row: {m: np.mean([one[row][m] for one in found], axis=0) for m in own}
        for row, own in first.items()
    }
