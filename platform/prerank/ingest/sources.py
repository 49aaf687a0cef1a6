"""The files of a log or catalogue, wherever they lie, and what each is: by its name.

``*.parquet``, ``*.csv``, ``*.tsv`` and JSON lines (``*.jsonl``, ``*.ndjson``, ``*.json``); the last
three also ``.gz`` or ``.zst``. ``*.json`` counts where no file has another of these names. A place
is a file, a folder (with what lies below it) or a glob, on a local disk or in an object store. A
folder that is a Delta or an Iceberg table is read as one (``prerank.ingest.tables``).
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa

from prerank.core.errors import ConfigError, DataError
from prerank.core.object_stores import StoredFile, retried, stored_files
from prerank.core.places import is_glob, is_uri
from prerank.ingest.tables import CATALOGUE, Kind, TablePart, kind_of, parts_of

Format = Literal["parquet", "csv", "tsv", "json", "table"]

_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
KNOWN = "*.parquet, *.csv, *.tsv, *.jsonl, *.ndjson, *.json; text also as .gz or .zst"


@dataclass(frozen=True)
class RawFile:
    """A file of a team's log as it lies there.

    Attributes:
        place: absolute path or URI; what messages call it.
        size: bytes.
        format: what it holds.
        compression: as PyArrow names it, or None.
        part: of a table.
    """

    place: str
    size: int
    format: Format
    compression: str | None
    part: TablePart | None = None

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rpartition("/")[2]

    @property
    def suffixes(self) -> list[str]:
        """The endings of its name, in lower case."""
        return Path(self.name.lower()).suffixes[-2:]

    @property
    def is_text(self) -> bool:
        """Whether all that it holds is text."""
        return self.format not in ("parquet", "table")

    @property
    def is_ready(self) -> bool:
        """Whether it is read where it lies: Parquet on a local disk."""
        return self.format == "parquet" and not is_uri(self.place)


def raw_files(place: str | Path, what: str) -> tuple[list[RawFile], tuple[str, ...]]:
    """The files at a place, sorted by name, and what the report should say of others there.

    Args:
        place: an absolute path, a glob of such, or a URI.
        what: "events" or "items", for messages.

    Raises:
        ConfigError: the place is relative, is not there, or its file is of an unknown format.
        DataError: a folder or glob has no file of a known format.
        NotReadyError: an object store does not answer.
    """
    if str(place).startswith(CATALOGUE):
        return _of_table("iceberg", str(place), ()), ()
    found = stored_files(str(place)) if is_uri(place) else _local_files(Path(place), what)
    if table := kind_of(str(place), [file.uri for file in found]):
        return _of_table(table, str(place), found), ()
    if len(found) == 1 and found[0].uri == str(place):
        only = found[0]
        return [RawFile(only.uri, only.size, *(_kind(only.uri) or _kind_unnamed(only)))], ()
    # What starts with _ or . is a writer's own book-keeping.
    public = [f for f in found if not f.uri.rpartition("/")[2].startswith((".", "_"))]
    files = [RawFile(f.uri, f.size, *kind) for f in public if (kind := _kind(f.uri))]
    # Among files of other names, a .json is somebody's settings rather than a part of the log.
    files = [f for f in files if ".json" not in f.suffixes] or files
    if not files:
        raise DataError(f"The {what} folder {place} holds no file of a known format ({KNOWN}).")
    taken = {f.place for f in files}
    ignored = [f.uri for f in public if f.uri not in taken]
    remark = f"files of {what} ignored, whose names say no format: {len(ignored)}, such as "
    return files, tuple(remark + name for name in ignored[:1])


def _of_table(kind: Kind, place: str, found: Sequence[StoredFile]) -> list[RawFile]:
    files = [file.uri for file in found]
    look = partial(parts_of, kind, place, files)
    parts = retried(look, place) if is_uri(place) else look()
    names = [f"{place}#part-{part.number:02d}" for part in parts] if len(parts) > 1 else [place]
    return [
        RawFile(name, part.size, "table", None, part)
        for name, part in zip(names, parts, strict=True)
    ]


def stem(place: str | Path) -> str:
    """Name of a place without what only says its format: of ``log/events.csv.gz``, "events"."""
    parts = [part for part in str(place).split("/") if part]
    if str(place).startswith(CATALOGUE):
        return parts[-1].rpartition(".")[2]
    if parts[-1].endswith(".metadata.json"):
        return parts[-3]
    while len(parts) > 1 and is_glob(parts[-1]):
        parts.pop()
    name = Path(parts[-1])
    while name.suffix.lower() in _FORMATS or name.suffix.lower() in _COMPRESSIONS:
        name = name.with_suffix("")
    return name.stem if name.name == parts[-1] else name.name


def _kind(place: str) -> tuple[Format, str | None] | None:
    """Format and compression by name; None where the name says neither."""
    path = Path(place.lower())
    compression = _COMPRESSIONS.get(path.suffix)
    known = _FORMATS.get(Path(path.stem).suffix if compression else path.suffix)
    if known is None or (compression and known == "parquet"):
        return None
    return known, compression


def _kind_unnamed(file: StoredFile) -> tuple[Format, str | None]:
    """A file that is named outright may have any name if it is Parquet."""
    if not is_uri(file.uri):
        with Path(file.uri).open("rb") as opened:
            if opened.read(4) == b"PAR1":
                return "parquet", None
    raise ConfigError(f"The name of {file.uri} does not say its format: rename it ({KNOWN}).")


def _local_files(path: Path, what: str) -> list[StoredFile]:
    if not path.is_absolute():
        raise ConfigError(
            f"The {what} path {path} is relative. Give an absolute one: a cluster job runs in "
            "another working directory."
        )
    if is_glob(path):
        matched = [Path(p) for p in glob.glob(str(path), recursive=True)]
        if not matched:
            raise ConfigError(f"The {what} path {path} matches no file.")
    elif not path.exists():
        raise ConfigError(f"The {what} path {path} does not exist.")
    else:
        matched = [path]
    found: set[Path] = set()
    for each in matched:
        # A folder may be partitioned.
        found.update(p for p in each.rglob("*") if p.is_file()) if each.is_dir() else found.add(
            each
        )
    return [StoredFile(str(p), p.stat().st_size) for p in sorted(found)]


@dataclass(frozen=True)
class Source:
    """Parquet files that make up one table.

    Attributes:
        files: absolute paths, in the order of their names.
        names: what messages call each: where it came from.
        rows: rows of each file.
        schemas: Arrow schema of each, as the log's owner has it.
        is_text: whether a file came from text: every column is text, whatever it holds.
        rejected: reason -> lines of text that are no rows at all.
        remarks: what the report should say of the files.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    rows: tuple[int, ...]
    schemas: tuple[pa.Schema, ...]
    is_text: tuple[bool, ...]
    rejected: dict[str, int]
    remarks: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Rows and rejected lines."""
        return sum(self.rows) + sum(self.rejected.values())
