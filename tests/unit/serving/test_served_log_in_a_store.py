"""The served log with the home in an object store: what is sent there, when, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.object_stores import Nodes, in_child, nodes, watched
from tests.served_logs import EVENT, ITEMS, events_of, requests_of, send, served

from prerank.core.forgotten import remember
from prerank.core.home import Home
from prerank.core.served import (
    events_folder,
    requests_folder,
)
from prerank.serving.http import HttpApi


def test_another_node_reads_what_was_written_down_in_a_store(tmp_path: Path) -> None:
    with nodes(tmp_path) as store:
        with store.node("replica") as home:
            api, log = served(home)
            send(api, "/v1/prerank", {"user_id": "u", "query": "q", "candidates": ITEMS, "k": 1})
            send(api, "/v1/events", {"events": [EVENT]})
            assert store.objects() == set(), "a request waited for the store"
            log.close()
            assert not [*home.served.rglob("*.parquet"), *home.served.rglob("*.jsonl")]
            seen(home)
            written = requests_of(home), events_of(home)
            # What comes after a file was sent goes to another one.
            send(api, "/v1/events", {"events": [EVENT | {"item_id": 2}]})
            log.close()
            assert len(written[0]) == len(written[1]) == 1
        with store.node("other") as home:
            seen(home)
            assert requests_of(home) == written[0]
            assert [line["item_id"] for line in events_of(home)] == ["1", "2"]


def test_events_that_a_store_does_not_take_are_sent_later(tmp_path: Path) -> None:
    def away(what: str, path: str) -> None:
        raise OSError("503 Slow Down")

    with nodes(tmp_path) as store, store.node("replica") as home:
        api, log = served(home)
        send(api, "/v1/events", {"events": [EVENT]})
        with watched(away):
            log.close()
        assert "503 Slow Down" in log.problem
        assert log.lost == {"answers": 0, "events": 0}
        assert store.objects() == set()
        log.close()
        assert len(store.objects()) == 1


def seen(home: Home) -> None:
    home.look(requests_folder(home), events_folder(home), deep=True)


def of_both(api: HttpApi) -> None:
    """An answer and an event of two users."""
    for user in ("u7", "u8"):
        body = {"user_id": user, "query": "q", "candidates": ITEMS, "request_id": f"r-{user}"}
        send(api, "/v1/prerank", body)
    send(api, "/v1/events", {"events": [EVENT | {"user_id": user} for user in ("u7", "u8")]})


def users_in(store: Nodes) -> set[str]:
    with store.node("reader") as home:
        seen(home)
        return {row["user_id"] for row in [*requests_of(home), *events_of(home)]}


@pytest.mark.parametrize("when", ["before it is sent", "while it is sent", "before it dies"])
def test_a_user_who_is_forgotten_on_another_node_is_not_sent(tmp_path: Path, when: str) -> None:
    done = False

    def forget(what: str = "write", path: str = "served/") -> None:
        nonlocal done
        if not done and what == "write" and "served/" in path:
            done = True
            assert in_child(lambda: forget_on(store)) == 0

    def forget_on(store: Nodes) -> None:
        with store.node("other") as other:
            remember(other, {"u7"})

    with nodes(tmp_path) as store, store.node("replica") as home:
        api, log = served(home)
        of_both(api)
        if when == "while it is sent":
            with watched(forget):
                log.close()
        elif when == "before it is sent":
            forget()
            log.close()
        else:
            # Its answers wait in memory, and are lost with it; its events are on its node.
            forget()
            home.look()
            left = [p.read_text() for p in home.served.rglob(".*.jsonl")]
            assert ["u8" in text and "u7" not in text for text in left] == [True]
        if when != "before it dies":
            assert users_in(store) == {"u8"}
        # What comes later, in this process too.
        of_both(api)
        log.close()
        assert users_in(store) == {"u8"}


def test_a_file_in_which_nobody_is_left_is_not_sent(tmp_path: Path) -> None:
    with nodes(tmp_path) as store, store.node("replica") as home:
        api, log = served(home)
        send(api, "/v1/events", {"events": [EVENT]})
        remember(home, {"u"})
        log.close()
        assert store.objects() == {"forgotten.json"}
        assert not [p for p in home.served.rglob("*") if p.is_file()]
