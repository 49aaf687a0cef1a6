"""The wall clock jumps: what was acknowledged is neither lost nor held up.

Nobody but root may set a clock, so the tests put another one in place of ``time.time``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from feast import FeatureStore
from tests.online_events import NewWriter, event, ids, wait_until

from prerank.core.home import Home
from prerank.online.logs import acknowledged_events

HOUR_S, YEAR_S = 3_600.0, 365 * 86_400.0
JUMPS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, -YEAR_S])


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the wall clock, and leaves the monotonic one."""
    real, by = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + by[0])

    def jumped(seconds: float) -> None:
        by[0] += seconds

    return jumped


@JUMPS
def test_a_live_writer_goes_on(
    home: Home,
    store: FeatureStore,
    new_writer: NewWriter,
    jump: Callable[[float], None],
    jump_s: float,
) -> None:
    writer = new_writer(store)
    assert writer.write([event(1)]).online
    jump(jump_s)
    assert writer.write([event(2)]).online
    assert ids(store) == [1, 2]
    assert [e.event_id for batch in acknowledged_events(home) for e in batch] == [1, 2]


@JUMPS
def test_the_next_writer_reads_what_was_acknowledged_before_and_after(
    store: FeatureStore, new_writer: NewWriter, jump: Callable[[float], None], jump_s: float
) -> None:
    for n in (1, 2, 3):
        with new_writer(store) as writer:
            writer.write([event(n)])
        jump(jump_s)
    with new_writer(store) as writer:
        writer.start()
        wait_until(lambda: writer.write([event(4)]).online, "the writer is behind its journal")
    assert ids(store) == [1, 2, 3, 4]
