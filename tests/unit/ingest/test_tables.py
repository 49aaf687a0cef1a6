"""Delta and Iceberg tables are read as they are now, or what is wrong is said."""

from __future__ import annotations

import base64
import json
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from tests.s3 import s3_server

from prerank.core.errors import ConfigError, DataError, NotReadyError
from prerank.core.home import Home
from prerank.ingest.inspection.look import inspect
from prerank.ingest.landing import in_turn, opened
from prerank.ingest.report import IngestReport
from prerank.ingest.sources import raw_files, stem
from prerank.ingest.tables import batches_of

Ingested = Callable[..., tuple[IngestReport, Home]]
LOG = pd.DataFrame(
    {
        "timestamp": pd.Timestamp("2024-03-01T10:00Z") + pd.to_timedelta(range(12), unit="h"),
        "user_id": [f"u{n % 3}" for n in range(12)],
        "query": "q",
        "item_id": range(12),
        "action": "click",
    }
).astype({"timestamp": "datetime64[us, UTC]"})


def table_of(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


class Delta:
    """A Delta table in a folder."""

    def __init__(self, folder: Path) -> None:
        self.lake = pytest.importorskip("deltalake", reason="the extra `delta` is not installed")
        self.place = folder / "events"

    def add(self, frame: pd.DataFrame, **options: Any) -> None:
        self.lake.write_deltalake(
            str(self.place), table_of(frame), mode="append", schema_mode="merge", **options
        )

    def delete(self, where: str) -> None:
        self.lake.DeltaTable(str(self.place)).delete(where)

    def compact(self) -> None:
        self.lake.DeltaTable(str(self.place)).optimize.compact()


class Iceberg:
    """An Iceberg table in a catalogue of its own."""

    def __init__(self, folder: Path, warehouse: str = "", **properties: str) -> None:
        reason = "the extra `iceberg` is not installed"
        self.sql = pytest.importorskip("pyiceberg.catalog.sql", reason=reason)
        self.options = {
            "type": "sql",
            "uri": f"sqlite:///{folder}/catalogue.db",
            "warehouse": warehouse or f"file://{folder}/warehouse",
            **properties,
        }
        self.catalogue = self.sql.SqlCatalog("lake", **self.options)
        self.catalogue.create_namespace("shop")
        self.table: Any = None

    @property
    def place(self) -> Path | str:
        location = self.table.location()
        return Path(location.removeprefix("file://")) if "s3://" not in location else location

    def add(self, frame: pd.DataFrame) -> None:
        rows = table_of(frame)
        if self.table is None:
            self.table = self.catalogue.create_table("shop.events", rows.schema)
        with self.table.update_schema() as update:
            update.union_by_name(rows.schema)
        self.table.append(rows)

    def delete(self, where: str) -> None:
        self.table.delete(where.replace(" = ", " == "))

    def compact(self) -> None:
        self.table.overwrite(self.table.scan().to_arrow())


@pytest.fixture(params=[Delta, Iceberg])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with _quiet():
        yield request.param(tmp_path)


@contextmanager
def _quiet() -> Iterator[None]:
    """What the writers warn of is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def items(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n2,b\n")
    return tmp_path / "items.csv"


def rows_of(place: Path | str, scratch: Path) -> pd.DataFrame:
    source = opened(*raw_files(place, "events"), scratch, in_turn)
    assert not any(source.is_text)
    return pa.concat_tables([pq.read_table(file) for file in source.files]).to_pandas()


def test_a_table_gives_what_its_rows_give_in_a_file(
    lake: Any, items: Path, tmp_path: Path, ingested: Ingested
) -> None:
    lake.add(LOG.iloc[:6])
    lake.add(LOG.iloc[6:])
    LOG.to_parquet(tmp_path / "log.parquet")
    found, home = ingested(lake.place, items)
    plain, _ = ingested(tmp_path / "log.parquet", items)
    assert found.manifest.fingerprint == plain.manifest.fingerprint
    assert not (home.root / ".ingest").exists()
    looked = inspect(lake.place, items)
    assert (looked.sample.total, looked.sample.is_whole) == (12, True)


def test_deleted_rows_and_files_of_before_are_not_read(lake: Any, tmp_path: Path) -> None:
    lake.add(LOG.iloc[:6])
    lake.add(LOG.iloc[6:])
    lake.delete("user_id = 'u1'")
    found = rows_of(lake.place, tmp_path / "one")
    assert sorted(found["item_id"]) == [n for n in range(12) if n % 3 != 1]
    lake.compact()
    assert len(list(Path(lake.place).rglob("*.parquet"))) > 1
    found = rows_of(lake.place, tmp_path / "two")
    assert sorted(found["item_id"]) == [n for n in range(12) if n % 3 != 1]


def test_columns_that_came_later_are_missing_before(lake: Any, tmp_path: Path) -> None:
    lake.add(LOG.iloc[:6])
    lake.add(LOG.iloc[6:].assign(price=1.5))
    found = rows_of(lake.place, tmp_path / "scratch").sort_values("item_id")
    assert list(found.columns) == [*LOG.columns, "price"]
    assert found["price"].isna().tolist() == [True] * 6 + [False] * 6
    assert str(found["timestamp"].dtype) == "datetime64[us, UTC]"


def test_the_version_of_the_beginning_is_read(lake: Any, tmp_path: Path) -> None:
    lake.add(LOG.iloc[:6])
    raws, _ = raw_files(lake.place, "events")
    lake.add(LOG.iloc[6:])
    read = [batch for raw in raws if raw.part for batch in batches_of(raw.part)[1]]
    assert sum(map(len, read)) == 6


def test_a_table_of_many_files_is_read_by_many_tasks(lake: Any, tmp_path: Path) -> None:
    for n in range(4):
        lake.add(LOG.iloc[3 * n : 3 * n + 3])
    raws, _ = raw_files(lake.place, "events")
    assert [raw.name for raw in raws] == [f"events#part-0{n}" for n in range(4)]
    assert all(raw.size > 0 for raw in raws)
    assert sorted(rows_of(lake.place, tmp_path / "scratch")["item_id"]) == list(range(12))


def test_an_empty_table_has_its_columns(lake: Any, tmp_path: Path) -> None:
    lake.add(LOG.iloc[:6])
    lake.delete("query = 'q'")
    found = rows_of(lake.place, tmp_path / "scratch")
    assert len(found) == 0
    assert set(found.columns) == set(LOG.columns)


def test_a_table_below_a_folder_is_named(lake: Any, tmp_path: Path) -> None:
    lake.add(LOG)
    above = Path(lake.place).parent
    for place in (above, f"{above}/*"):
        with pytest.raises(ConfigError, match=r"table, .*/events: name the table itself"):
            raw_files(place, "events")


def test_a_damaged_table_is_named(lake: Any) -> None:
    lake.add(LOG)
    for file in Path(lake.place).rglob("*.json"):
        file.write_text("{")
    with pytest.raises(DataError, match=r"events cannot be read as an? (Delta|Iceberg) table"):
        raw_files(lake.place, "events")


@pytest.mark.parametrize(("kind", "module"), [("delta", "deltalake"), ("iceberg", "pyiceberg")])
def test_a_reader_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    log = {"delta": "_delta_log/00000000000000000000.json", "iceberg": "metadata/v1.metadata.json"}
    file = tmp_path / "events" / log[kind]
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(ConfigError, match=rf"interactrank-platform\[{kind}\]"):
        raw_files(tmp_path / "events", "events")


def test_partitions_are_columns(tmp_path: Path) -> None:
    lake = Delta(tmp_path)
    lake.add(LOG.assign(country=["de", "us"] * 6), partition_by=["country"])
    found = rows_of(lake.place, tmp_path / "scratch").sort_values("item_id")
    assert found["country"].tolist() == ["de", "us"] * 6


def test_rows_that_a_deletion_vector_marks_are_not_read(tmp_path: Path) -> None:
    """As Spark deletes by default: the file stays, and the log says which rows count."""
    lake = Delta(tmp_path)
    lake.add(LOG)
    with_deletion_vector(lake.place, [1, 4])
    found = rows_of(lake.place, tmp_path / "scratch")
    assert sorted(found["item_id"]) == [n for n in range(12) if n not in (1, 4)]


def with_deletion_vector(table: Path, rows: list[int]) -> None:
    """Commit a vector that marks rows of the one file that a table has."""
    log = table / "_delta_log"
    lines = map(json.loads, (log / f"{0:020}.json").read_text().splitlines())
    add = next(line["add"] for line in lines if "add" in line)
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16)
    bitmap += b"".join(struct.pack("<H", row) for row in rows)
    data = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    padded = data + bytes(-len(data) % 4)
    ours = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = base64.b85encode(padded).translate(bytes.maketrans(ours, z85)).decode()
    vector = {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data)}
    features = ["deletionVectors", "timestampNtz"]
    actions = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7}},
        {"remove": {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}},
        {"add": add | {"deletionVector": vector | {"cardinality": len(rows)}}},
    ]
    actions[0]["protocol"] |= {"readerFeatures": features, "writerFeatures": features}
    (log / f"{1:020}.json").write_text("\n".join(map(json.dumps, actions)))


def test_iceberg_by_its_metadata_and_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Iceberg(tmp_path)
    lake.add(LOG.iloc[:6])
    first = lake.table.metadata_location.removeprefix("file://")
    lake.add(LOG.iloc[6:])
    for name, value in lake.options.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__LAKE__{name.upper()}", value)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", _configuration())
    places = {first: 6, "iceberg://lake/shop.events": 12, lake.place: 12}
    for at, (place, rows) in enumerate(places.items()):
        assert len(rows_of(place, tmp_path / str(at))) == rows
        assert stem(place) == "events"
    with pytest.raises(ConfigError, match=r"give iceberg://catalogue/namespace\.table"):
        raw_files("iceberg://lake", "events")
    with pytest.raises(DataError, match=r"iceberg://lake/shop\.none cannot be read.*shop\.none"):
        raw_files("iceberg://lake/shop.none", "events")


def _configuration() -> Any:
    from pyiceberg.utils.config import Config

    return Config()


def test_two_metadata_files_of_a_version_are_refused(tmp_path: Path) -> None:
    lake = Iceberg(tmp_path)
    lake.add(LOG)
    newest = sorted(Path(lake.place).glob("metadata/*.metadata.json"))[-1]
    newest.with_name(f"{newest.name[:5]}-left.metadata.json").write_bytes(newest.read_bytes())
    with pytest.raises(ConfigError, match=r"2 files of metadata of version \d+.*Name one"):
        raw_files(lake.place, "events")


@pytest.mark.parametrize("kind", [Delta, Iceberg])
def test_tables_in_s3(
    kind: Any, tmp_path: Path, items: Path, ingested: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(monkeypatch) as url, _quiet():
        lake: Delta | Iceberg
        if kind is Delta:
            lake = Delta(tmp_path)
            lake.add(LOG)
            lake.delete("user_id = 'u1'")
            system = pafs.S3FileSystem(endpoint_override=url)
            pafs.copy_files(str(lake.place), "bucket/lake/events", destination_filesystem=system)
            place: Path | str = "s3://bucket/lake/events"
        else:
            options = {"s3.endpoint": url, "s3.region": "us-east-1"}
            lake = Iceberg(tmp_path, "s3://bucket/lake", **options)
            lake.add(LOG)
            lake.delete("user_id = 'u1'")
            place = lake.place
        found, _ = ingested(place, items)
        LOG[LOG["user_id"] != "u1"].to_parquet(tmp_path / "log.parquet")
        plain, _ = ingested(tmp_path / "log.parquet", items)
        assert found.manifest.fingerprint == plain.manifest.fingerprint
        with pytest.raises((ConfigError, DataError, NotReadyError), match="s3://bucket/none"):
            raw_files("s3://bucket/none", "events")
