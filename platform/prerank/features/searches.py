"""Distinct searches of a table of requests or events."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from interactrank.features.searches import Searches


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
