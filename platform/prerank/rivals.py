"""Everything that is measured beside InteractRank, under one contract.

A ranker sees the same requests and candidates and gives one score a candidate; how it got them is
its own affair. Counts that a ranker uses are the as-of columns of x, never a count of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from interactrank.batch import RequestArrays, collate
from interactrank.catalogue import Catalogue
from interactrank.idtable import IdTable
from interactrank.schema import FeatureSchema
from interactrank.text import normalise, tokens
from prerank.bundle import load_bundle


class Ranker(Protocol):
    """Scores candidates. ``flops`` and ``bytes`` are per candidate, after per-request work.

    A ranker whose scores are estimates of engagement may also have ``probabilities(arrays,
    queries)``, [N, H] in [0, 1]; its calibration is then reported.
    """

    name: str
    flops: float
    bytes: float

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Scores [N] of the N candidates of B requests; higher is better."""
        ...


class ColumnRanker:
    """Ranks by one cross feature: popularity is ``a:engage:all``, IQP alone ``q:engage:all``."""

    def __init__(self, name: str, schema: FeatureSchema, column: str) -> None:
        self.name, self.flops, self.bytes = name, 0.0, 4.0
        self.column = schema.cross.index(column)

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """The column itself."""
        return arrays.x[:, self.column]


class Bm25Ranker:
    """BM25 (bm25s, Lucene's variant) of the query against item titles that the time knows."""

    name = "bm25"

    def __init__(self, catalogue: Catalogue, titles: list[str]) -> None:
        import bm25s

        self.catalogue = catalogue
        words = [tokens(normalise(t)) for t in titles]
        self.table: IdTable = catalogue.table()
        self.known = {w for ws in words for w in ws}
        self.index = bm25s.BM25(method="lucene")
        if self.known:
            self.index.index(words, show_progress=False)
        self.flops, self.bytes = 8.0, 16.0

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Okapi BM25 with Lucene's IDF; 0 where no word meets or the text is not known yet."""
        out = np.zeros(len(arrays.candidates), np.float32)
        rows = self.table.rows(arrays.candidates)
        for b, query in enumerate(queries):
            words = [w for w in tokens(query) if w in self.known]
            lo, hi = arrays.offsets[b], arrays.offsets[b + 1]
            if words and arrays.time[b] >= self.catalogue.text_from[0]:
                scores = self.index.get_scores(words)
                out[lo:hi] = np.where(rows[lo:hi] >= 0, scores[np.maximum(rows[lo:hi], 0)], 0.0)
        return out


class TorchRanker:
    """A trained bundle: InteractRank itself, or a neural rival."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.bundle = name, load_bundle(folder)
        self.table = self.bundle.catalogue.table()
        width, config = self.bundle.model.config.width, self.bundle.model.config
        crosses = len(self.bundle.schema.cross) if config.cross else 0
        hidden = config.fusion_hidden
        linear = 2 * crosses * max(hidden, 1) + 2 * hidden
        # 2n - 1 for an n-wide dot, then scale, prior and one more addition each.
        self.flops = 2.0 * width - 1 + 1 + (linear + 1 if crosses else 0)
        self.bytes = 2.0 * width + 4.0 * crosses

    @torch.inference_mode()
    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Logit of the first head."""
        heads = len(self.bundle.schema.heads)
        output = self.bundle.model(collate(arrays, self.bundle.catalogue, self.table, heads))
        logits: NDArray[np.float32] = output.logits[:, 0].numpy()
        return logits

    @torch.inference_mode()
    def probabilities(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Engagement probability by head [N, H]."""
        heads = len(self.bundle.schema.heads)
        output = self.bundle.model(collate(arrays, self.bundle.catalogue, self.table, heads))
        chances: NDArray[np.float32] = output.logits.sigmoid().numpy()
        return chances
