"""A log in an object store is read whole, or what is wrong is said with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from tests.s3 import fake_s3, s3_server

from prerank.core import object_stores as stores
from prerank.core.errors import ConfigError, NotReadyError
from prerank.core.home import Home
from prerank.core.object_stores import StoredFile, copied, stored_files
from prerank.core.places import absolute, is_uri
from prerank.ingest.report import IngestReport
from prerank.ingest.sources import raw_files, stem

Ingested = Callable[..., tuple[IngestReport, Home]]
LOG = pd.DataFrame(
    {
        "timestamp": pd.Timestamp("2024-03-01T10:00Z") + pd.to_timedelta(range(6), unit="h"),
        "user_id": "u",
        "query": "q",
        "item_id": range(6),
        "action": "click",
    }
)

AS_LINES: Any = {"orient": "records", "lines": True, "date_format": "iso"}
COMPRESSIONS = {"gz": "gzip", "zst": "zstd"}


class Weak(MemoryFileSystem):
    """A store in memory that fails as often as ``failures`` says."""

    protocol = "weak"
    store: ClassVar[dict[str, MemoryFile]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failures: ClassVar[list[Exception | int]] = []

    def _open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        opened = super()._open(path, mode, *args, **kwargs)
        if "r" in mode and self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return MemoryFile(self, path, opened.getvalue()[:failure])
        return opened


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> Iterator[Weak]:
    monkeypatch.setattr(stores, "FIRST_WAIT_S", 0.001)
    fsspec.register_implementation("weak", Weak, clobber=True)
    yield Weak()
    Weak.store.clear()
    Weak.failures.clear()


def put(uri: str, data: bytes) -> None:
    with fsspec.open(uri, "wb") as file:
        file.write(data)


@pytest.fixture
def log_in_memory(weak: Weak, tmp_path: Path) -> str:
    """A log of a day as Parquet and a day as CSV, with a catalogue."""
    LOG.iloc[:3].to_parquet(tmp_path / "day.parquet")
    put("weak://bucket/log/1/day.parquet", (tmp_path / "day.parquet").read_bytes())
    put("weak://bucket/log/2/day.csv", LOG.iloc[3:].to_csv(index=False).encode())
    put("weak://bucket/log/_SUCCESS", b"")
    put("weak://bucket/items.csv", b"item_id,title\n1,a\n2,b\n")
    return "weak://bucket/log"


def test_a_log_in_a_store_gives_the_tables_of_a_local_one(
    log_in_memory: str, ingested: Ingested, tmp_path: Path
) -> None:
    LOG.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n2,b\n")
    local, _ = ingested(tmp_path / "log.parquet", tmp_path / "items.csv")
    for place in (log_in_memory, f"{log_in_memory}/", f"{log_in_memory}/*/day.*"):
        report, home = ingested(place, "weak://bucket/items.csv")
        assert report.manifest.fingerprint == local.manifest.fingerprint
        assert not (home.root / ".ingest").exists()


@pytest.mark.parametrize("form", ["csv.gz", "csv.zst", "jsonl.gz", "jsonl.zst"])
def test_compressed_text_in_a_store_gives_the_tables_of_a_local_log(
    weak: Weak, ingested: Ingested, tmp_path: Path, form: str
) -> None:
    LOG.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n2,b\n")
    local, _ = ingested(tmp_path / "log.parquet", tmp_path / "items.csv")
    kind, _, ending = form.partition(".")
    text = LOG.to_csv(index=False) if kind == "csv" else LOG.to_json(**AS_LINES)
    with pa.output_stream(str(tmp_path / "packed"), compression=COMPRESSIONS[ending]) as out:
        out.write(text.encode())
    put(f"weak://bucket/log/day.{form}", (tmp_path / "packed").read_bytes())
    report, _ = ingested("weak://bucket/log", tmp_path / "items.csv")
    assert report.manifest.fingerprint == local.manifest.fingerprint


def test_files_are_found_by_uri_folder_and_wildcards(log_in_memory: str) -> None:
    def found(uri: str) -> list[str]:
        return [f.uri.removeprefix(f"{log_in_memory}/") for f in stored_files(uri)]

    every = ["1/day.parquet", "2/day.csv", "_SUCCESS"]
    assert found(log_in_memory) == every
    assert found(f"{log_in_memory}/2/day.csv") == ["2/day.csv"]
    assert found(f"{log_in_memory}/*/*.csv") == ["2/day.csv"]
    assert found(f"{log_in_memory}/**/*.csv") == ["2/day.csv"]
    assert found(f"{log_in_memory}/[12]") == every[:2]
    assert [f.name for f in raw_files(log_in_memory, "events")[0]] == ["day.parquet", "day.csv"]
    for nothing in ("weak://bucket/other", f"{log_in_memory}/*.csv"):
        with pytest.raises(ConfigError, match=r"names no file|is not there"):
            stored_files(nothing)


BUSY = OSError("AWS Error SLOW_DOWN during GetObject operation: 503 Slow Down")


@pytest.mark.parametrize("failure", [BUSY, TimeoutError("no answer in 30 s"), 3])
def test_a_store_that_fails_for_a_while_is_asked_again(
    weak: Weak, tmp_path: Path, failure: Exception | int
) -> None:
    put("weak://b/f.csv", b"a,b\n1,2\n")
    Weak.failures[:] = [failure] * 3
    copied(StoredFile("weak://b/f.csv", 8), tmp_path / "f.csv")
    assert (tmp_path / "f.csv").read_bytes() == b"a,b\n1,2\n"


def test_a_store_that_goes_on_failing_is_named(weak: Weak, tmp_path: Path) -> None:
    put("weak://b/f.csv", b"a,b\n1,2\n")
    Weak.failures[:] = [BUSY] * 20
    with pytest.raises(NotReadyError, match=r"weak://b/f\.csv: the store failed 5 times.*503"):
        copied(StoredFile("weak://b/f.csv", 8), tmp_path / "f.csv")
    assert len(Weak.failures) == 20 - stores.TRIES
    Weak.failures[:] = [3] * 20
    with pytest.raises(NotReadyError, match="3 of 8 bytes came"):
        copied(StoredFile("weak://b/f.csv", 8), tmp_path / "f.csv")


@pytest.mark.parametrize(
    "refusal", [PermissionError("no"), OSError("AWS Error ACCESS_DENIED: HTTP status 403")]
)
def test_what_another_try_does_not_change_is_said_at_once(
    weak: Weak, tmp_path: Path, refusal: Exception
) -> None:
    put("weak://b/f.csv", b"a")
    Weak.failures[:] = [refusal] * 2
    with pytest.raises(ConfigError, match=r"weak://b/f\.csv may not be read.*Set the variables"):
        copied(StoredFile("weak://b/f.csv", 1), tmp_path / "f.csv")
    assert len(Weak.failures) == 1
    Weak.failures.clear()
    with pytest.raises(ConfigError, match=r"weak://b/gone\.csv is not there"):
        copied(StoredFile("weak://b/gone.csv", 1), tmp_path / "f.csv")


def test_an_unknown_scheme_names_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"nowhere://x cannot be opened.*s3://, gs://"):
        stored_files("nowhere://x")


def test_a_place_is_a_uri_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("s3://bucket/log/") == "s3://bucket/log/"
    assert absolute(f"file://{tmp_path}/a%20b") == f"{tmp_path}/a b"
    assert absolute("log/*.csv") == f"{tmp_path}/log/*.csv"
    assert [is_uri(p) for p in ("s3://b", "file:///b", "/b", Path("/b"))] == [True, *[False] * 3]
    places = ["/x/events.csv.gz", "s3://b/events/", "/x/events/*.csv", "/x/events/*/*", "/x/events"]
    assert {stem(place) for place in places} == {"events"}
    assert stem("/x/v1.parquet") == "v1"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], str]]:
    """Answers every request to S3 as it is told; returns what to say in a test."""
    with fake_s3(monkeypatch) as fake:

        def say(status: int, code: str) -> str:
            fake.answer = status, code
            return "s3://bucket/log/day.csv"

        yield say


def test_s3_without_access_names_the_variables(s3: Callable[[int, str], str]) -> None:
    with pytest.raises(ConfigError, match=r"may not be read.*AWS_ACCESS_KEY_ID"):
        stored_files(s3(403, "AccessDenied"))


def test_s3_that_is_busy_is_asked_again_and_named(s3: Callable[[int, str], str]) -> None:
    with pytest.raises(NotReadyError, match=r"s3://bucket/log/day\.csv: the store failed 2 times"):
        stored_files(s3(503, "SlowDown"))


def test_a_log_in_s3(ingested: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch) as url:
        system = pafs.S3FileSystem(endpoint_override=url)
        for at in range(2):
            with system.open_output_stream(f"bucket/log/{at}.csv") as out:
                out.write(LOG.iloc[at::2].to_csv(index=False).encode())
        LOG.to_parquet(tmp_path / "log.parquet")
        (tmp_path / "items.csv").write_text("item_id,title\n1,a\n")
        stored, _ = ingested("s3://bucket/log", tmp_path / "items.csv")
        local, _ = ingested(tmp_path / "log.parquet", tmp_path / "items.csv")
    assert stored.manifest.fingerprint == local.manifest.fingerprint
