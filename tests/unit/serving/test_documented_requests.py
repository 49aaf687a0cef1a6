"""The requests of the documentation, as they stand, over HTTP to a replica's routes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.documented import block
from tests.http_calls import api_of
from tests.http_servers import served
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    limits = replace(SAMPLE, max_candidates=100_000)
    with served(api_of(SmallEngine(limits, sample_scorer()))) as found:
        yield found.url.rpartition(":")[2]


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (block("first-request"), "items"),
        (block("rank"), "items"),
        (block("rerank"), "results"),
        (block("query"), "vector"),
        (block("report-event"), "accepted"),
    ],
)
def test_a_request_is_answered(command: str, field: str, port: str) -> None:
    here = command.replace(":8000/", f":{port}/")
    done = subprocess.run(["bash", "-c", here], capture_output=True, timeout=60, check=True)
    assert field in json.loads(done.stdout), done.stdout


@pytest.mark.parametrize("program", [block("rank-bytes"), block("rank-arrow")])
def test_a_program_is_answered(program: str, port: str) -> None:
    names: dict[str, Any] = {}
    exec(program.replace(":8000/", f":{port}/"), names)
    assert names["answer"].status_code == 200, names["answer"].text
