"""A small deployment that writes down what it serves, and what it has written."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow.parquet as pq
from tests import samples
from tests.api_bodies import NOW
from tests.http_calls import LOCAL, call, no_writers, whole
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from prerank.core.home import Home
from prerank.core.served import REQUESTS, events_folder, requests_folder
from prerank.serving.api import Limits
from prerank.serving.config import ServeConfig
from prerank.serving.http import HttpApi
from prerank.serving.served_log import LogConfig, ServedLog

ALL = LogConfig(share=1.0, items=3, days=None)
ITEMS = samples.CATALOGUE.ids.tolist()
EVENT = {"user_id": "u", "item_id": 1, "action": "click", "event_time": NOW}


def requests_of(home: Home) -> list[dict[str, Any]]:
    files = sorted(requests_folder(home).glob("day=*/*.parquet"))
    return [row for file in files for row in pq.read_table(file, schema=REQUESTS).to_pylist()]


def events_of(home: Home) -> list[dict[str, Any]]:
    files = sorted(events_folder(home).glob("day=*/*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def served(
    home: Home,
    config: LogConfig = ALL,
    clock: Callable[[], float] | None = time.time,
    limits: Limits = SAMPLE,
) -> tuple[HttpApi, ServedLog]:
    """The routes before a small engine, and the log that they write."""
    log = ServedLog(home, config, clock)
    engine: Any = SmallEngine(limits, sample_scorer())
    return HttpApi(ServeConfig(), engine, no_writers, log=log), log


def send(api: HttpApi, path: str, body: Any, **headers: str) -> dict[str, Any]:
    answer = asyncio.run(call(api, path, whole(orjson.dumps(body)), LOCAL | headers))
    assert answer.status_code == 200, bytes(answer.body)
    told: dict[str, Any] = orjson.loads(answer.body)
    return told
