"""The README's cluster block: its environment, its processes, and commands beside it."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import yaml

from prerank.core.home import Home

ROOT = Path(__file__).resolve().parents[1]
URL = "http://127.0.0.1:8000"


def configuration(playground: bool = False) -> dict[str, Any]:
    """The Serve configuration as shipped, or with the playground's comment signs taken off."""
    text = (ROOT / "deployments" / "prerank.yaml").read_text()
    if playground:
        begin = text.index("  # - name: playground")
        lines = [line.replace("# ", "", 1) for line in text[begin:].splitlines()]
        text = text[:begin] + "\n".join(lines)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def environment(home: Path) -> dict[str, str]:
    """This process's environment with another HOME, without what the tests set for themselves.

    Kernels are kept where the other tests keep them: they are named by what they are made of.
    """
    own = ("RAY_", "MLFLOW_", "PRERANK_", "OMP_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return kept | {"HOME": str(home), "XDG_CACHE_HOME": cache}


def own_processes(home: Path) -> list[psutil.Process]:
    """Every process that was started with this HOME."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def stop(home: Path) -> None:
    for process in own_processes(home):
        process.terminate()
    _, alive = psutil.wait_procs(own_processes(home), timeout=5)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=15)


def prerank(home: Path, command: str, folder: Path = ROOT) -> str:
    """Run a command in a folder, with the block's environment."""
    return _shell(home, f'{_exports(home)}\ncd "{folder}"; {command}')


@cache
def _exports(home: Path) -> str:
    """What `prerank env` says, asked once: a start of Python for each command would be long."""
    return _shell(home, "prerank env")


def _shell(home: Path, line: str) -> str:
    done = subprocess.run(
        ["bash", "-c", f"source .venv/bin/activate; {line}"],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout


def catalogue(home: Path) -> list[int]:
    """Item ids of the ingested catalogue."""
    import pyarrow.parquet as pq

    items = pq.read_table(Home.at(home / ".prerank").items)
    ids: list[int] = items["item_id"].to_pylist()
    return ids


def live_user(home: Path) -> dict[str, Any]:
    """A user with a history and their last query, from the ingested log."""
    import pyarrow.parquet as pq

    day = sorted(Home.at(home / ".prerank").events.glob("day=*"))[-1]
    events = pq.read_table(day, partitioning=None).to_pandas()
    row = events[events["action"] == "click"].iloc[-1]
    items = catalogue(home)[:200]
    return {"user_id": row["user_id"], "query": row["query"], "candidates": items, "k": 200}
