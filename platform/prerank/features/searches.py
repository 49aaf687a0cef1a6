"""Distinct searches: a query in a context, with its engagement keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.text import engagement_keys, query_code, segment_bucket


@dataclass(frozen=True)
class Searches:
    """The distinct searches (a query in a context) of n rows.

    ``code`` int64 [n] points each row to its entry of ``queries`` and ``contexts``; a context is a
    value for each segment column in the schema's order, "" where it is missing.
    """

    queries: list[str]
    contexts: list[dict[str, str]]
    code: NDArray[np.int64]

    def keys(self) -> list[list[str]]:
        """Engagement keys of each search."""
        return [engagement_keys(q, c) for q, c in zip(self.queries, self.contexts, strict=True)]

    def query_codes(self) -> NDArray[np.int64]:
        """Codes of the n rows' queries, int64 [n]."""
        return np.array([query_code(q) for q in self.queries], np.int64)[self.code]

    def segments(self) -> NDArray[np.int64]:
        """Buckets of the n rows' segments, int64 [n, S]."""
        found = [[segment_bucket(v) for v in c.values()] for c in self.contexts]
        width = len(found[0]) if found else 0
        return np.array(found, np.int64).reshape(len(found), width)[self.code]


def distinct_searches(
    queries: pa.ChunkedArray, context: Mapping[str, pa.Array | pa.ChunkedArray]
) -> Searches:
    """Group rows by query [n] and segment columns (name -> str [n], null counts as missing)."""
    code = np.zeros(len(queries), np.int64)
    columns = []
    for column in (queries, *context.values()):
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        encoded = whole.fill_null("").dictionary_encode()
        columns.append(encoded)
        # Compact after every column, so that the product of the sizes cannot overflow.
        code = code * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy()
        _, first, code = np.unique(code, return_index=True, return_inverse=True)
    texts = [c.take(pa.array(first)).to_pylist() for c in columns]
    contexts = [dict(zip(context, values, strict=True)) for values in zip(*texts[1:], strict=True)]
    return Searches(texts[0], contexts or [{} for _ in texts[0]], code)


def context_columns(requests: pa.Table) -> dict[str, pa.Array]:
    """Segment columns of the requests, from their ``context`` where they have one."""
    if "context" not in requests.column_names:
        return {}
    context = requests["context"].combine_chunks()
    return {f.name: context.field(i) for i, f in enumerate(context.type)}
