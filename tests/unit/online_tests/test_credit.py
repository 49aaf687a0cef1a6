"""Which request and variant an event is of, and why some are of none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.served_files import START, answer, event, write_answers, write_events

from prerank.core.errors import DamagedError, DataError
from prerank.core.home import Home
from prerank.core.served import REQUESTS, requests_folder
from prerank.online_tests.credit import Credited, Period, credit

ACTIONS = ("click", "save")
OF_BEFORE = REQUESTS.names.index("latency_ms")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


def read(home: Home, period: Period | None = None) -> Credited:
    return credit(home, "test", ACTIONS, period or Period())


def of_users(found: Credited, *columns: str) -> dict[tuple[str, str], tuple[float, ...]]:
    return {
        (row["variant"], row["who"]): tuple(row[column] for column in columns)
        for row in found.users.to_dict("records")
    }


def test_each_event_that_is_not_credited_has_its_reason(home: Home) -> None:
    write_answers(
        home,
        [
            answer("r1", "u1", "control"),
            answer("r2", "u2", "treatment"),
            answer("r3", "u3", None),
        ],
    )
    write_events(
        home,
        [
            event("r1", "u1"),
            event("r1", "u1"),
            event(None, "u1", "2"),
            event("r9", "u1"),
            event("r1", "u2"),
            event("r2", "u2", at=START + timedelta(hours=25)),
            event("r3", "u3"),
            '{"request_id": "r1", "user',
        ],
    )
    found = read(home)
    assert found.events == {
        "credited": 1,
        "duplicated": 1,
        "without a request": 1,
        "of an unknown request": 1,
        "of another user": 1,
        "late": 1,
        "of no request of the experiment": 1,
        "exposure": 0,
        "unreadable": 1,
    }
    assert of_users(found, "requests", "fulfilled", "engagements") == {
        ("control", "u1"): (1, 1, 1),
        ("treatment", "u2"): (1, 0, 0),
    }


def test_exposure_is_no_engagement(home: Home) -> None:
    write_answers(home, [answer("r1", "u1", "control")])
    write_events(home, [event("r1", "u1", action="impression", event_id="i")])
    found = read(home)
    assert (found.events["exposure"], found.events["credited"]) == (1, 0)


def test_an_event_is_of_its_requests_variant_whatever_its_user_has_by_now(home: Home) -> None:
    later = START + timedelta(minutes=5)
    write_answers(
        home,
        [
            answer("r1", "u1", "control"),
            answer("r2", "u1", "treatment", request_time=later),
        ],
    )
    write_events(home, [event("r1", "u1", at=later + timedelta(minutes=1))])
    assert of_users(read(home), "fulfilled") == {("control", "u1"): (1,), ("treatment", "u1"): (0,)}


def test_requests_are_counted_once_and_each_action_by_request(home: Home) -> None:
    # The caller tried again.
    again = answer("r1", "u1", "treatment", request_time=START + timedelta(seconds=1))
    write_answers(home, [answer("r1", "u1", "control"), again, answer("r2", "u1", "control")])
    write_events(
        home,
        [
            event("r1", "u1", "1"),
            event("r1", "u1", "2"),
            event("r1", "u1", "2", action="save", event_id="s"),
        ],
    )
    found = read(home)
    columns = "requests", "fulfilled", "engagements", "did click", "did save"
    assert of_users(found, *columns) == {("control", "u1"): (2, 1, 3, 1, 1)}


def test_who_is_not_known_is_a_user_per_request(home: Home) -> None:
    write_answers(home, [answer(f"r{n}", "", "control") for n in range(3)])
    assert found_users(read(home)) == {"request r0", "request r1", "request r2"}


def found_users(found: Credited) -> set[str]:
    return set(found.users["who"])


def test_points_go_to_the_team_whose_item_it_is(home: Home) -> None:
    rows = [
        answer(f"r{n}", f"u{n}", "treatment", mode="interleave", teams=[1, 0, 0]) for n in range(4)
    ]
    write_answers(home, [*rows, answer("r9", "u9", "control", mode="interleave")])
    write_events(
        home,
        [
            event("r0", "u0", "1"),
            event("r1", "u1", "2"),
            event("r1", "u1", "2", action="save", event_id="saved too"),
            event("r2", "u2", "1"),
            event("r2", "u2", "3"),
            # Of something that was not in the answer.
            event("r3", "u3", "77"),
            event("r9", "u9", "1"),
        ],
    )
    found = read(home).drafts[["who", "requests", "won", "lost"]].itertuples(index=False)
    assert {who: (requests, won, lost) for who, requests, won, lost in found} == {
        "u0": (1, 1, 0),
        "u1": (1, 0, 1),
        "u2": (1, 0, 0),
        "u3": (1, 0, 0),
    }


def test_a_period_bounds_the_requests_and_not_their_events(home: Home) -> None:
    hour = timedelta(hours=1)
    write_answers(
        home,
        [answer(f"r{n}", "u", "control", request_time=START + n * hour) for n in range(3)],
    )
    write_events(home, [event(f"r{n}", "u", at=START + (n + 2) * hour) for n in range(3)])
    found = read(home, replace(Period(), since=START + hour, until=START + 2 * hour))
    assert of_users(found, "requests", "fulfilled") == {("control", "u"): (1, 1)}
    assert found.events["of no request of the experiment"] == 2


def test_files_of_before_are_read_with_those_of_now(home: Home) -> None:
    old = REQUESTS.empty_table().select(REQUESTS.names[:OF_BEFORE]).schema
    plain = {k: v for k, v in answer("r0", "u0", None).items() if k in old.names}
    for name in "0z":
        write_answers(home, [plain | {"request_id": f"old-{name}"}], name, old)
    write_answers(home, [answer("r1", "u1", "control")], "m")
    write_events(home, [event("old-0", "u0"), event("r1", "u1")])
    found = read(home)
    assert of_users(found, "fulfilled") == {("control", "u1"): (1,)}
    assert found.events["of no request of the experiment"] == 1


def test_an_experiment_that_is_not_there_names_those_that_are(home: Home) -> None:
    write_answers(home, [answer("r1", "u1", "control", experiment="other")])
    with pytest.raises(DataError, match=r"'test' is in the served log.*there are those of: other"):
        read(home)
    with pytest.raises(DataError, match="log_share"):
        read(Home.at(home.root / "none"))


def test_a_damaged_file_is_named(home: Home) -> None:
    write_answers(home, [answer("r1", "u1", "control")])
    (file,) = requests_folder(home).glob("day=*/*.parquet")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DamagedError, match=file.name):
        read(home)
