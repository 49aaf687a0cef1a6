"""Files that are not Parquet on a local disk become so, one task a file; the rest lies as it is.

    s3://…/1.parquet    copied
    2.csv.gz, 3.jsonl   rows as Parquet: columns of text, and the line of each row (``lines.LINE``)
    4.parquet           read where it lies
    a part of a table   rows as Parquet, as the table's reader gives them (``tables``)

What is landed is Parquet under the name of its origin, so that a bad row is named by it. A file of
JSON lines lands in parts, since a later object may have a key that is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from prerank.core.errors import DataError
from prerank.core.files import fetch
from prerank.core.object_stores import StoredFile, copied, retried
from prerank.core.places import is_uri
from prerank.core.shards import LazyParquet
from prerank.core.travel import Carried
from prerank.ingest.csv_rows import csv_blocks
from prerank.ingest.embeddings import QUARANTINE_SCHEMA
from prerank.ingest.json_rows import json_blocks
from prerank.ingest.lines import LINE, Block, Rejected
from prerank.ingest.sources import RawFile, Source
from prerank.ingest.tables import TablePart, batches_of

Map = Callable[[Callable[["LandTask"], "Landed"], Sequence["LandTask"], str], Sequence["Landed"]]
"""Applies a function to tasks: ``ray_map``, or ``in_turn`` in this process."""


@dataclass(frozen=True)
class LandTask:
    """A file to land in a folder of its own; ``number`` is its place among the files."""

    number: int
    raw: RawFile


@dataclass(frozen=True)
class Landed:
    """What became of a file: Parquet files in the order of its rows, and lines that are no rows."""

    number: int
    files: tuple[Path, ...]
    rejected: dict[str, int] = field(default_factory=dict)


def in_turn(run: Callable[[LandTask], Landed], tasks: Sequence[LandTask], _: str) -> list[Landed]:
    """Land files one after the other in this process."""
    return [run(task) for task in tasks]


def opened(
    raws: Sequence[RawFile],
    remarks: tuple[str, ...],
    scratch: Path,
    run: Map,
    nested: Collection[str] = (),
) -> Source:
    """Files as Parquet; what had to be landed lies in ``scratch``.

    Args:
        raws, remarks: of ``raw_files``.
        scratch: a folder that is made if it is needed.
        run: how tasks are run.
        nested: columns inside JSON objects, by names with dots.

    Raises:
        ConfigError: a file may not be read.
        DataError: it is damaged as a whole.
        NotReadyError: an object store does not answer.
    """
    tasks = [LandTask(at, raw) for at, raw in enumerate(raws) if not raw.is_ready]
    land = partial(land_file, scratch=scratch, nested=frozenset(nested))

    def written(task: LandTask) -> list[Path]:
        return [scratch / folder_of(task.number), scratch / rejected_of(task.number)]

    landed = {each.number: each for each in run(Carried(land, writes=written), tasks, "files")}
    fetch(scratch)
    rejected: Counter[str] = Counter()
    files: list[tuple[Path, RawFile]] = []
    for at, raw in enumerate(raws):
        parts = landed[at].files if at in landed else [Path(raw.place)]
        files += [(part, raw) for part in parts]
        rejected.update(landed[at].rejected if at in landed else {})
    metadata = [_metadata(file, raw.place) for file, raw in files]
    schemas = [_own_columns(schema) for _, schema in metadata]
    json = [raw.format == "json" for _, raw in files]
    if any(json):
        # A key that an object leaves out is null there, and the column is there all the same.
        every = pa.unify_schemas([s for s, is_json in zip(schemas, json, strict=True) if is_json])
        schemas = [every if is_json else s for s, is_json in zip(schemas, json, strict=True)]
    return Source(
        files=tuple(file for file, _ in files),
        names=tuple(raw.place for _, raw in files),
        rows=tuple(rows for rows, _ in metadata),
        schemas=tuple(schemas),
        is_text=tuple(raw.is_text for _, raw in files),
        rejected=dict(rejected),
        remarks=remarks,
    )


def folder_of(number: int) -> str:
    """Name of the folder in which a file lands."""
    return f"{number:05d}"


def rejected_of(number: int) -> str:
    """Name of the file that has its lines that are no rows."""
    return f"rejected-{number:05d}.parquet"


def rejected_lines(scratch: Path) -> list[Path]:
    """Files of QUARANTINE_SCHEMA with the lines that are no rows, of what landed in ``scratch``."""
    return sorted(scratch.glob("rejected-*.parquet"))


def land_file(task: LandTask, scratch: Path, nested: Collection[str]) -> Landed:
    """Land one file.

    Raises:
        ConfigError: it may not be read.
        DataError: it is damaged as a whole.
        NotReadyError: an object store does not answer.
    """
    raw, folder = task.raw, scratch / folder_of(task.number)
    folder.mkdir(parents=True)
    if raw.part is not None:
        return Landed(task.number, (_land_part(raw, raw.part, folder),))
    local = Path(raw.place)
    if is_uri(raw.place):
        local = folder / raw.name
        copied(StoredFile(raw.place, raw.size), local)
        if raw.format == "parquet":
            return Landed(task.number, (local,))
        local = local.rename(folder / f"copied-{raw.name}")
    opener = partial(_stream, local, raw.compression)
    blocks = (
        json_blocks(opener, raw.place, nested)
        if raw.format == "json"
        else csv_blocks(opener, raw.place)
    )
    found: Counter[str] = Counter()
    lines = 0
    try:
        with ExitStack() as stack:
            parts = _Parts(stack, folder, raw.name)
            bad = LazyParquet(stack, scratch / rejected_of(task.number))
            for block in blocks:
                parts.write(block.rows)
                bad.write(_quarantined(block.rejected, raw.name))
                found.update(r.reason for r in block.rejected)
                lines = _last_line(block, lines)
            if not parts.files:
                parts.write(pa.table({LINE: pa.array([], pa.int64())}))
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{raw.place} cannot be read after line {lines:,}: {error}. Write it again."
        ) from None
    if is_uri(raw.place):
        local.unlink()
    return Landed(task.number, tuple(parts.files), dict(found))


def _land_part(raw: RawFile, part: TablePart, folder: Path) -> Path:
    """Rows of a table, in one file; begun anew where a store breaks off."""
    file = folder / raw.name

    def land() -> None:
        schema, batches = batches_of(part)
        with pq.ParquetWriter(file, schema, compression="lz4", write_statistics=False) as writer:
            for batch in batches:
                writer.write_batch(batch)

    if is_uri(part.place):
        retried(land, part.place)
    else:
        land()
    return file


def _stream(file: Path, compression: str | None) -> AbstractContextManager[pa.NativeFile]:
    return pa.input_stream(str(file), compression=compression, buffer_size=1 << 20)


def _last_line(block: Block, before: int) -> int:
    ends = [r.line for r in block.rejected]
    if len(block.rows):
        ends.append(block.rows[LINE][-1].as_py())
    return max(ends, default=before)


def _quarantined(rejected: list[Rejected], name: str) -> pa.Table:
    reasons, texts = [r.reason for r in rejected], [r.text for r in rejected]
    sources = [f"{name}:{r.line}" for r in rejected]
    return pa.table([reasons, texts, sources], schema=QUARANTINE_SCHEMA)


class _Parts:
    """Parquet files of a landed file: another one when a block has columns that are new."""

    def __init__(self, stack: ExitStack, folder: Path, name: str) -> None:
        self._stack, self._folder, self._name = stack, folder, name
        self.files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._schema = pa.schema([])

    def write(self, rows: pa.Table) -> None:
        new = [f for f in rows.schema if f.name not in self._schema.names]
        if new or self._writer is None:
            self._turn_to(pa.schema([*self._schema, *new]))
        absent = pa.nulls(len(rows), pa.string())
        columns = [
            rows[name] if name in rows.schema.names else absent for name in self._schema.names
        ]
        assert self._writer is not None
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def _turn_to(self, schema: pa.Schema) -> None:
        if self._writer is not None:
            self._writer.close()
        file = self._folder / str(len(self.files)) / self._name
        file.parent.mkdir()
        writer = pq.ParquetWriter(file, schema, compression="lz4", write_statistics=False)
        self._schema, self._writer = schema, self._stack.enter_context(writer)
        self.files.append(file)


def _metadata(file: Path, place: str) -> tuple[int, pa.Schema]:
    """Rows and schema of a Parquet file."""
    try:
        with pq.ParquetFile(file) as parquet:
            return parquet.metadata.num_rows, parquet.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{place} cannot be read as Parquet: {error}. Write it again.") from None


def _own_columns(schema: pa.Schema) -> pa.Schema:
    """A schema without the column that landing added."""
    return schema.remove(schema.get_field_index(LINE)) if LINE in schema.names else schema
