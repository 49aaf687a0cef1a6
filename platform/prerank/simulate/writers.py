"""Files of a simulated log: which forms it can have, one file per day or per so many requests.

A writer holds at most PART_REQUESTS requests, whatever the length of the log or of a day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from prerank.simulate import ubi
from prerank.simulate.presets import UnknownFormatError

PART_REQUESTS = 8_192  # requests gathered before they are written
ROWS_AT_ONCE = 8_192  # turned into Python objects


class Sheet(Protocol):
    """An open file that takes tables of one schema."""

    def write_table(self, table: pa.Table) -> None:
        """Append the rows."""

    def close(self) -> None:
        """End the file."""


class _Csv:
    """With a header; times as ISO 8601 texts."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = pa_csv.CSVWriter(path, _texts(schema.empty_table()).schema)

    def write_table(self, table: pa.Table) -> None:
        self._file.write_table(_texts(table))

    def close(self) -> None:
        self._file.close()


class _Lines:
    """One JSON object per line."""

    def __init__(self, path: Path, objects: Callable[[pa.Table], Iterable[dict[str, Any]]]) -> None:
        self._file, self._objects = path.open("w", encoding="utf-8"), objects

    def write_table(self, table: pa.Table) -> None:
        for row in self._objects(_texts(table)):
            self._file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")

    def close(self) -> None:
        self._file.close()


def _texts(table: pa.Table) -> pa.Table:
    """The table with times as texts such as 2025-01-01T00:03:11.123456Z."""
    for at, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            text = pc.strftime(table[field.name], format="%Y-%m-%dT%H:%M:%SZ")
            table = table.set_column(at, field.name, text)
    return table


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


Open = Callable[[Path, pa.Schema], Sheet]


def _lines(objects: Callable[[pa.Table], Iterable[dict[str, Any]]]) -> Open:
    return lambda path, _: _Lines(path, objects)


@dataclass(frozen=True)
class Form:
    """How a log is written: a sheet for each folder of events, and one for the catalogue."""

    suffix: str
    events: Mapping[str, Open]
    items: Open


FORMATS: Final[dict[str, Form]] = {
    "parquet": Form(".parquet", {"events": pq.ParquetWriter}, pq.ParquetWriter),
    "csv": Form(".csv", {"events": _Csv}, _Csv),
    "jsonl": Form(".jsonl", {"events": _lines(_rows)}, _lines(_rows)),
    "ubi": Form(
        ".jsonl",
        {"ubi_queries": _lines(ubi.queries), "ubi_events": _lines(ubi.events)},
        _lines(_rows),
    ),
}


def format_named(name: str) -> Form:
    """The form called `name`; raises `UnknownFormatError` with the known names."""
    try:
        return FORMATS[name]
    except KeyError:
        known = ", ".join(sorted(FORMATS))
        raise UnknownFormatError(f"no format is called {name!r}; use one of: {known}") from None


class Folder:
    """Gathers tables and writes part-00000, … of about PART_REQUESTS each, or a file per day."""

    def __init__(self, folder: Path, schema: pa.Schema, suffix: str, opens: Open) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._schema, self._suffix, self._opens = folder, schema, suffix, opens
        self._sheet: Sheet | None = None
        self._day: str | None = None
        self._tables: list[pa.Table] = []
        self._requests = self._parts = 0

    def add(self, table: pa.Table, requests: int, day: str | None) -> None:
        """Take in a tick's table. day: the file that it belongs to, None for parts."""
        if day != self._day:
            self.close()
            self._day = day
        self._tables.append(table)
        self._requests += requests
        if self._requests >= PART_REQUESTS:
            self._flush()
            if day is None:
                self.close()

    def close(self) -> None:
        """Write what has been gathered and end the file; harmless when there is neither."""
        self._flush()
        if self._sheet is not None:
            self._sheet.close()
            self._sheet = None

    def _flush(self) -> None:
        if not self._tables:
            return
        if self._sheet is None:
            name = self._day or f"part-{self._parts:05d}"
            self._sheet = self._opens(self._folder / f"{name}{self._suffix}", self._schema)
            self._parts += 1
        self._sheet.write_table(pa.concat_tables(self._tables).combine_chunks())
        self._tables, self._requests = [], 0


def write_items(form: Form, table: pa.Table, folder: Path) -> None:
    """The catalogue as one file, folder/items with the form's suffix."""
    sheet = form.items(folder / f"items{form.suffix}", table.schema)
    sheet.write_table(table)
    sheet.close()
