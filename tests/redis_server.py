"""A Redis server that a test starts, stops and starts again."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from redis import Redis, RedisError

from prerank.core.processes import free_port

START_SECONDS = 20
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a server that syncs every write."""


class RedisServer:
    """On loopback, at a port that it keeps. Skips without Redis.

    Nothing is written to disk, unless the ``options`` (of redis-server) say so.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip(
                "there is no redis-server here; with one (apt-get install redis-server) the "
                "tests of the online store run on Redis too"
            )
        self.port = free_port()
        plain = {
            "--bind": "127.0.0.1",
            "--port": str(self.port),
            "--dir": str(folder),
            "--save": "",
            "--appendonly": "no",
        }
        self._command = [binary, *(word for pair in plain.items() for word in pair), *options]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self) -> Redis:
        return Redis(port=self.port)

    def start(self, password: str | None = None) -> None:
        """Start it, with what it wrote to disk; returns when it answers."""
        # A file that may not grow is an error, as Python has it, and no signal that ends Redis.
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, restore_signals=False
        )
        deadline = time.monotonic() + START_SECONDS
        with closing(Redis(port=self.port, password=password)) as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError:
                    assert self.process.poll() is None, "redis-server ended at once"
                    assert time.monotonic() < deadline, "redis-server does not answer"
                    time.sleep(0.05)

    def kill(self) -> None:
        """End it at once; what it held in memory alone is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(START_SECONDS)
            self.process = None


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
