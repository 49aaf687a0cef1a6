"""Delta and Iceberg tables: which of their files and rows count now is theirs to say.

Their folders hold files of earlier versions, and deleted rows, so they are read by readers that
know their logs: deltalake (the extra ``delta``) and PyIceberg (``iceberg``). A table is read as it
was when it was opened: some of its data files by each task, batch by batch.

    /path/table, s3://bucket/table           a folder with _delta_log/, or metadata/*.metadata.json
    …/metadata/00042-….metadata.json         a version of an Iceberg table
    iceberg://catalogue/namespace.table      by its name, as PyIceberg's configuration knows it
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from prerank.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyiceberg.table import Table

Kind = Literal["delta", "iceberg"]

PARTS = 64
"""Tasks that read a table, at most."""
CATALOGUE = "iceberg://"
_LOGS: dict[Kind, re.Pattern[str]] = {
    "delta": re.compile(r"(?:(.*)/)?_delta_log/[^/]+"),
    "iceberg": re.compile(r"(?:(.*)/)?metadata/[^/]+\.metadata\.json"),
}
_NUMBER = re.compile(r"v?(\d+)[^/]*\.metadata\.json")
_NAMES: dict[Kind, str] = {"delta": "a Delta table", "iceberg": "an Iceberg table"}


@dataclass(frozen=True)
class TablePart:
    """Some of the data files of one version of a table.

    Attributes:
        kind: of the table.
        place: of the table.
        version: of Delta its number, of Iceberg the place of its metadata.
        number, parts: those at number, number + parts, … of its files, by their paths.
        size: of these files in bytes, about.
    """

    kind: Kind
    place: str
    version: str
    number: int
    parts: int
    size: int


def kind_of(place: str, files: Sequence[str]) -> Kind | None:
    """Which table a place is, by the files below it; None for no table.

    Raises:
        ConfigError: there is a table below it, whose files are not all of it.
    """
    if place.startswith(CATALOGUE) or place.endswith(".metadata.json"):
        return "iceberg"
    base = place.rstrip("/") + "/"
    for file in files:
        for kind, log in _LOGS.items():
            if found := log.fullmatch(file.removeprefix(base)):
                if found[1]:
                    raise ConfigError(
                        f"{place} holds {_NAMES[kind]}, {file[: found.end(1) - found.end()]}: name "
                        "the table itself."
                    )
                return kind
    return None


def parts_of(kind: Kind, place: str, files: Sequence[str]) -> list[TablePart]:
    """What there is to read of the present version of a table; one part at least.

    Args:
        kind, place: of the table.
        files: below it, if it is a folder.

    Raises:
        ConfigError: its reader is not installed, or its catalogue is not known.
        DataError: the table is damaged, or of a kind that its reader does not know.
        OSError: the store fails.
    """
    with _told(kind, place):
        if kind == "delta":
            table = _delta(place)
            version, sizes = str(table.version()), _delta_sizes(table)
            if not _is_plain(table):
                sizes = [sum(sizes)]
        else:
            version = _metadata_of(place, files)
            tasks = _iceberg_files(_iceberg(place, version))
            sizes = [task.file.file_size_in_bytes for task in tasks]
        parts = max(1, min(len(sizes), PARTS))
        return [
            TablePart(kind, place, version, n, parts, sum(sizes[n::parts])) for n in range(parts)
        ]


def batches_of(part: TablePart) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema of a part's rows, and the rows.

    Raises:
        ConfigError, DataError, OSError: as ``parts_of`` does; the iterator too.
    """
    with _told(part.kind, part.place):
        schema, batches = (_delta_rows if part.kind == "delta" else _iceberg_rows)(part)
    plain = pa.schema([pa.field(f.name, _plain(f.type)) for f in schema])
    return plain, _told_rows(part, plain, batches)


