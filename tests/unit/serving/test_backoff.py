"""What failed is tried again later and later, and at once when it changed."""

from __future__ import annotations

from prerank.serving.backoff import LONGEST_SECONDS, BackOff


def test_the_wait_doubles_up_to_a_minute() -> None:
    back_off, now, waits = BackOff(4.0), 100.0, []
    for _ in range(7):
        back_off.failed("version 3", now, "no index")
        began = now
        while back_off.reason_to_wait("version 3", now):
            now += 1.0
        waits.append(now - began)
    assert waits == [4, 8, 16, 32, 60, 60, 60]
    assert LONGEST_SECONDS == 60


def test_the_reason_is_kept_while_it_waits() -> None:
    back_off = BackOff(4.0)
    assert back_off.reason_to_wait("version 3", 0.0) == ""
    back_off.failed("version 3", 0.0, "no index")
    assert back_off.reason_to_wait("version 3", 3.9) == "no index"
    assert back_off.reason_to_wait("version 3", 4.0) == ""


def test_what_changed_is_tried_at_once_and_starts_over() -> None:
    back_off = BackOff(4.0)
    for now in (0.0, 4.0):
        back_off.failed(("version 3", "no index"), now, "no index")
    assert back_off.reason_to_wait(("version 3", "an index"), 5.0) == ""
    back_off.failed(("version 3", "an index"), 5.0, "other features")
    assert back_off.reason_to_wait(("version 3", "an index"), 8.9) == "other features"
    assert back_off.reason_to_wait(("version 3", "an index"), 9.0) == ""
