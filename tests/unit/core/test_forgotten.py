"""Users are known by a salted hash alone, in one home, and by their own id."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from prerank.core.errors import DamagedError
from prerank.core.forgotten import Following, Forgotten, path_of, remember
from prerank.core.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "home").mkdir()
    return Home.at(tmp_path / "home")


def test_nobody_is_forgotten_where_nobody_was(home: Home) -> None:
    nobody = Forgotten.of(home)
    assert not nobody
    assert "" not in nobody
    assert not nobody.named_in({"user_id": "u1"})
    assert nobody.rows(pa.array(["u1", None])) == []


def test_the_file_holds_no_id_and_hashes_differ_between_homes(home: Home, tmp_path: Path) -> None:
    other = Home.at(tmp_path)
    ours, theirs = remember(home, {"user-1"}), remember(other, {"user-1"})
    assert "user-1" not in path_of(home).read_text()
    assert ours.hashes != theirs.hashes
    assert "user-1" in Forgotten.of(home)
    assert "user-2" not in Forgotten.of(home)
    assert "user-1 " not in Forgotten.of(home)


def test_users_are_added_and_those_of_before_stay(home: Home) -> None:
    remember(home, {"a"})
    before = path_of(home).read_bytes()
    assert remember(home, {"a"}).hashes == Forgotten.of(home).hashes
    assert path_of(home).read_bytes() == before, "what is known is not written again"
    assert len(remember(home, {"b"}).hashes) == 1
    assert {"a", "b"} <= {u for u in ("a", "b", "c") if u in Forgotten.of(home)}
    assert "c" not in Forgotten.of(home)


def test_rows_of_a_column(home: Home) -> None:
    remember(home, {"b", "ü\ud800"})
    users = pa.chunked_array([["a", "b"], [None, "b", "c"]])
    assert Forgotten.of(home).rows(users) == [1, 3]
    assert "ü\ud800" in Forgotten.of(home)


def test_a_record_is_of_its_user_and_a_text_of_every_word(home: Home) -> None:
    remember(home, {"7", "ann@example.org"})
    them = Forgotten.of(home)
    assert them.named_in({"user_id": "7", "item_id": 1})
    assert not them.named_in({"user_id": "8", "item_id": "7"})
    assert them.named_in('{"user": "ann@example.org", "tor')
    assert them.mentioned_in("r1,ann@example.org;x")
    assert not them.mentioned_in("joann@example.org")


def test_who_follows_sees_those_who_are_forgotten_later(home: Home) -> None:
    follows = Following(home)
    assert "a" not in follows.now()
    remember(home, {"a"})
    assert "a" in follows.now()
    assert follows.now() is follows.now()


def test_a_damaged_file_is_no_empty_one(home: Home) -> None:
    path_of(home).write_text("{")
    with pytest.raises(DamagedError, match=r"forgotten\.json is damaged"):
        Forgotten.of(home)
    path_of(home).write_text('{"salt": 5}')
    with pytest.raises(DamagedError, match="does not say who"):
        Forgotten.of(home)
