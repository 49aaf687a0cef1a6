"""Processes of the demo and of the tests: Redis, where it is installed and where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from tests.redis_server import DURABLE, RedisServer

from prerank.core import processes
from prerank.core.errors import NotReadyError


def test_without_redis_there_is_none_and_whoever_needs_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with processes.redis_server(tmp_path) as server:
        assert server is None
    with pytest.raises(NotReadyError, match="apt-get install redis-server"):
        processes.RedisServer(tmp_path)


def test_a_server_keeps_its_port_and_what_it_synced(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "made", *DURABLE)
    try:
        server.start()
        address = server.address
        with Redis(port=server.port) as client:
            client.set("kept", "yes")
        server.kill()
        assert server.process is None
        server.start()
        assert server.address == address
        with Redis(port=server.port) as client:
            assert client.get("kept") == b"yes"
    finally:
        server.stop()


def test_a_server_that_cannot_start_says_so(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--no-such-option", "1")
    try:
        with pytest.raises(NotReadyError, match="redis-server did not start"):
            server.start()
    finally:
        server.stop()
