"""Rankers that fit nothing: one column of counts, the item touched last, and BM25."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.catalogue import Catalogue
from interactrank.features.id_table import IdTable
from interactrank.features.schema import FeatureSchema
from interactrank.features.text import normalise, tokens

UNRANKED = -100.0
"""Score of what has no rank: below that of any rank."""


class ColumnRanker:
    """Ranks by one cross feature: popularity is ``a:engage:all``, IQP alone ``q:engage:all``."""

    def __init__(self, name: str, schema: FeatureSchema, column: str) -> None:
        # Nothing is computed; one operation, the read, gives it a place on a logarithmic axis.
        self.name, self.flops, self.bytes = name, 1.0, 4.0
        self.column = schema.cross.index(column)

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """The column itself."""
        return arrays.x[:, self.column]


class LastTouchedRanker:
    """What the user touched last in this session, then the retriever's order.

    The rule that a session's log is to be beaten by: it needs the history's last event and the
    rank, for one comparison and one subtraction a candidate. What has no rank comes last.
    """

    name, flops, bytes = "last_touched", 2.0, 12.0

    def __init__(self, schema: FeatureSchema) -> None:
        names = ("retriever:inverse_rank", "retriever:log_rank")
        self.inverse, self.log = map(schema.cross.index, names)
        self.gap_us = schema.session_gap_us

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """1 for the item touched last, else -log(1 + rank), or ``UNRANKED``."""
        last = arrays.hist_offsets[1:] - 1
        some = last >= arrays.hist_offsets[:-1]
        some[some] = arrays.time[some] - arrays.hist_times[last[some]] <= self.gap_us
        items = np.zeros(len(arrays), np.int64)
        items[some] = arrays.hist_items[last[some]]
        counts = np.diff(arrays.offsets)
        touched = some.repeat(counts) & (arrays.candidates == items.repeat(counts))
        ranked = arrays.x[:, self.inverse] > 0
        order = np.where(ranked, -arrays.x[:, self.log], UNRANKED)
        return np.where(touched, 1.0, order).astype(np.float32)


class Bm25Ranker:
    """BM25 (bm25s, Lucene's variant) of the query against item titles that the time knows.

    Its cost is that of the posting lists: a query's token adds once for every title that holds it.
    Declared is the mean over the titles themselves as queries, plus the read of the sum.
    """

    name = "bm25"

    def __init__(self, catalogue: Catalogue, index: Any) -> None:
        self.catalogue, self.index = catalogue, index
        self.table: IdTable = catalogue.table()
        postings = np.diff(index.scores["indptr"]) if index else np.zeros(0)
        additions = float(np.square(postings, dtype=np.float64).sum()) / max(len(catalogue), 1) ** 2
        # A posting is an int32 title and a float32 score.
        self.flops, self.bytes = 1.0 + additions, 4.0 + 8.0 * additions

    @classmethod
    def fit(cls, catalogue: Catalogue, titles: list[str]) -> Bm25Ranker:
        """Index the ``titles`` of the catalogue's items, in its order."""
        import bm25s

        words = [tokens(normalise(t)) for t in titles]
        if not any(words):
            return cls(catalogue, None)
        index = bm25s.BM25(method="lucene")
        index.index(words, show_progress=False)
        return cls(catalogue, index)

    def save(self, folder: Path) -> None:
        """Write the index; where no title has a word there is none."""
        if self.index:
            self.index.save(folder, show_progress=False)

    @classmethod
    def load(cls, catalogue: Catalogue, folder: Path) -> Bm25Ranker:
        """Map what ``save`` wrote for the same catalogue."""
        import bm25s

        return cls(catalogue, bm25s.BM25.load(folder, mmap=True) if folder.exists() else None)

    def score(self, arrays: RequestArrays, queries: list[str]) -> NDArray[np.float32]:
        """Okapi BM25 with Lucene's IDF; 0 where no word meets or the text is not known yet."""
        out = np.zeros(len(arrays.candidates), np.float32)
        rows = self.table.rows(arrays.candidates)
        for b, query in enumerate(queries):
            words = [w for w in tokens(query) if self.index and w in self.index.vocab_dict]
            lo, hi = arrays.offsets[b], arrays.offsets[b + 1]
            if words and arrays.time[b] >= self.catalogue.text_from[0]:
                scores = self.index.get_scores(words)
                out[lo:hi] = np.where(rows[lo:hi] >= 0, scores[np.maximum(rows[lo:hi], 0)], 0.0)
        return out
