"""Pre-computed item embeddings of a catalogue: read, checked, and kept as bytes of float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prerank.core.errors import ConfigError, DataError
from prerank.ingest.parsing import is_numeric, is_textual

QUARANTINE_SCHEMA = pa.schema(
    [("reason", pa.string()), ("row", pa.string()), ("source", pa.string())]
)
NOT_FINITE = "embedding holds NaN or an infinite number"


@dataclass(frozen=True)
class Embeddings:
    """A column of each file, binary (little-endian float32 [E]), null where an item has none.

    ``quarantined``: rows whose vector is not finite, in QUARANTINE_SCHEMA; they have none either.
    """

    columns: list[pa.Array]
    quarantined: pa.Table


def read_embeddings(parts: list[pa.Table], names: tuple[str, ...], files: list[str]) -> Embeddings:
    """Read the embedding columns ``names`` of a catalogue's ``parts``, one a file.

    Raises:
        ConfigError: a column holds neither vectors nor numbers.
        DataError: the vectors differ in their dimension, or there are none.
    """
    found = [_vectors(part, names) for part in parts]
    widths = sorted({v.shape[1] for v in found} - {0})
    if len(widths) != 1:
        raise DataError(
            f"The catalogue's embeddings have {' and '.join(map(str, widths))} numbers: give all "
            "items vectors of one dimension."
            if widths
            else f"The catalogue's column {names[0]!r} holds no vector: take it off "
            "`items.embedding`."
        )
    columns, bad = [], []
    for values, part, file in zip(found, parts, files, strict=True):
        missing = np.asarray(np.isnan(values).all(axis=1))
        odd = np.asarray(~missing & ~np.isfinite(values).all(axis=1))
        lost: list[bool] = np.logical_or(missing, odd).tolist()
        rows_of = zip(lost, values.astype("<f4"), strict=True)
        columns.append(
            pa.array([None if gone else v.tobytes() for gone, v in rows_of], pa.binary())
        )
        rows = np.flatnonzero(odd)
        texts = [
            orjson.dumps(r, default=str).decode() for r in part.take(pa.array(rows)).to_pylist()
        ]
        sources = [f"{file}:{row}" for row in rows]
        bad.append(pa.table([[NOT_FINITE] * len(rows), texts, sources], schema=QUARANTINE_SCHEMA))
    return Embeddings(columns, pa.concat_tables(bad))


def _vectors(part: pa.Table, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Vectors float32 [n, E]; a row of NaN is none."""
    columns = {name: part[name].combine_chunks() for name in names}
    for name, column in columns.items():
        if is_textual(column.type):
            columns[name] = _from_text(column, listed=len(names) == 1)
    kinds = [column.type for column in columns.values()]
    if len(names) == 1 and _is_vector(kinds[0]):
        return _from_lists(columns[names[0]], names[0])
    for name, kind in zip(names, kinds, strict=True):
        if not is_numeric(kind):
            what = "a vector among several columns" if _is_vector(kind) else f"{kind}"
            raise ConfigError(
                f"The catalogue's column {name!r} is {what}: `items.embedding` takes one column of "
                "number lists, or several columns of numbers."
            )
    numbers = [column.cast(pa.float32(), safe=False) for column in columns.values()]
    return np.stack([c.to_numpy(zero_copy_only=False) for c in numbers], axis=1)


def _from_text(column: pa.Array, listed: bool) -> pa.Array:
    """Vectors written as text ("[0.5, 1]", as JSON and CSV have them), or numbers as text.

    What is neither stays text.
    """
    try:
        if not listed:
            return column.cast(pa.float64())
        values = [None if v is None else orjson.loads(v) for v in column.to_pylist()]
        return pa.array(values, pa.list_(pa.float64()))
    except (orjson.JSONDecodeError, pa.ArrowException, TypeError):
        return column


def _is_vector(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return (listed or pa.types.is_fixed_size_list(kind)) and is_numeric(kind.value_type)


def _from_lists(column: pa.Array, name: str) -> NDArray[np.float32]:
    column = column.cast(pa.large_list(pa.float32()), safe=False)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    widths = np.unique(lengths[lengths > 0])
    if len(widths) > 1:
        raise DataError(
            f"The catalogue's column {name!r} has vectors of {' and '.join(map(str, widths[:2]))} "
            "numbers: give all items vectors of one dimension."
        )
    out = np.full((len(column), int(widths[0]) if len(widths) else 0), np.nan, np.float32)
    flat = column.filter(pa.array(lengths > 0)).flatten()
    out[lengths > 0] = flat.to_numpy(zero_copy_only=False).reshape(-1, out.shape[1])
    return out
