"""The README's cluster block, run once with a fresh HOME; every test of this folder calls it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.cluster import ROOT, URL, environment, stop
from tests.documented import block


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    home = tmp_path_factory.mktemp("home")
    # Unlike on a user's machine, tests run beside the block: Ray's workers must not give way.
    env = environment(home) | {"RAY_worker_niceness": "0"}
    log = home / "block.log"
    script = (
        "set -euo pipefail\n" + block("cluster") + '\necho; echo "PRERANK_HOME=$PRERANK_HOME"\n'
    )
    try:
        with log.open("w") as out:
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=ROOT,
                env=env,
                stdout=out,
                stderr=out,
                timeout=560,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        assert done.returncode == 0, log.read_text()[-6000:]
        yield home, log.read_text()
    finally:
        stop(home)


@pytest.fixture(scope="package")
def client(cluster: tuple[Path, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=URL, timeout=60) as opened:
        yield opened
