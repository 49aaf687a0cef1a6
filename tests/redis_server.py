"""A Redis server that a test starts, stops and starts again: the product's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from prerank.core import processes
from prerank.core.errors import NotReadyError
from prerank.core.processes import DURABLE

__all__ = ["DURABLE", "RedisServer", "databases"]


class RedisServer(processes.RedisServer):
    """Skips without Redis."""

    def __init__(self, folder: Path, *options: str) -> None:
        try:
            super().__init__(folder, *options)
        except NotReadyError as none:
            pytest.skip(f"{none}; with one, the tests of the online store run on Redis too")

    def client(self) -> Redis:
        return Redis(port=self.port)


@contextmanager
def databases(folder: Path, *options: str) -> Iterator[Callable[[], str]]:
    """PRERANK_REDIS of an empty database, at each call, on one server that ends with the block."""
    server = RedisServer(folder, "--databases", "1000", *options)
    try:
        server.start()
        numbers = itertools.count()
        yield lambda: f"{server.address},db={next(numbers)}"
    finally:
        server.kill()