def _told_rows(
    part: TablePart, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    with _told(part.kind, part.place):
        for batch in batches:
            yield batch.cast(schema)


class _told:
    """Tells readers' errors as ours."""

    def __init__(self, kind: Kind, place: str) -> None:
        self._kind, self._place = kind, place

    def __enter__(self) -> None:
        # Readers warn of what is theirs: experimental functions, properties of catalogues.
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._caught.__exit__(kind, error, trace)
        if isinstance(error, ImportError):
            raise ConfigError(
                f"{self._place} is {_NAMES[self._kind]}, and its reader is not installed: pip "
                f'install "interactrank-platform[{self._kind}]", on every node. ({error})'
            ) from None
        if isinstance(error, Exception) and not isinstance(error, (ConfigError, DataError)):
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise error
            raise DataError(
                f"{self._place} cannot be read as {_NAMES[self._kind]}: {error}"
            ) from None


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type of Arrow's that Parquet has, for one that it has another name for."""
    if kind in (pa.string_view(), pa.large_string()):
        return pa.string()
    if kind == pa.binary_view():
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _delta(place: str, version: str | None = None) -> Any:
    from deltalake import DeltaTable

    options = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and place.startswith("s3"):
        options = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": str(endpoint.startswith("http:")).lower(),
        }
    number = None if version is None else int(version)
    return DeltaTable(place, version=number, storage_options=options or None)


def _is_plain(table: Any) -> bool:
    """Whether its files can be read one by one, as they are."""
    features = {*(table.protocol().reader_features or ())}
    mode = str(table.metadata().configuration.get("delta.columnMapping.mode", "none"))
    return mode == "none" and not features & {"deletionVectors", "columnMapping"}


def _delta_sizes(table: Any) -> list[int]:
    return [int(size) for _, size in sorted(_add_actions(table))]


def _add_actions(table: Any) -> list[tuple[str, int]]:
    actions = pa.table(table.get_add_actions(flatten=True))
    return list(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))


def _delta_rows(part: TablePart) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    table = _delta(part.place, part.version)
    if not _is_plain(table):
        # Deleted rows and renamed columns are known to its engine alone, which reads the whole.
        from deltalake import QueryBuilder

        rows = QueryBuilder().register("log", table).execute("SELECT * FROM log")
        reader = pa.RecordBatchReader.from_stream(rows)
        return reader.schema, iter(reader)
    dataset = table.to_pyarrow_dataset()
    files = sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path))
    own = files[part.number :: part.parts]
    return dataset.schema, (
        batch for file in own for batch in file.to_batches(schema=dataset.schema)
    )


def _metadata_of(place: str, files: Sequence[str]) -> str:
    """The place of the metadata of an Iceberg table's present version."""
    if place.startswith(CATALOGUE):
        return str(_of_catalogue(place).metadata_location)
    if place.endswith(".metadata.json"):
        return place
    base = place.rstrip("/") + "/metadata/"
    numbered = [
        (int(found[1]), file)
        for file in files
        if (found := _NUMBER.fullmatch(file.removeprefix(base)))
    ]
    if not numbered:
        raise DataError(f"{place}: no file of metadata/ is numbered. Name one of them.")
    newest = max(number for number, _ in numbered)
    latest = [file for number, file in numbered if number == newest]
    if len(latest) > 1:
        raise ConfigError(
            f"{place} has {len(latest)} files of metadata of version {newest}, and only its "
            f"catalogue knows which one counts. Name one ({latest[0]}), or the table in its "
            f"catalogue ({CATALOGUE}catalogue/namespace.table)."
        )
    return latest[0]


def _of_catalogue(place: str) -> Table:
    from pyiceberg.catalog import load_catalog

    catalogue, _, name = place.removeprefix(CATALOGUE).partition("/")
    if not catalogue or not name:
        raise ConfigError(f"{place}: give {CATALOGUE}catalogue/namespace.table.")
    return load_catalog(catalogue).load_table(name)


def _iceberg(place: str, metadata: str) -> Table:
    from pyiceberg.table import StaticTable

    properties: dict[str, Any] = {}
    if place.startswith(CATALOGUE):
        # What the catalogue gives: where the files are, and by whose leave they are read.
        properties = dict(_of_catalogue(place).io.properties)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION")
    of_environment = {"s3.endpoint": endpoint, "s3.region": region}
    return StaticTable.from_metadata(
        metadata, {k: v for k, v in of_environment.items() if v} | properties
    )


def _iceberg_files(table: Table) -> list[Any]:
    return sorted(table.scan().plan_files(), key=lambda task: str(task.file.file_path))


def _iceberg_rows(part: TablePart) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow

    table = _iceberg(part.place, part.version)
    scan = table.scan()
    arrow = ArrowScan(table.metadata, table.io, scan.projection(), scan.row_filter)
    own = _iceberg_files(table)[part.number :: part.parts]
    # A file at a time: of several at once it would hold the rows of all.
    rows = (batch for task in own for batch in arrow.to_record_batches([task]))
    return schema_to_pyarrow(scan.projection(), include_field_ids=False), rows
