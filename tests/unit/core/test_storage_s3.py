"""A home in S3: over its protocol, and what is said when it refuses, stalls or is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from tests.object_stores import without_mtime
from tests.s3 import FakeS3, fake_s3, s3_server

from prerank.core import object_stores
from prerank.core.errors import ConfigError, NotReadyError, StateError
from prerank.core.files import REMOTES, remove, replaced, write_json
from prerank.core.home import Home
from prerank.core.storage import CACHE_ENV

URI = "s3://bucket/home"


@pytest.fixture(autouse=True)
def no_home_is_left() -> Iterator[None]:
    yield
    REMOTES.clear()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setenv(CACHE_ENV, str(tmp_path))
    with fake_s3(monkeypatch) as server:
        yield server


def home_of(node: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The home as a fresh process of a node has it."""
    REMOTES.clear()
    monkeypatch.setenv(CACHE_ENV, str(node))
    home = Home.at(URI)
    home.create()
    home.look()
    return home


def test_nodes_share_a_home_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch) as url:
        expected = {}
        for text in ("one", "two"):
            home = home_of(tmp_path / "a", monkeypatch)
            with replaced(home.training_set) as out:
                (out / f"{text}.parquet").write_text(text)
                # More than one chunk of a copy.
                (out / "large.parquet").write_bytes(bytes(9_000_000 if text == "two" else 9))
                write_json(out / "manifest.json", {"text": text})
            expected = without_mtime(home.training_set)
            home = home_of(tmp_path / "b", monkeypatch)
            home.fetch(home.training_set)
            assert without_mtime(home.training_set) == expected
        remove(home.training_set)
        home = home_of(tmp_path / "a", monkeypatch)
        assert without_mtime(home.root) == {}
        system = pafs.S3FileSystem(endpoint_override=url)
        left = system.get_file_info(pafs.FileSelector("bucket/home", recursive=True))
        assert [f.path for f in left if f.type == pafs.FileType.File] == []


def test_s3_without_access_names_the_variables(fake: FakeS3) -> None:
    fake.answer = 403, "AccessDenied"
    with pytest.raises(ConfigError, match=r"s3://bucket/home/.* may not be read.*AWS_ACCESS_KEY"):
        Home.at(URI).look()


def test_s3_that_may_only_be_read_names_the_variables(fake: FakeS3) -> None:
    fake.answer, fake.writing = (404, "NoSuchKey"), (403, "AccessDenied")
    home = Home.at(URI)
    with pytest.raises(ConfigError, match=r"job\.json may not be written.*AWS_ACCESS_KEY_ID"):
        write_json(home.root / "job.json", {})
    assert not (home.root / "job.json").exists()


def test_a_bucket_that_is_not_there_is_named(fake: FakeS3) -> None:
    fake.answer = 404, "NoSuchBucket"
    home = Home.at(URI)
    with pytest.raises(ConfigError, match=r"job\.json is not there: check the bucket"):
        write_json(home.root / "job.json", {})


@pytest.mark.parametrize("pause_s", [0.0, 1.0])
def test_s3_that_is_busy_or_stalls_is_given_up_and_named(
    fake: FakeS3, monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    monkeypatch.setattr(object_stores, "CALL_S", 0.2)
    fake.pause_s = pause_s
    with pytest.raises(NotReadyError, match=r"s3://bucket/home/: the store failed 2 times"):
        Home.at(URI).look()


def test_a_full_bucket_is_named(fake: FakeS3) -> None:
    fake.answer, fake.writing = (404, "NoSuchKey"), (507, "XMinioStorageFull")
    home = Home.at(URI)
    with pytest.raises(StateError, match=r"the store is full.*before stays\. Make room"):
        write_json(home.root / "job.json", {})
