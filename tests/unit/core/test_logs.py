"""A log record as one line of JSON."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prerank.core.logs import HANDLING, Handling


def told(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_with_what_it_is(lines: io.StringIO) -> None:
    logging.getLogger("prerank.online").info('two\nlines of "%s"', "text")
    (line,) = told(lines)
    time = datetime.fromisoformat(line.pop("time"))
    assert timedelta() <= datetime.now(UTC) - time < timedelta(minutes=1)
    assert line == {
        "level": "INFO",
        "logger": "prerank.online",
        "message": 'two\nlines of "text"',
        "model_version": "7",
    }


def test_a_line_of_a_request_names_it(lines: io.StringIO) -> None:
    logger = logging.getLogger("prerank.x")
    context = HANDLING.set(Handling("r1", "prerank", "shop"))
    logger.warning("inside")
    HANDLING.reset(context)
    logger.warning("outside")
    inside, outside = told(lines)
    assert (inside["request_id"], inside["route"], inside["token"]) == ("r1", "prerank", "shop")
    assert not {"request_id", "route", "token"} & outside.keys()


def test_passwords_are_taken_out_of_messages_and_tracebacks(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRERANK_TOKEN", "shop rank t0ken")
    try:
        raise ValueError("no server at https://ann:s3cret@mlflow:5000/ for t0ken")
    except ValueError:
        logging.getLogger("prerank.x").exception("redis:6379,password=%s", "s3cret")
    (line,) = told(lines)
    assert line["message"] == "redis:6379,password=***"
    assert line["error"].startswith("Traceback")
    assert "https://***@mlflow:5000/" in line["error"]
    assert "s3cret" not in lines.getvalue()
    assert "t0ken" not in lines.getvalue()


def test_libraries_are_heard_from_warnings_on(lines: io.StringIO) -> None:
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    logging.getLogger("prerank.x").debug("detail")
    assert [line["message"] for line in told(lines)] == ["trouble"]
