"""Processes that the demo and the tests start, and stop by their own handles."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from prerank.core.errors import NotReadyError
from prerank.core.home import Home

START_SECONDS = 90.0


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


@dataclass(frozen=True)
class RedisServer:
    """A Redis that runs on loopback: ``address`` is host:port."""

    address: str
    process: subprocess.Popen[bytes]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It keeps its connections and answers nothing until the block ends."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer | None]:
    """Run a Redis that syncs every write, until the block ends; None where none is installed.

    Args:
        folder: of its file.

    Raises:
        NotReadyError: it did not answer in time.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([binary, *words], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotReadyError(f"redis-server did not start in {folder}")
            time.sleep(0.05)
        yield RedisServer(f"127.0.0.1:{port}", process)
    finally:
        _stop(process)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
