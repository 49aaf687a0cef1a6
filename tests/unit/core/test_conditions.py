"""Of several who replace an object at once, one does, and the others are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.s3 import s3_server

from prerank.core.conditions import Conditions, conditions_of
from prerank.core.errors import ConfigError
from prerank.core.objects import Objects

URI = "s3://bucket/conditions"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as url:
        yield url


def test_an_object_is_written_only_as_it_was_read(s3: str) -> None:
    store = conditions_of(URI)
    assert store is not None
    assert store.read("bucket/conditions/a") == (None, None)
    assert store.write("bucket/conditions/a", b"one", None)
    assert not store.write("bucket/conditions/a", b"late", None)
    content, tag = store.read("bucket/conditions/a")
    assert content == b"one"
    assert store.write("bucket/conditions/a", b"two", tag)
    assert not store.write("bucket/conditions/a", b"late", tag)
    assert store.read("bucket/conditions/a")[0] == b"two"


def test_of_those_who_come_at_once_one_wins(s3: str) -> None:
    """Each adds to what is there, as commands add flags; nobody's line is lost."""
    start = threading.Barrier(3)

    def add(name: str) -> None:
        objects = Objects(URI)
        start.wait()
        for number in range(5):
            line, added = f"{name}{number}\n".encode(), False
            while not added:
                before = objects.read("users.jsonl")
                added = objects.swap("users.jsonl", (before or b"") + line, before)

    threads = [threading.Thread(target=add, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (Objects(URI).read("users.jsonl") or b"").decode().split()
    assert sorted(lines) == sorted(f"{name}{n}" for name in "abc" for n in range(5))


def test_a_bucket_that_is_not_there_is_named(s3: str) -> None:
    with pytest.raises(ConfigError, match=r"s3://none/conditions/x is not there: check the bucket"):
        Objects("s3://none/conditions").swap("x", b"", None)


class Heedless:
    """A store that takes conditions and writes all the same.

    Attributes:
        rival: what somebody else writes between a read and the write that follows it.
    """

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.rival: bytes | None = None

    def read(self, path: str) -> tuple[bytes | None, str | None]:
        return self.content, "tag" if self.content else None

    def write(self, path: str, data: bytes, tag: str | None) -> bool:
        self.content = data
        if self.rival:
            self.content = self.rival
        return True


def test_a_store_that_heeds_no_conditions_is_looked_at_again(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heedless = Heedless()
    made: Conditions = heedless
    monkeypatch.setattr("prerank.core.objects.conditions_of", lambda uri: made)
    objects = Objects(URI)
    heedless.rival = b"rival"
    assert not objects.swap("heedless", b"one", None)
