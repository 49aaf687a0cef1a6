"""What unit tests of several rooms need."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from prerank.core.logs import json_lines


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is written while the process logs as JSON; afterwards it logs as before."""
    stream, ours = io.StringIO(), logging.getLogger("prerank")
    level = ours.level
    handler = json_lines(lambda: "7", stream)
    yield stream
    logging.getLogger().removeHandler(handler)
    ours.setLevel(level)
