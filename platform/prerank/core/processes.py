"""Processes that the demo, the tests and the benchmarks start, and stop by their own handles."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from prerank.core.errors import NotReadyError
from prerank.core.home import Home

START_SECONDS = 90.0
REDIS = "redis-server"


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mlflow_command(home: Home, port: int) -> list[str]:
    """The MLflow server on its embedded back end, bound to loopback."""
    home.mlflow.mkdir(parents=True, exist_ok=True)
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{home.mlflow / 'mlflow.db'}",
        "--artifacts-destination",
        str(home.mlflow / "artifacts"),
    ]


@contextmanager
def mlflow_server(home: Home) -> Iterator[str]:
    """Run an MLflow server until the block ends; yields its URI.

    Raises:
        NotReadyError: it did not answer in time; the message holds the end of its log.
    """
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = mlflow_command(home, port)
    log = home.mlflow / "server.log"
    with log.open("w") as out:
        # A session of its own: the server starts workers, and all of them must go with it.
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{uri}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotReadyError(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield uri
    finally:
        _stop(process)


DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a Redis that syncs every write."""


class RedisServer:
    """A Redis on loopback, at a port that it keeps: it can be killed and started again.

    Nothing is written to disk, unless the options say so.

    Args:
        folder: of its files; made if there is none.
        options: of redis-server, one after the other.

    Attributes:
        process: None while it does not run.

    Raises:
        NotReadyError: no redis-server is installed.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        binary = shutil.which(REDIS)
        if binary is None:
            raise NotReadyError(f"there is no {REDIS} here: apt-get install {REDIS}")
        folder.mkdir(parents=True, exist_ok=True)
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
        """Host and port, as ``PRERANK_REDIS`` has them."""
        return f"127.0.0.1:{self.port}"

    def start(self, password: str | None = None) -> None:
        """Start it, with what it wrote to disk; returns when it answers.

        Raises:
            NotReadyError: it ended, or does not answer in time.
        """
        from redis import Redis, RedisError
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # A file that may not grow is an error, as Python has it, and no signal that ends Redis.
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            restore_signals=False,
        )
        deadline = time.monotonic() + START_SECONDS
        # Tries of its own would wait longer and longer.
        once = Retry(NoBackoff(), 0)
        with closing(Redis(port=self.port, password=password, retry=once)) as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError as error:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        raise NotReadyError(f"{REDIS} did not start: {error}") from None
                    time.sleep(0.05)

    def stop(self) -> None:
        """End it, as ``shutdown`` does."""
        if self.process is not None:
            _stop(self.process)
            self.process = None

    def kill(self) -> None:
        """End it at once; what it held in memory alone is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It keeps its connections and answers nothing until the block ends."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer | None]:
    """Run a Redis until the block ends; None where none is installed.

    Args:
        folder: of its files.
        options: of redis-server.

    Raises:
        NotReadyError: it does not start.
    """
    if shutil.which(REDIS) is None:
        yield None
        return
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
    # The leader may be gone while a worker of its session lingers.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
