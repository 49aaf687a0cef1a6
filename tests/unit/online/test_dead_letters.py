"""An event that can never enter a history is set aside and holds up nobody."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
import pytest
from feast import FeatureStore
from tests.online_events import NewWriter, event, ids, wait_until

from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.online.dead_letters import DeadLetters, count_dead_letters, path_of
from prerank.online.journal import Journal
from prerank.online.writer import writer_of

YEAR_1, YEAR_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000
POISON: dict[str, tuple[Any, str]] = {
    "too early": ({**asdict(event(2, "bad")), "time": YEAR_1}, "time: "),
    "too late": ({**asdict(event(2, "bad")), "time": YEAR_10000}, "time: "),
    "unknown field": ({**asdict(event(2, "bad")), "colour": 1}, "colour: "),
    "missing field": ({"user_id": "bad"}, "action: "),
    "wrong type": ({**asdict(event(2, "bad")), "item_id": "five"}, "item_id: "),
    "too large": ({**asdict(event(2, "bad")), "item_id": 2**63}, "item_id: "),
    "no object": ([1, 2], "no JSON object"),
}


def letters(home: Home) -> list[dict[str, Any]]:
    path = path_of(home.journal)
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


@pytest.fixture
def picky(embedded: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A store that cannot take the events 666 and 667 of anybody, and takes all others."""
    push = embedded.push

    def refusing(source: str, frame: Any, **how: Any) -> None:
        if any({666, 667} & set(row) for row in frame["event_ids"]):
            raise ValueError("year 0 is out of range")
        push(source, frame, **how)

    monkeypatch.setattr(embedded, "push", refusing)
    return embedded


@pytest.mark.parametrize("what", POISON)
def test_a_journal_that_holds_what_is_no_event_is_replayed(
    home: Home, embedded: FeatureStore, new_writer: NewWriter, what: str
) -> None:
    record, reason = POISON[what]
    journal = Journal(home.journal / "writer-000.jsonl")
    journal.append([asdict(event(1)), record, asdict(event(3))])
    with new_writer(embedded) as writer:
        assert writer.replay() == 3
        assert ids(embedded) == [1, 3]
        assert writer.write([event(4)]).online
    (letter,) = letters(home)
    assert letter["record"] == record
    assert reason in letter["reason"]
    assert count_dead_letters(home) == 1


def test_a_record_is_set_aside_once_however_often_and_by_however_many_it_is_read(
    home: Home, embedded: FeatureStore, new_writer: NewWriter
) -> None:
    journal = Journal(home.journal / "writer-001.jsonl")
    journal.append([{**asdict(event(1, user)), "colour": 1} for user in ("ann", "bob", "cy")])
    for shards in (2, 3):
        for shard in range(shards):
            with new_writer(embedded, shard, shards) as writer:
                writer.replay()
    assert count_dead_letters(home) == 3


@pytest.mark.parametrize(
    ("change", "field"),
    [({"time": YEAR_1}, "time"), ({"time": 1.5}, "time"), ({"user_id": "\ud800"}, "user_id")],
)
def test_an_event_that_no_store_can_hold_is_refused_and_the_callers_beside_it_are_not(
    home: Home, embedded: FeatureStore, new_writer: NewWriter, change: dict[str, Any], field: str
) -> None:
    writer = new_writer(embedded)
    bad: Any = asdict(event(2)) | change
    with pytest.raises(DataError, match=f"^{field}: "):
        writer.write([event(1), type(event(1))(**bad)])
    assert writer.write([event(3)]).online
    assert ids(embedded) == [3]
    assert count_dead_letters(home) == 0


def test_one_bad_event_holds_up_neither_others_nor_its_user(
    home: Home, picky: FeatureStore, new_writer: NewWriter
) -> None:
    users = [f"user {i}" for i in range(40)]
    batch = [event(i, user) for i, user in enumerate(users)]
    writer = new_writer(picky)
    written = writer.write([*batch[:20], event(666, "user 7"), *batch[20:]])
    assert (written.accepted, written.online) == (41, True)
    assert [ids(picky, user) for user in users] == [[i] for i in range(40)]
    (letter,) = letters(home)
    assert letter["record"] == asdict(event(666, "user 7"))
    assert letter["reason"] == "ValueError: year 0 is out of range"
    writer.write([event(50, "user 7")])
    assert ids(picky, "user 7") == [7, 50]


def test_a_bad_event_that_comes_alone_is_told_from_a_store_that_is_away(
    home: Home, picky: FeatureStore, new_writer: NewWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = new_writer(picky)
    writer.write([event(666, "bad")])
    assert count_dead_letters(home) == 1
    with monkeypatch.context() as away:
        away.setattr(picky, "push", lambda *args, **how: 1 / 0)
        assert not writer.write([event(1), event(667, "bad")]).online
        assert count_dead_letters(home) == 1
    wait_until(lambda: ids(picky) == [1], "what was acknowledged did not come online")
    wait_until(lambda: count_dead_letters(home) == 2, "the bad event was not set aside")


def test_what_is_bad_for_the_store_is_found_at_a_restart_too(
    home: Home, picky: FeatureStore, new_writer: NewWriter
) -> None:
    journal = Journal(home.journal / "writer-000.jsonl")
    journal.append([asdict(event(666, "bad")), asdict(event(1))])
    with new_writer(picky) as writer:
        assert writer.replay() == 2
        assert writer.replay() == 0
    assert (ids(picky), ids(picky, "bad"), count_dead_letters(home)) == ([1], [], 1)
    assert writer_of("bad", 1) == 0


def test_old_letters_are_forgotten(home: Home) -> None:
    dead = DeadLetters(home.journal)
    dead.add([({"n": 1}, "why")])
    at = letters(home)[0]["at"]
    dead.forget(at)
    assert count_dead_letters(home) == 1
    dead.forget(at + 1)
    assert count_dead_letters(home) == 0
